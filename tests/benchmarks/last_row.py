"""Seconds of a training step whose last block computes the class token's row alone, against timm's whole block.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.last_row                 # 24 pairs of LoRA (rank 8), then of FFT

ViT-Tiny at 112 px with random weights, batch 32, one thread: forward, backward, clipping and AdamW as in the trainer,
on one batch of noise. A pair is one step of each model, the first of them in turn. Printed: seconds (median) and the
ratio row / whole of each pair (median, 10th and 90th percentile).
"""

import argparse
import copy
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import TrainConfig
from trainables.models.adapters import adapt
from trainables.models.backbones import RANDOM
from trainables.models.class_token import read_last_row
from trainables.models.create import fresh_model

SIZE, BATCH, CLASSES, WARM_UP = 112, 32, 10, 2


class Steps:
    """A model that takes training steps on one batch."""

    def __init__(self, model: nn.Module, config: TrainConfig, images: Tensor, label: Tensor):
        self.model, self.images, self.label, self.clip = model.train(), images, label, config.clip_norm
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, fused=True)

    def seconds(self) -> float:
        """Of one more step."""
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.images), self.label).backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.optimizer.step()
        return time.perf_counter() - start


def both(method: str) -> tuple[Steps, Steps]:
    """Of the model that computes the row alone, and of the same model as it comes."""
    config = TrainConfig(backbone="vit_tiny", image_size=SIZE, method=method, rank=8)
    whole = adapt(fresh_model(config, [str(i) for i in range(CLASSES)], RANDOM), config)
    row = copy.deepcopy(whole)
    if not read_last_row(row):
        raise RuntimeError("vit_tiny must be able to read its last row alone")
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator), torch.arange(BATCH) % CLASSES
    return Steps(row, config, *batch), Steps(whole, config, *batch)


def measure(method: str = "lora", pairs: int = 24) -> list[tuple[float, float]]:
    """Seconds of a step (row alone, whole block) of each pair, interleaved, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        row, whole = both(method)
        found = [_pair(row, whole, first=i % 2) for i in range(WARM_UP + pairs)]
    finally:
        torch.set_num_threads(threads)
    return found[WARM_UP:]


def _pair(row: Steps, whole: Steps, first: int) -> tuple[float, float]:
    if first:
        return row.seconds(), whole.seconds()
    seconds = whole.seconds()
    return row.seconds(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=24)
    pairs = parser.parse_args().pairs
    for method in ("lora", "fft"):
        seconds = np.array(measure(method, pairs))
        row, whole = np.median(seconds, axis=0)
        low, middle, high = np.quantile(seconds[:, 0] / seconds[:, 1], [0.1, 0.5, 0.9])
        spread = f"ratio {middle:.3f} ({low:.3f} to {high:.3f})"
        print(f"{method:5} row {row:.4f} s, whole {whole:.4f} s, {spread}", flush=True)


if __name__ == "__main__":
    main()
