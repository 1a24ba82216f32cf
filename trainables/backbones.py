"""BACKBONES: pretrained timm vision transformers, their weights, normalisation and a fresh head."""

import contextlib
import copy
import hashlib
import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from trainables import nano
from trainables.config import ConfigError, TrainConfig, lookup
from trainables.seeds import seed_for
from trainables.store import cache_folder, replace_atomically

HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Backbone:
    """One row of BACKBONES: ``mean`` and ``std`` belong to [0, 1] RGB, ``tag`` to timm's hub ("" is made here)."""

    about: str
    tag: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int


BACKBONES = {
    "vit_nano": Backbone("demo transformer, pretrained here on handwritten digits", "", HALF, HALF, 16),
    "vit_tiny_patch16_224": Backbone("ViT-Ti/16, ImageNet-21k then 1k", "augreg_in21k_ft_in1k", HALF, HALF, 224),
    "vit_base_patch32_clip_224": Backbone("CLIP ViT-B/32 image tower", "laion2b", CLIP_MEAN, CLIP_STD, 224),
}


def create(name: str, image_size: int) -> nn.Module:
    """The bare transformer with random weights and no head; it takes float ``[n, 3, image_size, image_size]``."""
    lookup(BACKBONES, name, "backbone")
    if name == "vit_nano":
        if image_size != BACKBONES[name].image_size:
            raise ConfigError(f"`image_size = 16` must hold for vit_nano, but got image_size={image_size}")
        return nano.vit_nano()
    model = timm.create_model(name, num_classes=0, img_size=image_size)
    patch = model.patch_embed.patch_size[0]
    if image_size % patch:  # timm would leave the pixels at the right and lower edge unseen
        raise ConfigError(f"`image_size` must be a multiple of {name}'s patch of {patch}, but got {image_size}")
    return model


def weights_file(name: str, weights: str | Path | None) -> Path | None:
    """The local file that ``load`` will read: the user's, vit_nano's cached one (made here in about 20 s if it is
    missing), or None, which stands for timm's hub."""
    if weights is not None:
        if not Path(weights).is_file():
            raise ConfigError(f"--weights must be a file, but {weights} does not exist")
        return Path(weights)
    if name != "vit_nano":
        return None
    path = nano_file()
    if not path.exists():
        state = {k: v.contiguous() for k, v in nano.pretrain().items()}
        replace_atomically(path, lambda temporary: safetensors.torch.save_file(state, temporary))
    return path


def nano_file() -> Path:
    """Where vit_nano's weights lie once they are made."""
    return cache_folder() / f"vit_nano-{_nano_version()}.safetensors"


def _nano_version() -> str:
    """Changes with anything that the weights depend on: the recipe's code and torch itself."""
    from trainables.prepare import digits

    code = Path(nano.__file__).read_bytes() + Path(digits.__file__).read_bytes() + torch.__version__.encode()
    return hashlib.sha256(code).hexdigest()[:10]


@lru_cache(maxsize=1)
def load(name: str, image_size: int, weights: str | None) -> nn.Module:
    """The pretrained transformer without a head, kept in memory: never changed, only copied (``fresh_model``).

    ``weights`` is a safetensors or torch file in timm's or open_clip's layout; None asks ``weights_file``, then timm's
    hub. Position embeddings are resampled to ``image_size``. Raises ConfigError where the file is corrupt or misfits.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's stream must not depend on whether the cache has the model
        return _load(name, image_size, weights)


def _load(name: str, image_size: int, weights: str | None) -> nn.Module:
    model = create(name, image_size)
    weights = weights or weights_file(name, None)
    if not weights:
        return _download(name, image_size).eval()
    model.load_state_dict(_fit_to(model, _read(weights), name, weights), strict=True)
    return model.eval()


def fresh_model(config: TrainConfig, n_classes: int, weights: str | None) -> nn.Module:
    """A copy of the pretrained transformer with a new linear head (stream (seed, "head")), not yet adapted."""
    model = copy.deepcopy(load(config.backbone, config.image_size, weights))
    generator = torch.Generator().manual_seed(seed_for(config.seed, "head"))
    model.head = nn.utils.skip_init(nn.Linear, model.num_features, n_classes)  # draws nothing from the global stream
    nn.init.trunc_normal_(model.head.weight, std=0.02, generator=generator)
    nn.init.zeros_(model.head.bias)
    return model


def _read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file; nothing in it is executed."""
    try:
        if str(path).endswith(".safetensors"):
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds, none of them of use to the user
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"--weights {path} is corrupt or no weights file ({reason[:120]})") from error
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ConfigError(f"--weights {path} must hold a dictionary of named tensors, but holds {type(state).__name__}")
    return state


def _download(name: str, image_size: int) -> nn.Module:
    """The transformer with the weights of timm's hub, through timm's own loading code."""
    tagged = f"{name}.{BACKBONES[name].tag}"
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries would bury the one line below
    try:
        return timm.create_model(tagged, pretrained=True, num_classes=0, img_size=image_size)
    except Exception as error:  # whatever the hub's client raises, what the user can do is the same
        raise ConfigError(
            f"the weights of {name} could not be downloaded ({type(error).__name__}): get the safetensors file of "
            f"timm/{tagged} from the Hugging Face hub on another machine and pass it with --weights FILE"
        ) from error


def _fit_to(model: nn.Module, state: dict[str, Tensor], name: str, weights: str) -> dict[str, Tensor]:
    """``state`` in the layout of ``model``, complete and of equal shapes, or a ConfigError naming the first misfits."""
    if "input_resolution" in state:
        raise ConfigError(
            f"weights {weights} are OpenAI's, whose quickgelu activation {name} lacks: take LAION's weights"
        )
    state = {k.removeprefix("module."): v for k, v in state.items()}
    misfits = _patch_misfit(model, state)
    if not misfits:
        with contextlib.suppress(Exception):  # a foreign layout; the comparison below says how it differs
            state = checkpoint_filter_fn(state, model)
        state = {k: v for k, v in state.items() if not k.startswith(("head.", "fc_norm."))}
        misfits = _misfits(model.state_dict(), state)
    if misfits:
        more = f"; and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise ConfigError(f"weights {weights} do not fit {name}: {'; '.join(misfits[:3])}{more}")
    return state


def _patch_misfit(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """timm would silently resample another patch size, which is another architecture."""
    expected = tuple(model.patch_embed.proj.weight.shape)
    patches = {
        k: tuple(v.shape) for k, v in state.items() if k.endswith(("patch_embed.proj.weight", "visual.conv1.weight"))
    }
    return [f"{k} has shape {shape}, expected {expected}" for k, shape in patches.items() if shape[2:] != expected[2:]]


def _misfits(expected: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    shapes = [
        f"{k} has shape {tuple(state[k].shape)}, expected {tuple(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    missing = [f"{k} is missing" for k in expected if k not in state]
    return shapes + missing + [f"{k} is unknown" for k in state if k not in expected]


def fingerprint(path: str | os.PathLike | None) -> str:
    """sha256 of a weights file, for the record; "" for the hub."""
    if not path:
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
