"""The losses of an epoch's steps, and the end of a run whose loss is no number."""

import math

import numpy as np
import torch
from torch import Tensor


class Diverged(ArithmeticError):
    """The training or validation loss is no longer a finite number."""


class StepLosses:
    """The losses of an epoch's steps, float32 ``[steps, 3]``. ``add`` raises Diverged at the first that is no number:
    on a GPU one step late, as asking at once would let it run dry, and weights may be lost by then."""

    def __init__(self, steps: int, first: int, device: torch.device):
        """``first`` is the number of the epoch's first step in the run's count."""
        self.first, self.taken = first, 0
        self.on_gpu = device.type == "cuda"
        self.values = torch.zeros(steps, 3, pin_memory=self.on_gpu)
        self._written = [torch.cuda.Event() for _ in range(steps)] if self.on_gpu else []

    def add(self, losses: Tensor) -> None:
        self.values[self.taken].copy_(losses, non_blocking=True)
        if self.on_gpu:
            self._written[self.taken].record()
        self.taken += 1
        late = self.taken - 1 - self.on_gpu
        if late >= 0:
            self._check(late)

    def means(self) -> list[float]:
        """Means over the epoch's steps, of total, cross-entropy and penalty."""
        self._check(self.taken - 1)
        return np.mean(self.values[: self.taken].double().numpy(), axis=0).tolist()

    def _check(self, i: int) -> None:
        if self.on_gpu:
            self._written[i].synchronize()
        total = self.values[i, 0].item()
        if not math.isfinite(total):
            epoch = self.first // len(self.values) + 1
            raise Diverged(f"the training loss is {total} at step {self.first + i} (epoch {epoch})")
