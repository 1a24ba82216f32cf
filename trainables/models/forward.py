"""A model's forward pass, whole or in two parts: what the frozen blocks compute, and what follows them."""

from functools import lru_cache

import torch
from timm.models import VisionTransformer
from torch import Tensor

from trainables.config import TrainConfig
from trainables.models.backbones import BACKBONES
from trainables.models.weights import Transformer


def prefix(model: VisionTransformer, images: Tensor, m: int) -> Tensor:
    """Tokens ``[n, tokens, width]`` in front of the last ``m`` blocks, of normalised images ``[n, 3, size, size]``."""
    x = model.patch_drop(model._pos_embed(model.patch_embed(images)))
    return model.blocks[:-m](model.norm_pre(x))


def suffix(model: VisionTransformer, tokens: Tensor, m: int) -> Tensor:
    """Logits ``[n, classes]`` of what ``prefix`` gives: ``suffix(prefix(images))`` is ``model(images)`` to the bit."""
    return model.forward_head(model.norm(model.blocks[-m:](tokens)))


def normalised(images: Tensor, config: TrainConfig) -> Tensor:
    """Images float ``[n, 3, size, size]`` in [0, 1] as the backbone wants them."""
    mean, std = _statistics(config.backbone, images.device)
    return (images - mean) / std


@lru_cache(maxsize=4)
def _statistics(backbone: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[3, 1, 1]``, made once: on a GPU each new constant is a wait."""
    row = BACKBONES[backbone]
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (row.mean, row.std))
        return mean, std


def precision(config: TrainConfig, device: torch.device) -> torch.autocast:
    """The context of every forward pass: autocast where ``config.dtype`` asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")


def forward(model: Transformer, inputs: Tensor, config: TrainConfig) -> Tensor:
    """Logits ``[n, classes]`` of images float ``[n, 3, size, size]`` in [0, 1], or of what the frozen blocks have made
    of them already: tokens float ``[n, tokens, width]`` (``prefix_cache.py``)."""
    with precision(config, inputs.device):
        if inputs.ndim == 3 and isinstance(model, VisionTransformer):
            return suffix(model, inputs, config.last_blocks)
        return model(normalised(inputs, config))
