"""CLIP's zero-shot head: each class's row starts as the text tower's embedding of its name in 80 sentences.

The features stay normalised: a linear layer with the scale folded in would have the same argmax, but another loss."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import ConfigError
from trainables.files import cache_folder, save_safetensors
from trainables.models import clip
from trainables.models.backbones import Backbone, fingerprint
from trainables.models.weights import misfits, refuse

CLASSES_A_BATCH = 10  # 800 sentences at once
TOWERS = ("visual.proj", "token_embedding.weight", "logit_scale")  # one tensor of each part that the head is made of


class ZeroshotHead(nn.Module):
    """Projected features ``[n, embed]`` to logits ``[n, classes]``; ``weight`` ``[classes, embed]`` trains, ``scale``
    is CLIP's inverse temperature, fixed."""

    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # a scale of 100 would blow up bfloat16's rounding
            return F.linear(F.normalize(x.float(), dim=-1), self.weight) * self.scale


def attach(model: nn.Module, parts: dict[str, Tensor]) -> None:
    """Give timm's CLIP transformer the projection and the head of ``parts``, in place. The projection belongs to the
    body, as ``fc_norm``: timm calls that between pooling and head, and it is empty in CLIP's towers."""
    embed, width = parts["projection"].shape
    model.fc_norm = nn.Linear(width, embed, bias=False, device="meta")
    model.fc_norm.weight = nn.Parameter(parts["projection"].detach().clone())
    model.head = ZeroshotHead(parts["weight"], parts["scale"])


def skeleton(row: Backbone, width: int, n_classes: int) -> dict[str, Tensor]:
    """What ``parts`` returns, in shapes alone: nothing is read and nothing is computed."""
    import open_clip

    embed = open_clip.get_model_config(row.clip)["embed_dim"]
    shapes = {"projection": (embed, width), "weight": (n_classes, embed), "scale": ()}
    return {name: torch.empty(shape) for name, shape in shapes.items()}


@lru_cache(maxsize=1)
def parts(name: str, row: Backbone, classes: tuple[str, ...], weights: str | None) -> dict[str, Tensor]:
    """``projection`` ``[embed, width]``, ``weight`` ``[classes, embed]`` of unit rows, and ``scale``; kept on disk.
    Raises ConfigError if ``weights`` lacks one of CLIP's two towers."""
    path = cache_file(row, classes, weights)
    if not path.exists():
        save_safetensors(_encode(name, row, classes, weights), path)
    return safetensors.torch.load_file(path)


def cache_file(row: Backbone, classes: tuple[str, ...], weights: str | None) -> Path:
    """Where ``parts`` lie once they are made: named by all that they depend on."""
    import open_clip

    version = [open_clip.__version__, hashlib.sha256(Path(__file__).read_bytes()).hexdigest()]
    key = [row.arch, row.clip, row.tag, fingerprint(weights), list(classes), version]
    return cache_folder() / f"zeroshot-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.safetensors"


def _encode(name: str, row: Backbone, classes: tuple[str, ...], weights: str | None) -> dict[str, Tensor]:
    import open_clip

    state = clip.state_dict(name, row, weights)
    missing = [key for key in TOWERS if key not in state]
    if missing:
        raise ConfigError(
            f"head=zeroshot needs both of CLIP's towers, but weights {weights} lack {missing[0]}: "
            f"take open_clip's file of {row.clip} (open_clip_model.safetensors), or head=linear"
        )
    tokenizer = open_clip.get_tokenizer(row.clip)
    names = [text.replace("_", " ") for text in classes]
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    # Tokens up to the last end mark of any sentence, which has the largest number. The text tower is causal and reads
    # its features at the end mark, so that the padding behind it, two thirds of CLIP's 77 tokens and more, only costs.
    length = int(tokenizer([template(name) for name in names for template in templates]).argmax(dim=1).max()) + 1
    with torch.random.fork_rng(devices=[]):
        model = clip.build(row, force_context_length=length)
    expected = {k: v for k, v in model.state_dict().items() if not k.startswith("visual.")}
    text = {k: v for k, v in state.items() if k in expected}
    if "positional_embedding" in text:
        text["positional_embedding"] = text["positional_embedding"][:length]
    refuse(misfits(expected, text), name, weights)
    model.load_state_dict(text, strict=False)  # the image tower is timm's business
    embeddings = open_clip.build_zero_shot_classifier(
        model, lambda texts: tokenizer(texts)[:, :length], names, templates, CLASSES_A_BATCH
    )
    return {"projection": state["visual.proj"].T, "weight": embeddings.T, "scale": state["logit_scale"].exp()}
