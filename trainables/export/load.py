"""Loads an exported model: a folder with ``model.json`` and weights. Needs torch, timm, safetensors, numpy and Pillow.

    from PIL import Image
    from load import load, preprocess

    model = load()                                # base_weights="FILE" where the folder holds an adapter alone
    logits = model(preprocess(Image.open("photo.jpg"))[None])

To train an adapter on, take peft: ``PeftModel.from_pretrained(base(), folder, is_trainable=True)``. This file lies in
each export as ``load.py``.
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from timm.models import swin_transformer_v2, vision_transformer
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
FORMAT = 1
FACTS, WHOLE, BASE = "model.json", "model.safetensors", "base.safetensors"
ADAPTER, ADAPTER_CONFIG, PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."
# What model.json may say to timm: shapes alone, no addresses and no files.
OPTIONS = {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"}
OPTIONS |= {"window_size", "pretrained_window_sizes", "drop_path_rate"}
TOLERANCE = 1e-4  # of the largest logit: other processors round otherwise, other weights are far off


class ZeroshotHead(nn.Module):
    """CLIP's head: features ``[n, embed]`` are normalised, so that no linear layer is the same."""

    scale: Tensor

    def __init__(self, classes: int, embed: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, embed))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(F.normalize(x.float(), dim=-1), self.weight) * self.scale


class Adapted(nn.Module):
    """A linear layer with its low-rank update, scale · B A, beside it: in peft's order, so to the last bit."""

    def __init__(self, layer: nn.Linear, a: Tensor, b: Tensor, scale: float):
        super().__init__()
        self.layer, self.a, self.b, self.scale = layer, nn.Parameter(a), nn.Parameter(b), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + F.linear(F.linear(x, self.a), self.b) * self.scale


def load(folder: str | Path = HERE, base_weights: str | Path | None = None) -> nn.Module:
    """The model in evaluation mode: ``preprocess``ed images ``[n, 3, size, size]`` to logits ``[n, classes]``.

    ``base_weights`` is the file of pretrained weights that an adapter belongs to, where they are on no hub. Raises
    ValueError in one line where it is missing or another one, or where the logits are not those of the export.
    """
    facts = read_facts(folder)
    model, scale = _built(facts), 1.0
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    if facts["weights"] == "whole":
        state = load_file(Path(folder) / WHOLE)
    else:
        config = json.loads((Path(folder) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
        trained = {k.removeprefix(PREFIX): v for k, v in load_file(Path(folder) / ADAPTER).items()}
        for name in [k.removesuffix(".lora_A.weight") for k in trained if k.endswith(".lora_A.weight")]:
            pairs[name] = trained.pop(f"{name}.lora_A.weight"), trained.pop(f"{name}.lora_B.weight")
        state = _base_state(model, folder, facts, base_weights) | trained  # of which the head is left
    expected = {k: v.shape for k, v in model.state_dict().items()}
    wrong = sorted(k for k in expected.keys() | state.keys() if k not in state or expected.get(k) != state[k].shape)
    if wrong:
        raise ValueError(f"the weights of {folder} must fit its architecture, but {wrong[0]} does not")
    model.load_state_dict(state)
    for name, (a, b) in pairs.items():
        parent, _, last = name.rpartition(".")
        layer: Any = model.get_submodule(name)
        setattr(model.get_submodule(parent), last, Adapted(layer, a, b, scale))
    _check_probe(model.eval(), facts, folder)
    return model


def base(folder: str | Path = HERE, base_weights: str | Path | None = None) -> nn.Module:
    """The pretrained timm model under an adapter, for ``PeftModel.from_pretrained(base(), folder)``, which brings the
    head along."""
    facts = read_facts(folder)
    if facts["weights"] == "whole":
        raise ValueError(f"{folder} must hold an adapter, but holds a whole model: call load()")
    model = _built(facts)
    model.load_state_dict(_base_state(model, folder, facts, base_weights), strict=False)
    return model.eval()


def preprocess(image: Image.Image, folder: str | Path = HERE) -> Tensor:
    """float ``[3, size, size]``: upright, RGB, the centre square resized and rounded to 8 bits as in training, then
    normalised. Give it the image as it was opened: a large JPEG is decoded at a fraction of its size."""
    preprocessing = read_facts(folder)["preprocessing"]
    return normalised(torch.from_numpy(pixels(image, preprocessing)).permute(2, 0, 1), preprocessing)


def pixels(image: Image.Image, preprocessing: dict[str, Any]) -> np.ndarray:
    """uint8 ``[size, size, 3]``. ``preprocessing`` is the export's; its ``sizes`` are gone through one by one."""
    first, *others = preprocessing["sizes"]
    if not preprocessing["banner"]:
        image.draft("RGB", (2 * first, 2 * first))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip: all but the darkest 1/256 of the range would be white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if preprocessing["banner"]:
        image = image.crop((0, 0, image.width, max(1, image.height - preprocessing["banner"])))
    square = _square(image, first)
    for size in others:
        square = _square(Image.fromarray(square), size)
    return square


def normalised(images: Tensor, preprocessing: dict[str, Any]) -> Tensor:
    """uint8 ``[…, 3, size, size]`` to what the model takes."""
    mean, std = (torch.tensor(preprocessing[name])[:, None, None] for name in ("mean", "std"))
    return (images.float().div_(255) - mean) / std


def _square(image: Image.Image, size: int) -> np.ndarray:
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)))


def read_facts(folder: str | Path) -> dict[str, Any]:
    """``model.json``, checked as far as it reaches timm. Raises ValueError in one line."""
    path = Path(folder) / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version, name, options = facts["format"], facts["architecture"]["name"], facts["architecture"]["options"]
        sound = facts["weights"] in ("whole", "adapter") and facts["preprocessing"]["sizes"] and facts["classes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} must be an exported model with a sound {FACTS}, but: {error!r}") from error
    if version != FORMAT:
        raise ValueError(f"{path} must have format {FORMAT}, but has {version}: take the load.py that came with it")
    if not sound or not re.fullmatch("[a-z0-9_]+", name) or not timm.is_model(name) or set(options) - OPTIONS:
        raise ValueError(f"{path} must name an architecture of timm's and its shapes alone, but does not")
    return facts


def probe(size: int) -> Tensor:
    """One image ``[1, 3, size, size]`` that looks like noise and is the same on every machine."""
    return ((torch.arange(3 * size * size) * 7919 % 256).float() / 128 - 1).reshape(1, 3, size, size)


def _built(facts: dict[str, Any]) -> Any:
    """The architecture with its head, weights still random."""
    architecture, classes = facts["architecture"], len(facts["classes"])
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in architecture["options"].items()}
    embed = architecture["zeroshot"]
    model: Any = timm.create_model(architecture["name"], num_classes=0 if embed else classes, **options)
    if embed:  # timm calls ``fc_norm`` between pooling and head
        model.fc_norm = nn.Linear(model.num_features, embed, bias=False)
        model.head = ZeroshotHead(classes, embed)
    if facts["weights"] == "adapter":
        for module in model.modules():
            if hasattr(module, "qkv_bias_separate"):  # a Swin-v2 would read its qkv weight past any adapter around it
                module.qkv_bias_separate = True
    return model


def _base_state(
    model: nn.Module, folder: str | Path, facts: dict[str, Any], given: str | Path | None
) -> dict[str, Tensor]:
    """The pretrained weights without a head, in the layout and at the image size of ``model``."""
    path = _base_file(Path(folder), facts["base"], given)
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    for key in ("state_dict", "model"):
        state = state.get(key, state)
    state = {k.removeprefix("module."): v.float() if v.is_floating_point() else v for k, v in state.items()}
    is_swin = isinstance(model, swin_transformer_v2.SwinTransformerV2)
    state = (swin_transformer_v2 if is_swin else vision_transformer).checkpoint_filter_fn(state, model)
    return {k: v for k, v in state.items() if not k.startswith(("head.", "fc_norm."))}


def _base_file(folder: Path, about: dict[str, Any], given: str | Path | None) -> Path:
    if about["kind"] == "included":
        path = folder / BASE
    elif given is not None:
        path = Path(given)
    elif about["kind"] == "hub":
        path = _downloaded(about)
    else:
        raise ValueError(f"{folder} holds an adapter alone: pass base_weights, the file {_called(about)}")
    if not path.is_file():
        raise ValueError(f"base weights must be a file, but {path} is none")
    if about["sha256"] and _sha256(path) != about["sha256"]:
        raise ValueError(f"base weights must be {_called(about)}, but {path} is another file")
    return path


def _downloaded(about: dict[str, Any]) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(about["repository"], about["file"]))
    except Exception as error:  # whatever the hub's client raises, what the user can do is the same
        raise ValueError(
            f"{about['file']} of {about['repository']} could not be downloaded ({type(error).__name__}): "
            "get it from the Hugging Face hub on another machine and pass it as base_weights"
        ) from error


def _called(about: dict[str, Any]) -> str:
    return f"{about['file']} with sha256 {about['sha256'] or 'unknown'}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # hashlib.file_digest would want Python 3.11
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@torch.inference_mode()
def _check_probe(model: nn.Module, facts: dict[str, Any], folder: str | Path) -> None:
    """Other pretrained weights, or a library that computes otherwise, show in the logits of one image."""
    expected = torch.tensor(facts["probe"])
    off = (model(probe(facts["preprocessing"]["sizes"][-1]))[0] - expected).abs().max()
    if not off <= TOLERANCE * (1 + expected.abs().max()):
        raise ValueError(f"{folder} must give the logits that it was exported with, but is off by {off:.2g}")
