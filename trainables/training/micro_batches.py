"""Batches that go through memory in parts: the gradient of the whole batch, exactly, with the memory of a part."""

import contextlib
import copy
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from trainables.config import DoesNotFit
from trainables.data.batches import Batch
from trainables.training.penalty import TrainingLoss, sample_losses

TOO_LARGE = "a single image must fit into a trial's GPU memory, but does not: give each trial more (`gpus_per_trial`)"


class Step(Protocol):
    """What is wrapped: ``fit.TrainStep``."""

    forward: Callable[[Tensor], Tensor]
    loss: TrainingLoss
    optimizer: torch.optim.AdamW

    def __call__(self, inputs: Tensor, label: Tensor, group: Tensor) -> Tensor: ...

    def backward(self, inputs: Tensor, label: Tensor, group: Tensor) -> Tensor: ...

    def update(self, losses: Tensor) -> Tensor: ...


def same_streams(device: str | torch.device) -> contextlib.AbstractContextManager[None]:
    """Set torch's random streams back at the end to where they were before."""
    gpu = torch.device(device).type == "cuda"
    return torch.random.fork_rng(devices=[torch.cuda.current_device()] if gpu else [])


class MicroBatchStep:
    """Wraps a step whose batches go through memory ``size`` images at a time; None: as a whole."""

    def __init__(self, step: Step, size: int | None):
        self.step, self.size = step, size

    def __call__(self, batch: Batch, release: Callable[[], bool]) -> Tensor:
        """One step; where memory is too small for its gradient, in smaller and smaller parts, which stay small until
        the run's end. Before that ``release`` is called, which frees other memory, and returns whether there was any.
        Raises DoesNotFit if a single image does not fit."""
        while True:
            before = copy.deepcopy(self.step.loss.running)  # must take each batch in once
            with contextlib.suppress(torch.OutOfMemoryError):
                losses = self.backward(*batch)
                break
            self.step.loss.running = before
            if not release():
                size = min(len(batch[0]), self.size or len(batch[0]))
                if size == 1:
                    raise DoesNotFit(TOO_LARGE)
                self.size = size // 2
        return self.step.update(losses)

    def backward(self, inputs: Tensor, label: Tensor, group: Tensor) -> Tensor:
        """``step.backward``, in parts where the batch is larger than one, in two passes: the first finds each sample's
        weight, for which it needs every loss of the batch (a plain method's are known before). The random streams are
        set back in between, so that the second pass has the first one's dropout masks."""
        step, size = self.step, self.size
        if not size or len(inputs) <= size:
            return step.backward(inputs, label, group)
        step.optimizer.zero_grad(set_to_none=True)
        parts, losses = list(zip(inputs.split(size), label.split(size))), []
        weights = torch.full_like(label, 1 / len(label), dtype=torch.float32)
        if step.loss.fair:
            with torch.no_grad(), same_streams(label.device):
                first = torch.cat([sample_losses(step.forward(x), y) for x, y in parts])
            weights = step.loss.weights(first, label, group)
        for (x, y), weight in zip(parts, weights.split(size)):
            part = sample_losses(step.forward(x), y)
            (weight @ part).backward()
            losses.append(part.detach())
        return torch.stack(step.loss(torch.cat(losses), label, group))
