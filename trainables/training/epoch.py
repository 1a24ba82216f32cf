"""What an epoch keeps account of: the losses of its steps, whether each is a number, and where its time goes."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Diverged(ArithmeticError):
    """The training or validation loss is no longer a finite number."""


class StepLosses:
    """The losses of an epoch's steps, float32 ``[steps, 3]``; ``first`` is the first step's number in the run's count.
    ``add`` raises Diverged at the first that is no number: on a GPU one step late, as asking at once would let it run
    dry, and weights may be lost by then."""

    def __init__(self, steps: int, first: int, device: torch.device):
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

    def means(self) -> dict[str, float]:
        """Means over the epoch's steps."""
        self._check(self.taken - 1)
        means = self.values[: self.taken].double().numpy().mean(axis=0)
        return dict(zip(("loss", "cross_entropy", "penalty"), means.tolist()))

    def _check(self, i: int) -> None:
        if self.on_gpu:
            self._written[i].synchronize()
        total = self.values[i, 0].item()
        if not math.isfinite(total):
            epoch = self.first // len(self.values) + 1
            raise Diverged(f"the training loss is {total} at step {self.first + i} (epoch {epoch})")


class Stopwatch:
    """Seconds by kind of work. On a GPU work is only handed over, so its seconds fall on whatever waits for it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - start

    def each(self, kind: str, items: Iterable[T]) -> Iterator[T]:
        """The ``items``, none of them None; the time that it takes to make them counts as ``kind``."""
        iterator = iter(items)
        while True:
            with self.on(kind):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def take(self) -> dict[str, float]:
        """What was counted since the last call."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds
