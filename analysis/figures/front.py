"""The front: what is claimed of all complete configurations in the first two objectives.

No figure of this package goes through pyplot, so none changes matplotlib's state. In each module of it,
``figure(search, ...)`` returns a page, and ``table(search, ...)``, where there is one, the same in numbers; both raise
NothingToShow where the search lacks what they show. ``by``, where there is one, is the metric that a configuration is
chosen by.
"""

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import claims, labels
from analysis.confirmation import arrows
from analysis.results import Search

BAND = "0.9"  # its grey
LEAST_SPAN = 0.02  # of an axis: two points that differ in nothing must not look worlds apart


def figure(search: Search) -> Figure:
    """What is claimed of the complete configurations in the first two objectives; those of the front are larger,
    labelled, and have bars: 95 % intervals of other seeds and images. Empty where nothing is complete.

    A line steps along what the front dominates, where its points can be told apart; those that cannot are one band.
    Arrows lead to what fresh trainings showed on the test split, where they were made.
    """
    page = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = page.add_subplot()
    claimed = claims.claims(search)
    rows = arrows(search)
    title = f"{search.name}: {int(rows['on_front'].sum())} of {len(rows)} complete configurations on the front"
    ax.set_title(title, fontsize=10, parse_math=False)  # a folder's name may hold a $
    x, y = (f"{name}_claimed" for name in search.objectives[:2])
    front = rows[rows["on_front"]].sort_values(x)
    # The step turns so that the line bounds what the front dominates.
    turn: Literal["pre", "post"] = "pre" if search.directions[0] == "maximize" else "post"
    if len(search.objectives) == 2:  # with three the front is a surface, which no line bounds
        wide = [band for band in claimed.bands() if len(band) > 1] if claimed.known else []
        for band in wide:
            own = front.loc[front.index.isin(band)]
            ax.plot(own[x], own[y], color=BAND, linewidth=14, solid_capstyle="round", zorder=0)
        if wide:
            ax.plot([], [], color=BAND, linewidth=7, label="cannot be told apart")
        else:
            ax.step(front[x], front[y], where=turn, color="0.6", linewidth=1, zorder=1)
    for method, style in labels.METHOD_STYLES.items():
        for each, size, alpha in ((rows[~rows["on_front"]], 26, 0.45), (front, 80, 1.0)):
            own = each[each["method"] == method]
            ax.scatter(own[x], own[y], s=size, c=style.color, marker=style.marker, alpha=alpha, linewidths=0, zorder=2)
        if (rows["method"] == method).any():
            ax.scatter([], [], s=40, c=style.color, marker=style.marker, label=style.name)
    halves = [front[f"{name}_half"] for name in search.objectives[:2]]
    if claimed.known and len(front):
        label = f"95 % interval: {claimed.luck}"
        ax.errorbar(
            front[x], front[y], halves[1], halves[0], fmt="none", ecolor="0.6", elinewidth=0.8, zorder=1, label=label
        )
    ends = [f"{name}_test" for name in search.objectives[:2]]
    tested = front.dropna(subset=ends)
    for row in tested.to_dict("records"):
        arrow = {"arrowstyle": "->", "color": labels.METHOD_STYLES[row["method"]].color, "linewidth": 1.0, "alpha": 0.8}
        ax.annotate("", (row[ends[0]], row[ends[1]]), (row[x], row[y]), arrowprops=arrow, zorder=3)
    if len(tested):
        ax.plot(
            [], [], color="0.4", marker=r"$\rightarrow$", markersize=11, linewidth=0, label="test split, fresh seeds"
        )
    right, up = (direction == "maximize" for direction in search.directions[:2])
    ha: Literal["left", "right"] = "left" if right else "right"
    va: Literal["bottom", "top"] = "bottom" if up else "top"
    for point, equal in front.groupby([x, y]):  # trials of equal results share a label
        label = ", ".join(map(str, sorted(equal["number"])))
        # On the side where no point can be, as it would dominate this one.
        offset = (5 if right else -5, 4 if up else -4)
        ax.annotate(label, point, offset, textcoords="offset points", fontsize=8, ha=ha, va=va)
    ax.ticklabel_format(useOffset=False)
    ax.set_xlabel(labels.axis(search.objectives[0]))
    ax.set_ylabel(labels.axis(search.objectives[1]))
    ax.spines[["top", "right"]].set_visible(False)
    if len(front):
        ax.set(xlim=limits(rows, search.objectives[0]), ylim=limits(rows, search.objectives[1]))
        outside = len(rows) - int((rows[x].between(*ax.get_xlim()) & rows[y].between(*ax.get_ylim())).sum())
        if outside:
            note, place = f"outside the frame: {outside}", (0.01 if right else 0.99, 0.02 if up else 0.99)
            ax.text(*place, note, transform=ax.transAxes, fontsize=7, color="0.4", ha=ha, va=va)
    if len(rows):
        # Matplotlib's number of the ideal corner, far from most points.
        corner = {(True, True): 1, (False, True): 2, (False, False): 3, (True, False): 4}[right, up]
        ax.legend(frameon=False, fontsize=8, handlelength=1.2, loc=corner)
    return page


def limits(rows: pd.DataFrame, name: str) -> tuple[float, float]:
    """Limits of the axis of ``name`` for rows of ``claims``, that show the whole front with the ends of its bars and of
    its arrows to the test split, and leave out outliers (Tukey: 1.5 interquartile ranges). One bad trial would
    otherwise press all others into a corner."""
    values, front = rows[f"{name}_claimed"].to_numpy(), rows[rows["on_front"]]
    spread = front[f"{name}_half"].fillna(0.0)
    q1, q3 = np.percentile(values, [25, 75])
    usual = values[(values >= q1 - 1.5 * (q3 - q1)) & (values <= q3 + 1.5 * (q3 - q1))]
    ends, tests = front[f"{name}_claimed"], front.get(f"{name}_test", pd.Series(dtype=float)).dropna()
    shown = np.concatenate([usual, ends - spread, ends + spread, tests])
    margin = max(0.06 * np.ptp(shown), 0.5 * (LEAST_SPAN - np.ptp(shown)), 1e-3)
    return float(shown.min() - margin), float(shown.max() + margin)
