"""Pretrained transformers as timm models, their weights, and a fresh head."""

import copy
import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from trainables.config import TrainConfig, lookup
from trainables.files import cache_folder, save_safetensors
from trainables.models import clip, vit_nano, zeroshot
from trainables.models.backbones import BACKBONES, RANDOM, require_file, require_size, windows
from trainables.models.weights import Transformer, downloading, fit_to, read
from trainables.prepare import digits
from trainables.seeds import seed_for


def create(name: str, image_size: int, pretrained: bool = False) -> Transformer:
    """The bare transformer without a head; it takes float ``[n, 3, image_size, image_size]``. Its weights are random,
    or ``pretrained``: those of timm's hub, through timm's own loading code."""
    row = lookup(BACKBONES, name, "backbone")
    require_size(name, image_size)
    if name == "vit_nano":
        return vit_nano.vit_nano()
    arch, options = f"{row.arch}.{row.tag}" if pretrained else row.arch, windows(row, image_size)
    model: Any = timm.create_model(arch, pretrained=pretrained, num_classes=0, img_size=image_size, **options)
    return model


def weights_file(name: str, weights: str | Path | None) -> str | Path | None:
    """What ``load`` will read: the user's file, "random", vit_nano's cached file (made here in about 20 s if it is
    missing), or None, which stands for the hub."""
    require_file(weights)
    if weights is not None:
        return RANDOM if weights == RANDOM else Path(weights)
    if name != "vit_nano":
        return None
    path = nano_file()
    if not path.exists():
        save_safetensors(vit_nano.pretrain(), path)
    return path


def nano_file() -> Path:
    """Where vit_nano's weights lie once they are made: named by the recipe's code and torch's version."""
    code = Path(vit_nano.__file__).read_bytes() + Path(digits.__file__).read_bytes() + torch.__version__.encode()
    return cache_folder() / f"vit_nano-{hashlib.sha256(code).hexdigest()[:10]}.safetensors"


@lru_cache(maxsize=1)
def load(name: str, image_size: int, weights: str | None) -> Transformer:
    """The pretrained transformer without a head, kept in memory: never changed, only copied (``fresh_model``).

    ``weights`` is a safetensors or torch file in timm's, open_clip's or OpenAI's layout; None asks ``weights_file``,
    then the hub; "random" is the same in every trial. Raises ConfigError where the file is corrupt or misfits.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's stream must not depend on whether the cache has the model
        torch.manual_seed(seed_for(0, "weights", name))
        model, row, file = create(name, image_size), BACKBONES[name], weights or weights_file(name, None)
        if row.clip:
            state = clip.state_dict(name, row, file)
        elif file == RANDOM:
            for module in model.modules():
                if isinstance(module, nn.LayerNorm):  # timm starts each residual branch of a Swin-v2 behind a norm of
                    nn.init.ones_(module.weight)  # scale 0, which no adapter could ever open
            return model.eval()
        elif file is None:
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries would bury the error's one line
            with downloading(name, f"model.safetensors of timm/{row.arch}.{row.tag}"):
                return create(name, image_size, pretrained=True).eval()
        else:
            state = read(file)
    model.load_state_dict(fit_to(model, state, name, file), strict=True)
    return model.eval()


def fresh_model(config: TrainConfig, classes: Sequence[str], weights: str | None) -> Transformer:
    """A copy of the pretrained transformer with a new head for ``classes``, not yet adapted."""
    model = copy.deepcopy(load(config.backbone, config.image_size, weights))
    if config.head == "zeroshot":
        row = BACKBONES[config.backbone]
        zeroshot.attach(model, zeroshot.parts(config.backbone, row, tuple(classes), weights))
        return model
    generator = torch.Generator().manual_seed(seed_for(config.seed, "head"))
    head = nn.utils.skip_init(nn.Linear, model.num_features, len(classes))  # draws nothing from the global stream
    nn.init.trunc_normal_(head.weight, std=0.02, generator=generator)
    nn.init.zeros_(head.bias)
    _set_head(model, head)
    return model


def skeleton(config: TrainConfig, n_classes: int) -> Transformer:
    """``fresh_model`` in its shapes alone, for a count of its parameters under ``torch.device("meta")``."""
    model = create(config.backbone, config.image_size)
    if config.head == "zeroshot":
        zeroshot.attach(model, zeroshot.skeleton(BACKBONES[config.backbone], model.num_features, n_classes))
    else:
        _set_head(model, nn.Linear(model.num_features, n_classes))
    return model


def _set_head(model: Transformer, head: nn.Linear) -> None:
    """A Swin's head pools as well, and keeps doing so: the linear layer goes into it."""
    if hasattr(model.head, "fc"):
        model.head.fc = head
    else:
        model.head = head
