"""CLIP through open_clip: both towers from hub or file, and the check that weights and activation belong together.

OpenAI trained CLIP with quickgelu, x · sigmoid(1.702 x), everybody else with gelu: the wrong pairing has the same names
and shapes, loads without an error and is wrong by 2 % of the features.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import ConfigError
from trainables.models.backbones import RANDOM, Backbone
from trainables.models.weights import downloading, read
from trainables.seeds import seed_for

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
