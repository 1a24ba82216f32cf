"""FairLoRA's objective: cross-entropy plus λ times the spread of the groups' mean losses in the mini-batch."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Loss(NamedTuple):
    """Scalars of one mini-batch, in nats (``penalty`` in nats²): ``total = cross_entropy + λ · penalty``."""

    total: Tensor
    cross_entropy: Tensor
    penalty: Tensor


def group_index(kind: str, label: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """The penalty's group of each sample, int64 ``[n]``; ``kind`` is one of ``config.GROUPS``."""
    return {"class": label, "sensitive": group, "class_x_sensitive": label * n_groups + group}[kind]


def group_count(kind: str, n_classes: int, n_groups: int) -> int:
    """How many penalty groups ``kind`` makes."""
    return {"class": n_classes, "sensitive": n_groups, "class_x_sensitive": n_classes * n_groups}[kind]


def fairness_penalty(losses: Tensor, index: Tensor, n_groups: int, reduction: str = "sum") -> Tensor:
    """Σ_g (L_g − L̄)² over the groups present, L̄ the mean of the present groups' means (FairLoRA, equation 1).

    ``losses`` float ``[n]`` in nats, ``index`` int64 ``[n]`` in ``0 … n_groups − 1``. ``reduction="mean"`` divides
    by the number of groups present. Returns a float32 scalar ≥ 0, to be minimised; one group present gives 0.
    A NaN among the losses gives NaN.

    Groups absent from the batch leave both the centre and the sum: with them in, the gradient would no longer be
    2 Σ (L_g − L̄) ∇L_g. The spread is centred first and squared after, as E[x²] − E[x]² loses every digit when the
    groups agree.
    """
    losses = losses.float()
    losses = losses - losses.detach().mean()  # changes no difference; sums of large losses would lose digits
    zeros = losses.new_zeros(n_groups)
    sums = zeros.index_add(0, index, losses)
    counts = zeros.index_add(0, index, torch.ones_like(losses))
    present = counts > 0
    n_present = present.sum().clamp(min=1)
    means = sums / counts.clamp(min=1)
    centre = means.sum() / n_present  # an absent group's mean is 0 here and adds nothing
    squares = torch.where(present, means - centre, zeros).square().sum()
    return squares if reduction == "sum" else squares / n_present


def objective(logits: Tensor, label: Tensor, index: Tensor | None, n_groups: int, lam: float, reduction: str) -> Loss:
    """The loss of one mini-batch: logits ``[n, classes]``, label int64 ``[n]``, index int64 ``[n]`` or None.

    Without an index (the plain methods) the penalty is 0 and costs nothing.
    """
    losses = F.cross_entropy(logits.float(), label, reduction="none")
    cross_entropy = losses.mean()
    if index is None:
        return Loss(cross_entropy, cross_entropy, losses.new_zeros(()))
    penalty = fairness_penalty(losses, index, n_groups, reduction)
    return Loss(cross_entropy + lam * penalty, cross_entropy, penalty)
