"""Groups of images, and which images share a batch: drawn at random, or the same number of each of several groups."""

import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from trainables.config import TrainConfig


def group_index(kind: str, label: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """The group of each sample, int64 ``[n]``; ``kind`` is one of ``config.GROUPS``."""
    return {"class": label, "sensitive": group, "class_x_sensitive": label * n_groups + group}[kind]


def group_count(kind: str, n_classes: int, n_groups: int) -> int:
    return {"class": n_classes, "sensitive": n_groups, "class_x_sensitive": n_classes * n_groups}[kind]


def index_batches(label: Tensor, group: Tensor, config: TrainConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch's batches as positions in the training split, int64 ``[b]``, of label and group int64 ``[n]``.

    Balanced or not, an epoch has ``ceil(n / batch_size)`` batches. A random one holds every image once, and its last
    batch the remainder. A balanced one repeats the images of small groups and leaves out some of large ones, so it
    owes no image a visit: its last batch is full, as a penalty over a remainder of few images would be noise again.

    A balanced batch is of ``batch_size // per_group`` groups: at least 2, at most all that have images. Groups and the
    images of each come in shuffled rounds: no group is in more than one batch more than another, and a batch holds an
    image twice only where its group is smaller than its share.
    """
    size = config.batch_size
    if config.balance == "none":
        yield from torch.randperm(len(label), generator=generator).split(size)
        return
    index = group_index(config.balance, label, group, int(group.max()) + 1)
    members = {g: ShuffledCycle((index == g).nonzero().flatten().tolist(), generator) for g in index.unique().tolist()}
    groups = ShuffledCycle(list(members), generator)
    n_groups = min(max(2, size // config.per_group), len(members), size)
    for _ in range(math.ceil(len(index) / size)):
        chosen = groups.take(n_groups)
        shares = [size // n_groups + (i < size % n_groups) for i in range(n_groups)]
        yield torch.tensor([image for g, share in zip(chosen, shares) for image in members[g].take(share)])


class ShuffledCycle:
    """Items in shuffled rounds without end: each comes once a round."""

    def __init__(self, items: list[int], generator: torch.Generator):
        self.items, self.generator = items, generator
        self.rest: list[int] = []

    def take(self, n: int) -> list[int]:
        """The next ``n`` items; one comes twice only where ``n`` is larger than a round.

        Where a round ends in the middle, the next one gives first what has been taken least, in its random order.
        """
        taken, self.rest = self.rest[:n], self.rest[n:]
        while len(taken) < n:
            order = torch.randperm(len(self.items), generator=self.generator).tolist()
            fresh, so_far = [self.items[i] for i in order], Counter(taken)
            first = sorted(fresh, key=so_far.__getitem__)[: n - len(taken)]
            taken, self.rest = taken + first, [item for item in fresh if item not in set(first)]
        return taken
