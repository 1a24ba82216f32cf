"""How much of a trial's numbers is the luck of the validation images: 95 % intervals of each metric.

The images are drawn anew with replacement (Efron's bootstrap, 1979); where it is known whose they are, the subjects,
each with all its images, as images of one subject are right and wrong together. The interval is the "basic" one, 2 m -
q: a gap such as ΔF1 is the largest of noisy numbers less the smallest, hence too large on average, and once more so in
every resample; the basic interval takes that off where the percentile interval would add it. In simulations (200 each;
10 and 40 classes, 300 and 1,000 images) the basic interval held the true ΔF1 90 to 94 % of the time, the percentile
interval 0 to 57 %; accuracy 94 to 96 %, medians 83 to 92 %. Where subjects differ in how hard they are (200 each; 250
subjects of 4 images, 44 of 9, 20 of 20), accuracy's held 95, 90 to 94 and 91 % over subjects, 82, 74 to 77 and 58 %
over images.
It says nothing of other seeds: one trained model is measured on other images.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import labels
from analysis.estimates import LEVEL
from analysis.predictions import Sample
from analysis.results import NothingToShow, Search
from trainables.metrics import METRICS

Samples = Mapping[int, Sample]  # of a search: by a trial's number
REPEATS = 2000


def bootstrap(
    sample: Sample, metrics: Iterable[str], repeats: int = REPEATS, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """A 95 % interval, (low, high), of each of ``metrics`` that ``sample`` has: no lower than 0, of a rate no
    higher than 1. It need not hold the point: a gap between classes of few images is that much too large."""
    drawn, points, tail = sample.draws(repeats, seed), sample.metrics, (1 - LEVEL) / 2
    intervals = {}
    for name in metrics:
        if name in drawn and not np.isnan(points[name]):
            low, high = map(float, np.nanquantile(drawn[name], [tail, 1 - tail]))
            if high > low:  # a class without a hit, or all of them right, comes out alike in every draw: not known
                top = np.inf if METRICS[name.removeprefix("val_")].unit else 1.0
                intervals[name] = (max(0.0, 2 * points[name] - high), min(top, 2 * points[name] - low))
    return intervals


def of_front(search: Search, samples: Samples) -> pd.DataFrame:
    """The front's trials that have a sample, with their interval of each objective.

    Columns: ``number``, ``method``, each objective, ``<objective>_low`` and ``<objective>_high``; NaN where the sample
    does not determine it.
    """
    front = search.trials[search.trials["on_front"] & search.trials["number"].isin(list(samples))]
    rows = front[["number", "method", *search.objectives]].reset_index(drop=True)
    intervals = [bootstrap(samples[number], search.objectives) for number in rows["number"]]
    for name in search.objectives:
        ends = [each.get(name, (np.nan, np.nan)) for each in intervals]
        rows[[f"{name}_low", f"{name}_high"]] = np.array(ends).reshape(len(rows), 2)
    return rows


def figure(search: Search, samples: Samples) -> Figure:
    """The front's trials in the first two objectives, each with a cross of its two intervals. A basic interval need not
    hold its point, so bars are drawn from end to end. Raises NothingToShow where no trial has intervals."""
    rows = of_front(search, samples)
    if rows.empty:
        raise NothingToShow("the search kept no predictions of the trials on its front, so there are no intervals")
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
