"""What a trial said of the validation images, and what it would say of others like them: draws of every metric."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from analysis.results import Search
from trainables import logits
from trainables.logits import evaluate_logits, losses
from trainables.metrics import METRICS, OBJECTIVES, Evaluation, adjusted, measure

CHUNK = 200  # draws that are measured at once
# Without images, a confusion table alone tells of neither groups nor losses.
OF_CONFUSION = [name for name in METRICS if not METRICS[name].of_groups and not METRICS[name].unit]


class Sample(Protocol):
    """One trial, measured on the validation images, under the names of ``OBJECTIVES``."""

    @property
    def metrics(self) -> dict[str, float]: ...

    def draws(self, repeats: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Each metric, ``[repeats]``, on as many images, or subjects where they are known, drawn anew with
        replacement."""
        ...


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a trial said of each validation image: it has every metric."""

    logits: np.ndarray  # float16 [n, K], of ``logits.half``
    label: np.ndarray  # int [n]
    group: np.ndarray  # int [n]
    n_groups: int
    positive: int | None = None
    subject: np.ndarray | None = None  # int [n], whose image it is, -1 for nobody's; None: each is its own
    training: np.ndarray | None = None  # int [K, G], training images by cell; None: ``adjusted_accuracy`` is NaN

    @cached_property
    def metrics(self) -> dict[str, float]:
        found = evaluate_logits(self.logits, self.label, self.group, self.n_groups, self.positive)
        metrics = self._adjusted(found).metrics
        return {f"val_{name}": value for name, value in metrics.items() if f"val_{name}" in OBJECTIVES}

    def _adjusted(self, evaluation: Evaluation) -> Evaluation:
        return evaluation if self.training is None else adjusted(evaluation, self.training)

    def draws(self, repeats: int, seed: int = 0) -> dict[str, np.ndarray]:
        return _joined(self._draw(repeats, seed))

    def _draw(self, repeats: int, seed: int) -> Iterator[dict[str, Any]]:
        n, classes = self.logits.shape
        flat = (self.group * classes + self.label) * classes + self.logits.argmax(axis=1)
        loss, rng = losses(self.logits, self.label), np.random.default_rng(seed)
        unit = np.arange(n) if self.subject is None else units(self.subject)
        n_units = int(unit.max()) + 1
        for start in range(0, repeats, CHUNK):
            drawn = rng.multinomial(n_units, np.full(n_units, 1 / n_units), min(CHUNK, repeats - start))
            counts = drawn[:, unit]
            cells = [np.bincount(flat, each, self.n_groups * classes**2) for each in counts]
            sums = [np.bincount(self.label, each * loss, classes) for each in counts]
            table = np.reshape(cells, (-1, self.n_groups, classes, classes))
            yield self._adjusted(measure(table, np.array(sums), self.positive)).metrics


@dataclass(frozen=True, eq=False)
class Confusion:
    """A trial of a search that has kept its confusion table alone: int ``[K, K]``, true class by predicted class, with
    at least one image; else raises ValueError."""

    counts: np.ndarray

    def __post_init__(self) -> None:
        table = np.asarray(self.counts)
        if table.ndim != 2 or table.shape[0] != table.shape[1] or table.sum() < 1:
            raise ValueError(f"confusion must be [K, K] counts of at least one image, but has shape {table.shape}")
        object.__setattr__(self, "counts", table)

    @cached_property
    def metrics(self) -> dict[str, float]:
        return {name: float(values[0]) for name, values in self._measured(self.counts[None]).items()}

    def draws(self, repeats: int, seed: int = 0) -> dict[str, np.ndarray]:
        total = int(self.counts.sum())
        drawn = np.random.default_rng(seed).multinomial(total, self.counts.ravel() / total, repeats)
        return self._measured(drawn.reshape(-1, *self.counts.shape))

    def _measured(self, tables: np.ndarray) -> dict[str, np.ndarray]:
        metrics: dict[str, Any] = measure(tables[:, None], np.zeros(tables.shape[:2])).metrics
        return {f"val_{name}": metrics[name] for name in OF_CONFUSION if f"val_{name}" in OBJECTIVES}


def units(subject: np.ndarray) -> np.ndarray:
    """What is drawn with an image, int ``[n]``, codes 0 … k-1: its subject with all images, or itself where it is
    nobody's (below 0). Of one subject alone nothing could be drawn: then each image is its own."""
    unknown = subject < 0
    codes = np.where(unknown, subject.max() + np.cumsum(unknown), subject)
    unit: np.ndarray = np.unique(codes, return_inverse=True)[1]
    return unit if unit.any() else np.arange(len(unit))


def _joined(parts: Iterator[dict[str, Any]]) -> dict[str, np.ndarray]:
    whole = list(parts)
    return {name: np.concatenate([part[name.removeprefix("val_")] for part in whole]) for name in OBJECTIVES}


def of_trial(search: Search, number: int, confusion: Any = None) -> Sample | None:
    """What the search has kept of trial ``number``: logits, else its ``confusion`` table, where it is given. Raises
    ConfigError where a file of logits is damaged."""
    kept = logits.load(search.folder, number) if search.folder else None
    images = logits.images(search.folder) if search.folder and kept is not None else {}
    if kept is not None and images:
        settings, subject = search.settings, images.get("subject")
        training = np.array(settings["train_cells"]) if "train_cells" in settings else None
        of = (images["label"], images["group"], len(settings["groups"]), settings.get("positive"), subject, training)
        return Predictions(kept, *of)
    return Confusion(confusion) if confusion else None
