"""What chance alone shows: the gaps of a model that serves everyone equally well, on images like these.

A gap is the largest of several noisy rates less the smallest, so that it is never 0 on a finite split. The null: each
image is recognised with one probability, whatever its class and group, and each other class is as likely a mistake as
the next. A gap inside its range says nothing of unfairness, and no search gets far below it but by luck.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from trainables.metrics import METRICS, measure

GAPS = [name for name, metric in METRICS.items() if name.startswith(("delta_", "eod_", "equalized_odds"))]
REPEATS = 1000
CHUNK = 100  # draws that are measured at once
TAIL = 0.05


@dataclass(frozen=True)
class Range:
    """A gap by chance: its mean, and what 90 % of the draws lie between."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f}–{self.high:.3f})"

    def of(self, value: float) -> str:
        """Where a measured ``value`` lies."""
        return "below it" if value < self.low else "above it" if value > self.high else "inside it"


def gaps(objectives: Iterable[str]) -> list[str]:
    """Those of ``objectives`` (``val_…``) that are gaps, without the prefix."""
    return [name for objective in objectives if (name := objective.removeprefix("val_")) in GAPS]


def by_chance(
    counts: np.ndarray,
    accuracy: float,
    names: Iterable[str] = GAPS,
    positive: int | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> dict[str, Range]:
    """The range of each gap of ``names`` (of ``GAPS``) that an evenly right model of ``accuracy`` shows on a split with
    ``counts`` int ``[K, G]`` images by class and group; those that such a split does not determine are left out."""
    classes = len(counts)
    chances = np.full((classes, classes), (1 - accuracy) / max(1, classes - 1))
    np.fill_diagonal(chances, accuracy)
    rng, drawn = np.random.default_rng(seed), []
    for start in range(0, repeats, CHUNK):
        size = (min(CHUNK, repeats - start), counts.shape[1], classes)
        tables = rng.multinomial(np.broadcast_to(counts.T, size), chances)
        drawn.append(measure(tables, np.zeros((size[0], classes)), positive).metrics)
    ranges = {}
    for name in names:
        values = np.concatenate([np.asarray(part[name]) for part in drawn])
        if not np.isnan(values).any():
            low, high = np.quantile(values, [TAIL, 1 - TAIL])
            ranges[name] = Range(float(values.mean()), float(low), float(high))
    return ranges


def smallest(counts: np.ndarray) -> dict[str, int]:
    """Images of the smallest class, group and class in a group that has any; of one group there is but the class."""
    parts = {"class": counts.sum(axis=1), "group": counts.sum(axis=0), "class in a group": counts.ravel()}
    kept = parts if counts.shape[1] > 1 else {"class": parts["class"]}
    return {name: int(sizes[sizes > 0].min()) for name, sizes in kept.items()}
