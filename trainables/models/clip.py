"""CLIP through open_clip: both towers from hub or file, the check that weights and activation belong together, and the
zero-shot head: each class's row starts as the text tower's embedding of its name in 80 sentences.

OpenAI trained CLIP with quickgelu, x · sigmoid(1.702 x), everybody else with gelu: the wrong pairing has the same names
and shapes, loads without an error and is wrong by 2 % of the features. The head's features stay normalised: a linear
layer with the scale folded in would have the same argmax, but another loss.
"""

import hashlib
import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import ConfigError
from trainables.files import cache_folder, save_safetensors
from trainables.models.backbones import RANDOM, Backbone, fingerprint
from trainables.models.weights import downloading, misfits, read, refuse
from trainables.seeds import seed_for

CLASSES_A_BATCH = 10  # 800 sentences at once
TOWERS = ("visual.proj", "token_embedding.weight", "logit_scale")  # one tensor of each part that the head is made of
OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}  # only OpenAI's own files carry them


def state_dict(name: str, row: Backbone, weights: str | Path | None) -> dict[str, Tensor]:
    """Every tensor of the backbone ``name``, in open_clip's layout from the hub (``weights`` None) and for random
    weights, else in the file's. Raises ConfigError if the hub is out of reach, or the weights were trained with another
    activation than the row's."""
    if weights is None:
        return _download(name, row)
    if weights == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(0, "weights", name))
            return build(row).state_dict()
    state = read(weights)
    sign = _quickgelu_sign(state, Path(weights))
    if sign and not row.quick_gelu:
        raise ConfigError(
            f"weights {weights} are OpenAI's, whose quickgelu activation {name} lacks ({sign}): "
            "take backbone=clip_b32_openai, or LAION's weights"
        )
    if row.quick_gelu and not sign:
        raise ConfigError(
            f"weights {weights} show no sign that they are OpenAI's, and {name} would be wrong with any others: "
            "put their open_clip_config.json beside the file, or take backbone=clip_b32"
        )
    return state


def build(row: Backbone, **options: Any) -> nn.Module:
    """open_clip's model of both towers; random weights from the global stream unless ``pretrained`` names a tag."""
    import open_clip  # takes seconds, and only CLIP needs it

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # open_clip logs to the root logger, and would install a handler there
    try:
        return open_clip.create_model(row.clip, **options).eval()
    finally:
        logging.disable(before)


def published(row: Backbone) -> dict[str, Any]:
    """What open_clip says of the row's weights: ``hf_hub``, their repository, and ``quick_gelu``."""
    import open_clip

    return open_clip.get_pretrained_cfg(row.clip, row.tag)


def _download(name: str, row: Backbone) -> dict[str, Tensor]:
    about = published(row)
    if bool(about.get("quick_gelu")) != row.quick_gelu:
        raise ConfigError(
            f"open_clip says that {row.clip} {row.tag} has another activation than {name}: pass a file as `weights`"
        )
    beside, repository = ", and open_clip_config.json beside it," * row.quick_gelu, about["hf_hub"].rstrip("/")
    with downloading(name, f"open_clip_model.safetensors{beside} of {repository}"):
        return build(row, pretrained=row.tag).state_dict()


def _quickgelu_sign(state: dict[str, Tensor], path: Path) -> str:
    """What shows that the weights were trained with quickgelu; "" if nothing does."""
    if own_keys := OPENAI_KEYS & state.keys():
        return f"they hold {min(own_keys)}"
    model = _json(path.with_name("open_clip_config.json")).get("model_cfg")
    if isinstance(model, dict) and model.get("quick_gelu") is True:
        return "open_clip_config.json beside them says quick_gelu"
    if "quickgelu" in str(_json(path.with_name("config.json")).get("architecture")):
        return "config.json beside them says quickgelu"
    return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):  # absent, or not what its name says
        return {}
    return content if isinstance(content, dict) else {}


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


def attach_zeroshot(model: nn.Module, parts: dict[str, Tensor]) -> None:
    """Give timm's CLIP transformer the projection and the head of ``zeroshot_parts``, in place. The projection belongs
    to the body, as ``fc_norm``: timm calls that between pooling and head, and it is empty in CLIP's towers."""
    embed, width = parts["projection"].shape
    model.fc_norm = nn.Linear(width, embed, bias=False, device="meta")
    model.fc_norm.weight = nn.Parameter(parts["projection"].detach().clone())
    model.head = ZeroshotHead(parts["weight"], parts["scale"])


def zeroshot_shapes(row: Backbone, width: int, n_classes: int) -> dict[str, Tensor]:
    """What ``zeroshot_parts`` returns, in shapes alone: nothing is read and nothing is computed."""
    import open_clip

    embed = open_clip.get_model_config(row.clip)["embed_dim"]
    shapes = {"projection": (embed, width), "weight": (n_classes, embed), "scale": ()}
    return {name: torch.empty(shape) for name, shape in shapes.items()}


@lru_cache(maxsize=1)
def zeroshot_parts(name: str, row: Backbone, classes: tuple[str, ...], weights: str | None) -> dict[str, Tensor]:
    """``projection`` ``[embed, width]``, ``weight`` ``[classes, embed]`` of unit rows, and ``scale``; kept on disk.
    Raises ConfigError if ``weights`` lacks one of CLIP's two towers."""
    path = zeroshot_file(row, classes, weights)
    if not path.exists():
        save_safetensors(_encode(name, row, classes, weights), path)
    return safetensors.torch.load_file(path)


def zeroshot_file(row: Backbone, classes: tuple[str, ...], weights: str | None) -> Path:
    """Where ``zeroshot_parts`` lie once they are made: named by all that they depend on."""
    import open_clip

    version = [open_clip.__version__, hashlib.sha256(Path(__file__).read_bytes()).hexdigest()]
    key = [row.arch, row.clip, row.tag, fingerprint(weights), list(classes), version]
    return cache_folder() / f"zeroshot-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.safetensors"


def _encode(name: str, row: Backbone, classes: tuple[str, ...], weights: str | None) -> dict[str, Tensor]:
    import open_clip

    state = state_dict(name, row, weights)
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
        model = build(row, force_context_length=length)
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
