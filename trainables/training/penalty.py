"""FairLoRA's objective: cross-entropy plus λ times the spread of the groups' mean losses in the mini-batch.

``fairness_penalty`` is equation 1 of the paper, for autograd. ``penalty_weights`` is its gradient by hand, one number a
sample: with it a batch can go through memory in parts, or groups can be judged by ``RunningMeans``.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.config import METHODS, TrainConfig
from trainables.data.sampling import group_count, group_index


class Loss(NamedTuple):
    """Scalars of one mini-batch, in nats (``penalty`` in nats²): ``total = cross_entropy + λ · penalty``."""

    total: Tensor
    cross_entropy: Tensor
    penalty: Tensor


def fairness_penalty(losses: Tensor, index: Tensor, n_groups: int, reduction: str = "sum") -> Tensor:
    """Σ_g (L_g − L̄)² over the groups present, L̄ the mean of the present groups' means (FairLoRA, equation 1).

    ``losses`` float ``[n]`` in nats, ``index`` int64 ``[n]`` in ``0 … n_groups − 1``. ``reduction="mean"`` divides
    by the number of groups present. Returns a float32 scalar ≥ 0, to be minimised; one group gives 0, a NaN loss NaN.
    With absent groups in centre and sum, the gradient would no longer be 2 Σ (L_g − L̄) ∇L_g. The spread is centred
    first and squared after, as E[x²] − E[x]² loses every digit when the groups agree.
    """
    losses = losses.float()
    losses = losses - losses.detach().mean()  # changes no difference; sums of large losses would lose digits
    means, counts = group_means(losses, index, n_groups)
    present = counts > 0
    n_present = present.sum().clamp(min=1)
    centre = means.sum() / n_present  # an absent group's mean is 0 here and adds nothing
    squares = torch.where(present, means - centre, 0.0).square().sum()
    return squares if reduction == "sum" else squares / n_present


def group_means(losses: Tensor, index: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Mean loss and number of samples of each group, both ``[n_groups]`` in the losses' type; an absent one's are 0."""
    zeros = losses.new_zeros(n_groups)
    sums = zeros.index_add(0, index, losses)
    counts = zeros.index_add(0, index, torch.ones_like(losses))
    return sums / counts.clamp(min=1), counts


def penalty_weights(levels: Tensor, counts: Tensor, index: Tensor, reduction: str = "sum") -> Tensor:
    """2 (l_g − l̄) / n_g for each sample, ``[n]`` in the type of ``levels``; l̄ is the mean level of the groups present.

    ``levels`` ``[n_groups]`` in nats and ``counts`` ``[n_groups]`` say how badly each group is served and how many
    samples of the batch it has; ``index`` as in ``fairness_penalty``. With the batch's own group means as levels, the
    weights are the derivative of ``fairness_penalty`` by each loss. Any levels give weights that sum to 0: they shift
    effort between groups and never train uphill as a whole, which deviations from a centre of another time would.
    """
    present = counts > 0
    # So that equal levels give zeros, not rounding errors. (levels[index[0]] would ask a GPU for index[0].)
    levels = levels - levels.index_select(0, index[:1])
    levels = torch.where(present, levels, 0.0)
    n_present = present.sum()
    deviations = torch.where(present, levels - levels.sum() / n_present, 0.0)
    weights = 2 * deviations / counts.clamp(min=1)
    return (weights if reduction == "sum" else weights / n_present)[index]


class RunningMeans:
    """Each group's mean loss as an exponential moving average over the batches in which the group is present.

    The bias towards the start at 0 is taken out by each group's own number of updates, so that a rare group is not held
    for a well-served one. float64 ``[n_groups]``: at decay 0 the levels are the batch's means to the last bit.
    They are a controller that reacts late: with λ, learning rate and decay all large, groups are pushed past each other
    in growing swings, and the model is lost (``tests/benchmarks/penalty_study.py`` has where).
    """

    def __init__(self, n_groups: int, decay: float, device: str | torch.device = "cpu"):
        self.decay = decay
        self.average = torch.zeros(n_groups, dtype=torch.float64, device=device)
        self.updates = torch.zeros(n_groups, dtype=torch.int64, device=device)

    def update(self, means: Tensor, counts: Tensor) -> Tensor:
        """Take one batch's ``group_means`` in and return the levels in nats; those of groups never seen are 0."""
        moved = self.decay * self.average + (1 - self.decay) * means
        self.average.copy_(torch.where(counts > 0, moved, self.average))  # in place, for a GPU's recorded step
        self.updates += counts > 0
        unbiased = self.average / (1 - self.decay ** self.updates.double())
        return torch.where(self.updates > 0, unbiased, 0.0)


def sample_losses(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of each sample in nats, float32 ``[n]``, of logits ``[n, classes]`` and label int64 ``[n]``."""
    return F.cross_entropy(logits.float(), label, reduction="none")


class TrainingLoss:
    """The objective of one run; ``running`` is None where each batch is judged alone."""

    def __init__(self, config: TrainConfig, n_classes: int, n_groups: int, device: str | torch.device):
        self.config, self.device, self.n_sensitive = config, device, n_groups
        self.fair = METHODS[config.method].fair
        self.n_groups = group_count(config.groups, n_classes, n_groups)
        running = self.fair and config.penalty_center == "running"
        self.running = RunningMeans(self.n_groups, config.penalty_decay, device) if running else None

    def __call__(self, losses: Tensor, label: Tensor, group: Tensor) -> Loss:
        """The loss of a mini-batch with ``sample_losses`` ``[n]``; a plain method's penalty is 0 and costs nothing."""
        cross_entropy = losses.mean()
        if not self.fair:
            return Loss(cross_entropy, cross_entropy, losses.new_zeros(()))
        index = group_index(self.config.groups, label, group, self.n_sensitive)
        penalty = fairness_penalty(losses, index, self.n_groups, self.config.reduction)
        return Loss(cross_entropy + self.config.lam * penalty, cross_entropy, penalty)

    def weights(self, losses: Tensor, label: Tensor, group: Tensor) -> Tensor:
        """The derivative of a fair method's objective by each sample's loss, float32 ``[n]``. Running means take the
        batch in before they are used: with decay 0 they are its own means, the paper's form."""
        index = group_index(self.config.groups, label, group, self.n_sensitive)
        means, counts = group_means(losses.detach().double(), index, self.n_groups)
        levels = means if self.running is None else self.running.update(means, counts)
        penalty = penalty_weights(levels, counts, index, self.config.reduction)
        return (1 / len(losses) + self.config.lam * penalty).float()

    def state(self) -> dict[str, Tensor]:
        """The running means for a checkpoint, copies on the CPU; {} if there are none."""
        names = ("average", "updates") if self.running is not None else ()
        return {name: getattr(self.running, name).to("cpu", copy=True) for name in names}

    def restore(self, state: dict[str, Tensor]) -> None:
        if self.running is not None:
            self.running.average = state["average"].clone().to(self.device)
            self.running.updates = state["updates"].clone().to(self.device)
