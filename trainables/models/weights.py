"""Pretrained weights from a file: read without running anything in it, brought into timm's layout, checked strictly."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from timm.models import swin_transformer_v2, vision_transformer
from torch import Tensor

from trainables.config import ConfigError
from trainables.files import first_line

Transformer = vision_transformer.VisionTransformer | swin_transformer_v2.SwinTransformerV2


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, bare of the wrappings of training; nothing in it is executed."""
    try:
        if str(path).endswith(".safetensors"):
            return _bare(safetensors.torch.load_file(path))
        scripted = False
        if zipfile.is_zipfile(path):  # by the sign that torch itself goes by; OpenAI's ViT-B-32.pt is such a program
            with zipfile.ZipFile(path) as archive:
                scripted = any(Path(name).name == "constants.pkl" for name in archive.namelist())
        state = None if scripted else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds, none of them of use to the user
        raise ConfigError(f"`weights` {path} is corrupt or no weights file ({first_line(error)[:120]})") from error
    if scripted:
        raise ConfigError(
            f"`weights` {path} is a TorchScript program, which would have to be run: convert it once with "
            f"torch.save(torch.jit.load({str(path)!r}, map_location='cpu').state_dict(), 'weights.pt')"
        )
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ConfigError(f"`weights` {path} must hold a dictionary of named tensors, but holds {type(state).__name__}")
    return _bare(state)


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix of parallel training, and in float32: OpenAI's weights are half precision."""
    return {k.removeprefix("module."): v.float() if v.is_floating_point() else v for k, v in state.items()}


@contextlib.contextmanager
def downloading(name: str, file: str) -> Iterator[None]:
    """Raise ConfigError where the body cannot have ``file`` from the hub: whatever the hub's client raises, what the
    user can do is the same."""
    try:
        yield
    except Exception as error:
        raise ConfigError(
            f"the weights of {name} could not be downloaded ({type(error).__name__}): get {file} from the Hugging Face "
            "hub on another machine and pass it as `weights`, or start from random `weights`"
        ) from error


def fit_to(model: Transformer, state: dict[str, Tensor], name: str, weights: str | Path | None) -> dict[str, Tensor]:
    """``state`` in the layout of ``model``, complete and of equal shapes, or a ConfigError naming the first misfits.
    timm's own conversion reads its, open_clip's, OpenAI's and Microsoft's layouts, and resamples position embeddings.
    """
    expected = tuple(model.patch_embed.proj.weight.shape)
    # timm would silently resample another patch size, which is another architecture.
    misfit = [
        f"{k} has shape {tuple(v.shape)}, expected {expected}"
        for k, v in state.items()
        if k.endswith(("patch_embed.proj.weight", "visual.conv1.weight")) and v.shape[2:] != expected[2:]
    ]
    if not misfit:
        with contextlib.suppress(Exception):  # a foreign layout; the comparison below says how it differs
            is_swin = isinstance(model, swin_transformer_v2.SwinTransformerV2)
            state = (swin_transformer_v2 if is_swin else vision_transformer).checkpoint_filter_fn(state, model)
        state = {k: v for k, v in state.items() if not k.startswith(("head.", "fc_norm."))}
        misfit = misfits(model.state_dict(), state)
    refuse(misfit, name, weights)
    return state


def misfits(expected: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """One clause a tensor in which ``state`` differs from ``expected``: other shapes, then missing, then unknown."""
    shapes = [
        f"{k} has shape {tuple(state[k].shape)}, expected {tuple(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    missing = [f"{k} is missing" for k in expected if k not in state]
    return shapes + missing + [f"{k} is unknown" for k in state if k not in expected]


def refuse(misfits: list[str], name: str, weights: str | Path | None) -> None:
    """Raise ConfigError with the first three of ``misfits`` and the number of the others, if there are any."""
    if misfits:
        more = f"; and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise ConfigError(f"weights {weights} do not fit {name}: {'; '.join(misfits[:3])}{more}")
