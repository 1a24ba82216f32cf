"""How well a model serves everyone: accuracy, the worst-served class and group, and the gaps between them.

Everything derives from one integer table ``C[g, y, yhat]`` (group, true class, predicted class) and the summed loss of
each class. A class, group or cell without support is NaN with count 0, and reductions leave it out. scikit-learn and
fairlearn put 0 there: a perfect classifier has an equalized-odds difference of 1.0 once a group has no positives.

Sources: FairLoRA (arXiv 2410.17358) for F1 and recall over classes, ``eod_*`` (equal OPPORTUNITY: true-positive rates
only) and ``loss_variance``; Ding et al. (arXiv 2405.17512) for ``equalized_odds``. Two metrics, two names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from trainables.config import lookup

Direction = Literal["maximize", "minimize"]
MAX: Direction = "maximize"
MIN: Direction = "minimize"


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation."""

    direction: Direction  # which way is better
    formula: str  # as docs/metrics.md shows it
    unit: Literal["", "nats", "nats²"] = ""  # "": a rate in [0, 1], or a count
    of_groups: bool = False  # it says nothing where there are fewer than two sensitive groups


OfGroups = partial(Metric, of_groups=True)
# Names without the split's prefix. "Classes" are true classes; what has no sample is left out of every reduction.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(MAX, "correct predictions / samples"),
    "loss": Metric(MIN, "mean loss over samples, in nats", "nats"),
    "min_f1": Metric(MAX, "smallest F1 over classes"),
    "median_f1": Metric(MAX, "median F1 over classes"),
    "delta_f1": Metric(MIN, "largest minus smallest F1 over classes"),
    "macro_f1": Metric(MAX, "mean F1 over classes"),
    "min_recall": Metric(MAX, "smallest recall over classes"),
    "median_recall": Metric(MAX, "median recall over classes"),
    "mean_recall": Metric(MAX, "mean recall over classes (balanced accuracy)"),
    "loss_variance": Metric(MIN, "population variance over classes of the class's mean loss, in nats squared", "nats²"),
    "min_group_accuracy": OfGroups(MAX, "smallest accuracy over groups"),
    "delta_group_accuracy": OfGroups(MIN, "largest minus smallest accuracy over groups"),
    "min_group_f1": OfGroups(MAX, "smallest over groups of the macro-F1 inside the group"),
    "delta_group_f1": OfGroups(MIN, "largest minus smallest over groups of the macro-F1 inside the group"),
    "worst_cell_accuracy": OfGroups(MAX, "smallest accuracy over class x group cells"),
    "eod_max": OfGroups(MIN, "max over groups s of the class mean of |TPR(k, s) - TPR(k, rest)|; binary: k = positive"),
    "eod_max_cell": OfGroups(
        MIN, "max over classes k and groups s of |TPR(k, s) - TPR(k, rest)|; binary: k = positive"
    ),
    "equalized_odds": OfGroups(MIN, "mean over classes of max(TPR gap, FPR gap), gap = max - min over groups"),
    "equalized_odds_max": OfGroups(MIN, "max over classes of max(TPR gap, FPR gap), gap = max - min over groups"),
    "min_class_count": Metric(MAX, "samples in the smallest class that has any"),
    "min_group_count": OfGroups(MAX, "samples in the smallest group that has any"),
    "min_cell_count": OfGroups(MAX, "samples in the smallest class x group cell that has any"),
    "empty_cells": OfGroups(MIN, "class x group cells without a sample"),
}
# Counts describe the split, not the model: no search can move them.
COUNTS = ("min_class_count", "min_group_count", "min_cell_count", "empty_cells")
OBJECTIVES: dict[str, str] = {f"val_{name}": m.direction for name, m in METRICS.items() if name not in COUNTS}


def objective(name: str, what: str = "objective") -> str:
    """The key of ``OBJECTIVES`` that ``name`` stands for: "accuracy" is "val_accuracy". Raises ConfigError."""
    full = f"val_{name}" if f"val_{name}" in OBJECTIVES else name
    lookup(OBJECTIVES, full, what)
    return full


@dataclass(frozen=True)
class Evaluation:
    """K classes, G groups; rates in [0, 1], losses in nats, counts int, in samples.

    ``metrics`` has a Python float for every name of METRICS, in that order; NaN where nothing supports it.
    By class, precision is NaN exactly where the class is never predicted, the others exactly where it never occurs
    (and loss where a sample's is). A class that occurs and is never predicted has F1 0.
    """

    metrics: dict[str, float]
    confusion: np.ndarray  # int [K, K], true class by predicted class
    by_class: dict[str, np.ndarray]  # count, predicted, recall, precision, f1, loss; each [K]
    by_group: dict[str, np.ndarray]  # count, accuracy, macro_f1 (over the classes inside the group), eod; each [G]
    by_cell: dict[str, np.ndarray]  # count, accuracy (the class's recall inside the group); each [K, G]


def evaluate(
    label: np.ndarray,
    prediction: np.ndarray,
    loss: np.ndarray,
    group: np.ndarray,
    *,
    n_classes: int,
    n_groups: int,
    positive: int | None = None,
) -> Evaluation:
    """Score predictions overall, by class, by group and by class x group cell.

    ``label``, ``prediction`` and ``group`` are int ``[n]``; n may be 0, and then every metric is NaN. ``loss`` float
    ``[n]`` is each sample's own in nats, without any penalty; a NaN or infinite one passes into the loss metrics that
    it belongs to and leaves the others alone. ``n_classes`` and ``n_groups`` are the task's, not this split's; on
    ``positive``, the positive class of a binary task (None: 1), ``eod`` alone depends.
    Raises ValueError where shapes differ, or a label, prediction, group or ``positive`` is out of range.
    """
    classes = _declared(n_classes, n_groups, positive)
    shapes = [np.shape(values) for values in (label, prediction, loss, group)]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise ValueError(f"label, prediction, loss and group must share one shape [n], but got {shapes}")
    label = _integers("label", label, "n_classes", n_classes)
    prediction = _integers("prediction", prediction, "n_classes", n_classes)
    group = _integers("group", group, "n_groups", n_groups)
    loss = np.asarray(loss, dtype=np.float64)

    flat = (group * n_classes + label) * n_classes + prediction  # its bin counts are much faster than np.add.at
    table = np.bincount(flat, minlength=n_groups * n_classes**2).reshape(n_groups, n_classes, n_classes)
    hit, count, predicted = np.diagonal(table, axis1=1, axis2=2).T, table.sum(axis=2).T, table.sum(axis=1).T  # [K, G]
    opportunity = _opportunity_gap(hit, count)[classes]
    odds = _odds_gap(hit, count, predicted)[classes]
    hits, counts, predictions = (part.sum(axis=1) for part in (hit, count, predicted))
    by_class = {
        "count": counts,
        "predicted": predictions,
        "recall": _ratio(hits, counts),
        "precision": _ratio(hits, predictions),
        "f1": _f1(hits, counts, predictions),
        "loss": _ratio(np.bincount(label, weights=loss, minlength=n_classes), counts),
    }
    by_cell = {"count": count, "accuracy": _ratio(hit, count)}
    by_group = {
        "count": count.sum(axis=0),
        "accuracy": _ratio(hit.sum(axis=0), count.sum(axis=0)),
        "macro_f1": _mean_over_classes(_f1(hit, count, predicted)),
        "eod": _mean_over_classes(opportunity),
    }
    smallest = [_over(np.min, part["count"][part["count"] > 0]) for part in (by_class, by_group, by_cell)]
    metrics = {
        "accuracy": float(_ratio(hit.sum(), count.sum())),
        **_class_reductions(by_class, loss),
        "min_group_accuracy": _over(np.min, by_group["accuracy"]),
        "delta_group_accuracy": _gap(by_group["accuracy"]),
        "min_group_f1": _over(np.min, by_group["macro_f1"]),
        "delta_group_f1": _gap(by_group["macro_f1"]),
        "worst_cell_accuracy": _over(np.min, by_cell["accuracy"]),
        "eod_max": _over(np.max, by_group["eod"]),
        "eod_max_cell": _over(np.max, opportunity),
        "equalized_odds": _over(np.mean, odds),
        "equalized_odds_max": _over(np.max, odds),
        **dict(zip(COUNTS, [*smallest, float((count == 0).sum()) if count.any() else np.nan])),
    }
    return Evaluation(metrics, table.sum(axis=0), by_class, by_group, by_cell)


def _declared(n_classes: int, n_groups: int, positive: int | None) -> list[int]:
    """The classes that one-vs-rest gaps look at: the positive one of a binary task, all of any other."""
    if n_classes < 1 or n_groups < 1:
        raise ValueError(f"`n_classes >= 1` and `n_groups >= 1` must hold, but got {n_classes=} and {n_groups=}")
    if n_classes == 2:
        if positive not in (None, 0, 1):
            raise ValueError(f"`0 <= positive < 2` must hold, but got {positive=}")
        return [1 if positive is None else int(positive)]
    if positive is not None:
        raise ValueError(f"`positive` must be None unless n_classes=2, but got {positive=} with {n_classes=}")
    return list(range(n_classes))


def _integers(name: str, values: np.ndarray, limit_name: str, limit: int) -> np.ndarray:
    values = np.asarray(values)
    if values.size and values.dtype.kind not in "iu":  # an empty list is float64 by numpy's default
        raise ValueError(f"`{name}` must hold integers, but got dtype {values.dtype}")
    wrong = values[(values < 0) | (values >= limit)]
    if wrong.size:
        raise ValueError(f"`0 <= {name} < {limit_name}` must hold, but got {name}={wrong[0]} with {limit_name}={limit}")
    return values.astype(np.int64)  # uint8 labels would overflow in the flat index


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _over(reduce: Callable[[np.ndarray], float], values: np.ndarray) -> float:
    """``reduce`` over the cells that have a value; NaN if none has. (np.nanmin and its kin would warn there.)"""
    present = values[~np.isnan(values)]
    return float(reduce(present)) if present.size else np.nan


def _gap(values: np.ndarray) -> float:
    """Largest minus smallest; NaN below two values, as the 0 of a lone group would look perfectly fair."""
    return _over(np.ptp, values) if (~np.isnan(values)).sum() > 1 else np.nan


def _f1(hit: np.ndarray, count: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), NaN exactly where the class does not occur; any shape."""
    return np.where(count > 0, _ratio(2 * hit, count + predicted), np.nan)


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    """``[K, G]`` -> ``[G]``, over the cells that have a value."""
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0.0).sum(axis=0), present.sum(axis=0))


def _opportunity_gap(hit: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``|TPR(k, s) - TPR(k, every group but s)|``, ``[K, G]``; NaN where either side has no sample of class k."""
    rest = _ratio(hit.sum(axis=1, keepdims=True) - hit, count.sum(axis=1, keepdims=True) - count)
    return np.abs(_ratio(hit, count) - rest)


def _odds_gap(hit: np.ndarray, count: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The larger of the TPR gap and the FPR gap between groups, one class against the rest; ``[K]``. NaN unless both
    are known: a gap that is half measured would look fairer than it is."""
    false_positive = _ratio(predicted - hit, count.sum(axis=0) - count)
    return np.maximum(_spread(_ratio(hit, count)), _spread(false_positive))


def _spread(rate: np.ndarray) -> np.ndarray:
    """Largest minus smallest over groups, ``[K, G]`` -> ``[K]``; NaN where fewer than two groups have the rate."""
    present = ~np.isnan(rate)
    gap = np.where(present, rate, -np.inf).max(axis=1) - np.where(present, rate, np.inf).min(axis=1)
    return np.where(present.sum(axis=1) >= 2, gap, np.nan)


def _class_reductions(by_class: dict[str, np.ndarray], loss: np.ndarray) -> dict[str, float]:
    f1, recall = by_class["f1"], by_class["recall"]
    # Chosen by count, not by value: a class whose loss diverged must show, not drop out.
    class_loss = by_class["loss"][by_class["count"] > 0]
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, the honest answer
        mean_loss, loss_variance = (loss.mean(), class_loss.var()) if loss.size else (np.nan, np.nan)
    return {
        "loss": float(mean_loss),
        "min_f1": _over(np.min, f1),
        "median_f1": _over(np.median, f1),
        "delta_f1": _gap(f1),
        "macro_f1": _over(np.mean, f1),
        "min_recall": _over(np.min, recall),
        "median_recall": _over(np.median, recall),
        "mean_recall": _over(np.mean, recall),
        "loss_variance": float(loss_variance),
    }
