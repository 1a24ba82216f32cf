"""The front: the first two objectives of all complete configurations.

No figure of this package goes through pyplot, so none changes matplotlib's state. In each module of it,
``figure(search, ...)`` returns a page, and ``table(search, ...)``, where there is one, the same in numbers; both raise
NothingToShow where the search lacks what they show. ``by``, where there is one, is the metric that a configuration is
chosen by.
"""

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import configurations, labels
from analysis.results import Search

LEAST_SPAN = 0.02  # of an axis: two points that differ in nothing must not look worlds apart


def figure(search: Search) -> Figure:
    """The first two objectives; the front is joined, labelled and larger. Empty where nothing is complete.

    Where a configuration was trained with several seeds, its point is their mean, with bars of a standard deviation.
    """
    page = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = page.add_subplot()
    rows = configurations.complete(search)
    what = "trials" if search.seeds == 1 else f"configurations ({search.seeds} seeds each)"
    title = f"{search.name}: {int(rows['on_front'].sum())} of {len(rows)} {what} on the front"
    ax.set_title(title, fontsize=10, parse_math=False)  # a folder's name may hold a $
    x, y = search.objectives[:2]
    front = rows[rows["on_front"]].sort_values(x)
    # The step turns so that the line bounds what the front dominates.
    turn: Literal["pre", "post"] = "pre" if search.directions[0] == "maximize" else "post"
    ax.step(front[x], front[y], where=turn, color="0.6", linewidth=1, zorder=1)
    for method, style in labels.METHOD_STYLES.items():
        for each, size, alpha in ((rows[~rows["on_front"]], 26, 0.45), (front, 80, 1.0)):
            own = each[each["method"] == method]
            ax.scatter(own[x], own[y], s=size, c=style.color, marker=style.marker, alpha=alpha, linewidths=0, zorder=2)
        if (rows["method"] == method).any():
            ax.scatter([], [], s=40, c=style.color, marker=style.marker, label=style.name)
    if search.seeds > 1:
        ax.errorbar(front[x], front[y], front[f"{y}_sd"], front[f"{x}_sd"], fmt="none", ecolor="0.6", zorder=1)
    for point, equal in front.groupby([x, y]):  # trials of equal results share a label
        label = ", ".join(map(str, sorted(equal["number"])))
        ax.annotate(label, point, (5, 5), textcoords="offset points", fontsize=8)
    ax.ticklabel_format(useOffset=False)
    ax.set_xlabel(labels.axis(x))
    ax.set_ylabel(labels.axis(y))
    ax.spines[["top", "right"]].set_visible(False)
    if len(front):
        ax.set(xlim=limits(rows, x), ylim=limits(rows, y))
        outside = len(rows) - int((rows[x].between(*ax.get_xlim()) & rows[y].between(*ax.get_ylim())).sum())
        if outside:
            ax.text(0.01, 0.02, f"outside the frame: {outside}", transform=ax.transAxes, fontsize=7, color="0.4")
    if len(rows):
        ax.legend(frameon=False, fontsize=8)
    return page


def limits(rows: pd.DataFrame, name: str) -> tuple[float, float]:
    """Limits of the axis of ``name`` that show the whole front with the ends of its bars, and leave out outliers
    (Tukey: 1.5 interquartile ranges). One collapsed trial would otherwise press all others into a corner."""
    values, front = rows[name].to_numpy(), rows[rows["on_front"]]
    spread = front[f"{name}_sd"].fillna(0.0)  # one seed has none
    q1, q3 = np.percentile(values, [25, 75])
    usual = values[(values >= q1 - 1.5 * (q3 - q1)) & (values <= q3 + 1.5 * (q3 - q1))]
    shown = np.concatenate([usual, front[name] - spread, front[name] + spread])
    margin = max(0.06 * np.ptp(shown), 0.5 * (LEAST_SPAN - np.ptp(shown)), 1e-3)
    return float(shown.min() - margin), float(shown.max() + margin)
