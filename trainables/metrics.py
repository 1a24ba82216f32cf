"""How well a model serves everyone: accuracy, the worst-served class and group, and the gaps between them.

Everything derives from one integer table ``C[g, y, yhat]`` (group, true class, predicted class) and the summed loss of
each class. A class, group or cell without support is NaN with count 0, and reductions leave it out. scikit-learn and
fairlearn put 0 there: a perfect classifier has an equalized-odds difference of 1.0 once a group has no positives.

A group here is a value of the sensitive attribute. The literature's "group" is a class x attribute cell, so its "worst
group" is ``worst_cell_accuracy``; ``min_group_accuracy`` is called the worst attribute where people read it.

Sources: FairLoRA (arXiv 2410.17358) for F1 and recall over classes, ``eod_*`` (equal OPPORTUNITY: true-positive rates
only) and ``loss_variance``; Ding et al. (arXiv 2405.17512) for the ``odds_gap`` of each group; fairlearn for
``equalized_odds`` of binary tasks; Sagawa et al. (arXiv 1911.08731) for ``worst_cell_accuracy`` and
``adjusted_accuracy``. The counts, and what the classes of a gap are averaged over, are ours.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

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
    "min_group_accuracy": OfGroups(MAX, "worst attribute: smallest accuracy over groups"),
    "delta_group_accuracy": OfGroups(MIN, "largest minus smallest accuracy over groups"),
    "min_group_f1": OfGroups(MAX, "smallest over groups of the macro-F1 inside the group"),
    "delta_group_f1": OfGroups(MIN, "largest minus smallest over groups of the macro-F1 inside the group"),
    "worst_cell_accuracy": OfGroups(MAX, "worst group: smallest accuracy over class x group cells"),
    "adjusted_accuracy": OfGroups(
        MAX, "mean accuracy over class x group cells, weighted by their shares of the training images"
    ),
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
    # count, accuracy, macro_f1 (over the classes inside the group), eod and odds_gap (to the rest); each [G]
    by_group: dict[str, np.ndarray]
    by_cell: dict[str, np.ndarray]  # count, accuracy (the class's recall inside the group); each [K, G]
    logits: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float16))  # [n, K], of evaluate_logits


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
    ``positive``, the positive class of a binary task (None: 1), ``eod`` alone depends. ``adjusted_accuracy`` is NaN:
    ``adjusted`` adds it.
    Raises ValueError where shapes differ, or a label, prediction, group or ``positive`` is out of range.
    """
    _declared(n_classes, n_groups, positive)
    shapes = [np.shape(values) for values in (label, prediction, loss, group)]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise ValueError(f"label, prediction, loss and group must share one shape [n], but got {shapes}")
    label = _integers("label", label, "n_classes", n_classes)
    prediction = _integers("prediction", prediction, "n_classes", n_classes)
    group = _integers("group", group, "n_groups", n_groups)
    loss = np.asarray(loss, dtype=np.float64)

    flat = (group * n_classes + label) * n_classes + prediction  # its bin counts are much faster than np.add.at
    table = np.bincount(flat, minlength=n_groups * n_classes**2).reshape(n_groups, n_classes, n_classes)
    evaluation = measure(table, np.bincount(label, weights=loss, minlength=n_classes), positive)
    return replace(evaluation, metrics={name: float(value) for name, value in evaluation.metrics.items()})


def measure(table: np.ndarray, loss: np.ndarray, positive: int | None = None) -> Evaluation:
    """Every metric of counts ``table[..., g, y, yhat]`` (group, true class, predicted class; weights will do) and the
    summed ``loss[..., y]`` of each class. Each number has the leading axes: a bootstrap measures all draws at once.
    ``adjusted_accuracy`` is NaN: ``adjusted`` adds it.

    Raises ValueError as ``evaluate`` does.
    """
    *_, n_groups, n_classes, _ = table.shape
    classes = _declared(n_classes, n_groups, positive)
    hit = np.swapaxes(np.diagonal(table, axis1=-2, axis2=-1), -2, -1)  # [..., K, G], like the next two
    count, predicted = (np.swapaxes(table.sum(axis=axis), -2, -1) for axis in (-1, -2))
    negative = count.sum(axis=-2, keepdims=True) - count
    opportunity = _gap_to_rest(hit, count)[..., classes, :]
    odds_to_rest = np.maximum(opportunity, _gap_to_rest(predicted - hit, negative)[..., classes, :])
    odds = _odds_gap(hit, count, predicted - hit, negative)[..., classes]
    hits, counts, predictions = (part.sum(axis=-1) for part in (hit, count, predicted))
    by_class = {
        "count": counts,
        "predicted": predictions,
        "recall": _ratio(hits, counts),
        "precision": _ratio(hits, predictions),
        "f1": _f1(hits, counts, predictions),
        "loss": _ratio(loss, counts),
    }
    by_cell = {"count": count, "accuracy": _ratio(hit, count)}
    by_group = {
        "count": count.sum(axis=-2),
        "accuracy": _ratio(hit.sum(axis=-2), count.sum(axis=-2)),
        "macro_f1": _mean(_f1(hit, count, predicted), axis=-2),
        "eod": _mean(opportunity, axis=-2),
        "odds_gap": _mean(odds_to_rest, axis=-2),
    }
    images = counts.sum(axis=-1)
    cells = {"class": counts, "group": by_group["count"], "cell": _flat(count)}
    f1, recall = by_class["f1"], by_class["recall"]
    metrics: dict[str, Any] = {  # arrays, with the leading axes
        "accuracy": _ratio(hits.sum(axis=-1), images),
        "loss": _ratio(loss.sum(axis=-1), images),
        "min_f1": _min(f1),
        "median_f1": _median(f1),
        "delta_f1": _gap(f1),
        "macro_f1": _mean(f1),
        "min_recall": _min(recall),
        "median_recall": _median(recall),
        "mean_recall": _mean(recall),
        "loss_variance": _variance(by_class["loss"], counts > 0),
        "min_group_accuracy": _min(by_group["accuracy"]),
        "delta_group_accuracy": _gap(by_group["accuracy"]),
        "min_group_f1": _min(by_group["macro_f1"]),
        "delta_group_f1": _gap(by_group["macro_f1"]),
        "worst_cell_accuracy": _min(_flat(by_cell["accuracy"])),
        "adjusted_accuracy": np.full(np.shape(images), np.nan),
        "eod_max": _max(by_group["eod"]),
        "eod_max_cell": _max(_flat(opportunity)),
        "equalized_odds": _mean(odds),
        "equalized_odds_max": _max(odds),
        **{f"min_{name}_count": _min(np.where(sizes > 0, sizes, np.nan)) for name, sizes in cells.items()},
        "empty_cells": np.where(images > 0, (cells["cell"] == 0).sum(axis=-1), np.nan),
    }
    return Evaluation(metrics, table.sum(axis=-3), by_class, by_group, by_cell)


def adjusted(evaluation: Evaluation, training: np.ndarray) -> Evaluation:
    """``evaluation`` with its ``adjusted_accuracy``, for ``training`` images ``[K, G]`` by class and group.

    It is what the model would score on images made up like the training split. A cell that the evaluated split lacks is
    left out and the other cells' weights are scaled up to 1; NaN where no cell has images in both. Leading axes, as of
    ``measure``, are kept.
    """
    accuracy = evaluation.by_cell["accuracy"]
    weight = np.where(np.isnan(accuracy), 0.0, training)
    value = _ratio((weight * np.nan_to_num(accuracy)).sum(axis=(-2, -1)), weight.sum(axis=(-2, -1)))
    plain: Any = value if value.ndim else value.item()
    return replace(evaluation, metrics=evaluation.metrics | {"adjusted_accuracy": plain})


def cell_counts(label: np.ndarray, group: np.ndarray, n_classes: int, n_groups: int) -> np.ndarray:
    """Images by class and group, int ``[K, G]``, of int ``[n]`` labels and groups."""
    return np.bincount(label * n_groups + group, minlength=n_classes * n_groups).reshape(n_classes, n_groups)


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


# What has no value, NaN, is left out of every reduction; where nothing has one, the result is NaN. (np.nanmin and its
# kin would warn there.)


def _flat(values: np.ndarray) -> np.ndarray:
    """``[..., K, G]`` as ``[..., K * G]``."""
    return values.reshape(*values.shape[:-2], -1)


def _min(values: np.ndarray) -> np.ndarray:
    return np.fmin.reduce(values, axis=-1)


def _max(values: np.ndarray) -> np.ndarray:
    return np.fmax.reduce(values, axis=-1)


def _mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0.0).sum(axis=axis), present.sum(axis=axis))


def _median(values: np.ndarray) -> np.ndarray:
    n, ordered = (~np.isnan(values)).sum(axis=-1, keepdims=True), np.sort(values, axis=-1)  # NaN comes last
    low, high = (np.take_along_axis(ordered, (n - less) // 2, axis=-1)[..., 0] for less in (1, 0))
    return np.where(n[..., 0] > 0, (low + high) / 2, np.nan)


def _gap(values: np.ndarray) -> np.ndarray:
    """Largest minus smallest over the last axis; NaN below two values, as the 0 of a lone group would look perfectly
    fair."""
    return np.where((~np.isnan(values)).sum(axis=-1) > 1, _max(values) - _min(values), np.nan)


def _variance(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The population variance. What is present is told by count, not by value: a class whose loss diverged must show,
    not drop out."""
    n = present.sum(axis=-1)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, the honest answer
        mean = _ratio(np.where(present, values, 0.0).sum(axis=-1), n)[..., None]
        return _ratio((np.where(present, values - mean, 0.0) ** 2).sum(axis=-1), n)


def _f1(hit: np.ndarray, count: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), NaN exactly where the class does not occur; any shape."""
    return np.where(count > 0, _ratio(2 * hit, count + predicted), np.nan)


def _gap_to_rest(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``|rate(k, s) - rate(k, every group but s)|``, rate = part / whole, ``[..., K, G]``; NaN where either side has no
    sample. Of hits and samples of class k it is the gap in TPR, of false alarms and samples of other classes in FPR."""
    rest = _ratio(part.sum(axis=-1, keepdims=True) - part, whole.sum(axis=-1, keepdims=True) - whole)
    return np.abs(_ratio(part, whole) - rest)


def _odds_gap(hit: np.ndarray, count: np.ndarray, false_alarm: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The larger of the TPR gap and the FPR gap between groups, one class against the rest; ``[..., K]``. NaN unless
    both are known: a gap that is half measured would look fairer than it is."""
    return np.maximum(_gap(_ratio(hit, count)), _gap(_ratio(false_alarm, negative)))
