"""The gradient of one batch's objective, in one forward pass or exactly the same in several smaller ones."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from trainables.config import METHODS, ConfigError, TrainConfig
from trainables.groups import group_count, group_index
from trainables.training.penalty import Loss, RunningMeans, group_means, objective, penalty_weights, sample_losses

TOO_LARGE = "a single image must fit into a trial's GPU memory, but does not: give it more with --gpus-per-trial"
Forward = Callable[[Tensor], Tensor]  # images [n, 3, size, size] -> logits [n, classes]


def same_streams(device: str | torch.device) -> contextlib.AbstractContextManager:
    """torch's random streams are afterwards as they were before."""
    gpu = torch.device(device).type == "cuda"
    return torch.random.fork_rng(devices=[torch.cuda.current_device()] if gpu else [])


class TrainingLoss:
    """The objective of one run, as its configuration says. The running means are its only state.

    The paper's form in one pass is left to autograd. The other forms weigh each sample's loss by 1 / B, and by λ times
    ``penalty_weights`` where the method is fair, which is the same gradient: B is the batch's size.
    """

    def __init__(self, config: TrainConfig, n_classes: int, n_groups: int, device: str):
        self.config, self.device, self.n_sensitive = config, device, n_groups
        self.fair = METHODS[config.method].fair
        self.micro_batch = config.micro_batch if config.accumulates else None  # images a pass; None: the whole batch
        self.n_groups = group_count(config.groups, n_classes, n_groups)
        running = self.fair and config.penalty_center == "running"
        self.running = RunningMeans(self.n_groups, config.penalty_decay, device) if running else None

    def backward(self, forward: Forward, images: Tensor, label: Tensor, group: Tensor) -> Loss:
        """Add the batch's gradient to the parameters' and return its numbers (detached).

        ``penalty`` and ``total`` are equation 1's, of this batch, also where the gradient is that of running means.
        """
        index = group_index(self.config.groups, label, group, self.n_sensitive) if self.fair else None
        if self.micro_batch and len(images) > self.micro_batch:
            return self._in_parts(forward, images, label, index)
        losses = sample_losses(forward(images), label)
        loss = self._loss(losses, index)
        total = loss.total if self.running is None else self._weights(losses, index) @ losses
        total.backward()
        return Loss(*(term.detach() for term in loss))

    def halve(self, size: int) -> None:
        """From here on, passes of half as many images: a batch of ``size`` did not fit into memory. Raises ConfigError
        where it was a single image that did not."""
        size = min(size, self.micro_batch or size)
        if size == 1:
            raise ConfigError(TOO_LARGE)
        self.micro_batch = size // 2

    def _in_parts(self, forward: Forward, images: Tensor, label: Tensor, index: Tensor | None) -> Loss:
        """Two passes over micro-batches: the first finds the weights, for which it needs every loss of the batch.

        The random streams are set back in between, so that the second pass has the first one's dropout masks. A plain
        method's weights are known before: it needs no first pass.
        """
        size = self.micro_batch
        parts, done = list(zip(images.split(size), label.split(size))), []
        weights = torch.full_like(label, 1 / len(label), dtype=torch.float32)
        if index is not None:
            with torch.no_grad(), same_streams(self.device):
                losses = torch.cat([sample_losses(forward(x), y) for x, y in parts])
            weights = self._weights(losses, index)
        for (x, y), weight in zip(parts, weights.split(size)):
            part = sample_losses(forward(x), y)
            (weight @ part).backward()
            done.append(part.detach())
        return self._loss(torch.cat(done), index)

    def _weights(self, losses: Tensor, index: Tensor) -> Tensor:
        """The derivative of the objective by each sample's loss, float32 ``[n]``.

        Running means take the batch in before they are used: with decay 0 they are its own means, the paper's form.
        """
        means, counts = group_means(losses.detach().double(), index, self.n_groups)
        levels = means if self.running is None else self.running.update(means, counts)
        penalty = penalty_weights(levels, counts, index, self.config.reduction)
        return (1 / len(losses) + self.config.lam * penalty).float()

    def _loss(self, losses: Tensor, index: Tensor | None) -> Loss:
        return objective(losses, index, self.n_groups, self.config.lam, self.config.reduction)

    def state(self) -> dict[str, Tensor]:
        """The running means for a checkpoint, copies on the CPU; nothing where there are none."""
        if self.running is None:
            return {}
        return {"average": self.running.average.cpu().clone(), "updates": self.running.updates.cpu().clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from an earlier ``state()``."""
        if self.running is not None:
            self.running.average = state["average"].clone().to(self.device)
            self.running.updates = state["updates"].clone().to(self.device)
