"""``vit_nano``: a vision transformer small enough to pre-train on one processor core while the user waits.

    python -m trainables.models.vit_nano        pre-train it and print its accuracy on digits that it has not seen

It is timm's own VisionTransformer, so that attention, fused qkv and all that peft does to them are as in a ViT-B.
"""

import math
import time
from typing import Any

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.prepare import digits
from trainables.seeds import seed_for

MEAN = STD = 0.5  # images in 0..1 are shown as (x - MEAN) / STD
OPTIONS = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2}
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 8, 128, 2e-3, 0.05, 0.1


def vit_nano(num_classes: int = 0) -> VisionTransformer:
    """16 patches of 4 px and a class token, 3 blocks of width 64: features [n, 64], or logits [n, num_classes]."""
    options: dict[str, Any] = {**OPTIONS, "num_classes": num_classes, "global_pool": "token"}
    return VisionTransformer(**options)


def pretrain(seed: int = 0) -> dict[str, Tensor]:
    """The state dict of ``vit_nano()``, trained on ``digits.pretraining()``; the same for the same seed.

    Digits of the downstream splits on plain grounds, which it has not seen: 95.2 % of val's are named, 96.9 % of
    test's (seed 0, through the head that is dropped here). It takes 17 s on one thread.
    """
    state = _classifier(seed).state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


def _classifier(seed: int) -> VisionTransformer:
    """In evaluation mode. On one thread, as sums over several may round differently; the caller's random state and
    number of threads are left as they were."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        torch.manual_seed(seed_for(seed, "nano"))
        try:
            return _train(vit_nano(num_classes=len(digits.CLASSES)), *_batch(digits.pretraining())).eval()
        finally:
            torch.set_num_threads(threads)


def _train(model: VisionTransformer, images: Tensor, label: Tensor) -> VisionTransformer:
    """AdamW with warm-up and cosine decay over images [n, 3, 16, 16]."""
    steps = EPOCHS * math.ceil(len(images) / BATCH)

    def share_of_rate(step: int) -> float:
        progress = step / steps
        if progress < WARM_UP:
            return (progress + 1e-3) / WARM_UP
        return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_rate)
    model.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[chosen]), label[chosen]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model


def _batch(rendered: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Normalised images [n, 3, 16, 16] and labels [n]."""
    images = torch.from_numpy(rendered["images"]).permute(0, 3, 1, 2).float().div(255)
    return ((images - MEAN) / STD).contiguous(), torch.from_numpy(rendered["label"])


if __name__ == "__main__":
    started = time.perf_counter()
    trained = _classifier(seed=0)
    seconds = time.perf_counter() - started
    images, label = _batch(digits.pretraining(part="val"))
    with torch.no_grad():
        accuracy = (trained(images).argmax(1) == label).float().mean().item()
    print(f"{seconds:.0f} s; accuracy on plain grounds: {accuracy:.3f} (val digits)")
