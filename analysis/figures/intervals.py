"""How much of a trial's numbers is the luck of the validation images: 95 % intervals from its confusion table.

The images are drawn anew with replacement (Efron's bootstrap, 1979), which for these metrics means: new counts of the
confusion table. The interval is the "basic" one, 2 m - q: a gap such as ΔF1 is the largest of noisy numbers less the
smallest, hence too large on average, and once more so in every resample; the basic interval takes that off where the
percentile interval would add it. In simulations (200 each; 10 and 40 classes, 300 and 1,000 images) the basic interval
held the true ΔF1 90 to 94 % of the time, the percentile interval 0 to 57 %; accuracy 94 to 96 %, medians 83 to 92 %.
It says nothing of other seeds: one trained model is measured on other images.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import labels
from analysis.results import NothingToShow, Search

Confusions = Mapping[int, Any]  # of a search: by a trial's number, counts [K, K] of true by predicted class
LEVEL = 0.95
REPEATS = 2000


def _rates(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 and recall of each class, ``[R, K]``, of tables ``[R, K, K]`` (true by predicted); NaN without support."""
    hit, count, predicted = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2), confusion.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(count > 0, 2 * hit / (count + predicted), np.nan)
        return f1, np.where(count > 0, hit / count, np.nan)


MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "val_accuracy": lambda c: np.trace(c, axis1=1, axis2=2) / c.sum(axis=(1, 2)),
    "val_min_f1": lambda c: np.nanmin(_rates(c)[0], axis=1),
    "val_median_f1": lambda c: np.nanmedian(_rates(c)[0], axis=1),
    "val_delta_f1": lambda c: np.nanmax(_rates(c)[0], axis=1) - np.nanmin(_rates(c)[0], axis=1),
    "val_macro_f1": lambda c: np.nanmean(_rates(c)[0], axis=1),
    "val_min_recall": lambda c: np.nanmin(_rates(c)[1], axis=1),
    "val_median_recall": lambda c: np.nanmedian(_rates(c)[1], axis=1),
    "val_mean_recall": lambda c: np.nanmean(_rates(c)[1], axis=1),
}


def bootstrap(
    confusion: Any, metrics: Iterable[str], repeats: int = REPEATS, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """A 95 % interval, (low, high) within [0, 1], of each of ``metrics`` that ``confusion`` determines (``MEASURES``).
    It need not hold the point: a gap between classes of few images is that much too large.

    ``confusion``: int ``[K, K]``, true class by predicted class, with at least one image; else raises ValueError.
    """
    table = np.asarray(confusion)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or table.sum() < 1:
        raise ValueError(f"confusion must be [K, K] counts of at least one image, but has shape {table.shape}")
    total, tail = int(table.sum()), (1 - LEVEL) / 2
    drawn = np.random.default_rng(seed).multinomial(total, table.ravel() / total, repeats).reshape(-1, *table.shape)
    intervals = {}
    for name in metrics:
        if name in MEASURES:
            low, high = map(float, np.quantile(MEASURES[name](drawn), [tail, 1 - tail]))
            middle = float(MEASURES[name](table[None])[0])
            if high > low:  # a class without a hit, or all of them right, comes out alike in every draw: not known
                intervals[name] = (max(0.0, 2 * middle - high), min(1.0, 2 * middle - low))
    return intervals


def of_front(search: Search, confusions: Confusions) -> pd.DataFrame:
    """The front's trials whose confusion table is known, with their interval of each objective.

    Columns: ``number``, ``method``, each objective, ``<objective>_low`` and ``<objective>_high``; NaN where a confusion
    table does not determine it.
    """
    front = search.trials[search.trials["on_front"] & search.trials["number"].isin(list(confusions))]
    rows = front[["number", "method", *search.objectives]].reset_index(drop=True)
    intervals = [bootstrap(confusions[number], search.objectives) for number in rows["number"]]
    for name in search.objectives:
        ends = [each.get(name, (np.nan, np.nan)) for each in intervals]
        rows[[f"{name}_low", f"{name}_high"]] = np.array(ends).reshape(len(rows), 2)
    return rows


def figure(search: Search, confusions: Confusions) -> Figure:
    """The front's trials in the first two objectives, each with a cross of its two intervals. A basic interval need not
    hold its point, so bars are drawn from end to end. Raises NothingToShow where no trial has intervals."""
    rows = of_front(search, confusions)
    if rows.empty:
        raise NothingToShow("no trial on the front has a confusion table, so there are no intervals")
    page = Figure(figsize=(6.4, 4.4), layout="constrained")
    page.suptitle("front's trials with 95 % intervals over the validation images (bootstrap)", fontsize=10)
    ax, (x, y) = page.add_subplot(), search.objectives[:2]
    for row in rows.to_dict("records"):
        style = labels.METHOD_STYLES[row["method"]]
        ax.hlines(row[y], row[f"{x}_low"], row[f"{x}_high"], color=style.color, linewidth=1, alpha=0.7, zorder=1)
        ax.vlines(row[x], row[f"{y}_low"], row[f"{y}_high"], color=style.color, linewidth=1, alpha=0.7, zorder=1)
        ax.scatter(row[x], row[y], s=50, c=style.color, marker=style.marker, linewidths=0, zorder=2)
        ax.annotate(str(row["number"]), (row[x], row[y]), (5, 5), textcoords="offset points", fontsize=8)
    for method in dict.fromkeys(rows["method"]):
        style = labels.METHOD_STYLES[method]
        ax.scatter([], [], s=40, c=style.color, marker=style.marker, label=style.name)
    ax.set_xlabel(labels.axis(x))
    ax.set_ylabel(labels.axis(y))
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return page
