"""Figures of a search: what is drawn is computed first, drawing takes an Axes. No pyplot, so no global state."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import configurations, labels
from analysis.results import Search

# Okabe and Ito's palette: told apart by colour-blind readers, and by shape besides.
STYLES = {"lora": ("#0072B2", "o"), "fairlora": ("#D55E00", "D"), "fft": ("#009E73", "s"), "fairfft": ("#CC79A7", "^")}
LEAST_SPAN = 0.02  # of an axis: two points that differ in nothing must not look worlds apart


def front_steps(front: pd.DataFrame, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The front's points sorted by ``x``, to be joined by steps."""
    ordered = front.sort_values(x)
    return ordered[x].to_numpy(), ordered[y].to_numpy()


def frame(values: np.ndarray, members: np.ndarray) -> tuple[float, float]:
    """Limits of an axis that shows all ``members`` and leaves out outliers (Tukey: 1.5 interquartile ranges).

    One collapsed trial would otherwise press all others into a corner.
    """
    q1, q3 = np.percentile(values, [25, 75])
    fences = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    shown = np.concatenate([values[(values >= fences[0]) & (values <= fences[1])], members])
    margin = max(0.06 * np.ptp(shown), 0.5 * (LEAST_SPAN - np.ptp(shown)), 1e-3)
    return float(shown.min() - margin), float(shown.max() + margin)


def draw_front(ax: Axes, search: Search) -> None:
    """Scatter of the first two objectives over the complete trials; the front is joined, labelled and larger.

    Where a configuration was trained with several seeds, its point is their mean, with bars of a standard deviation.
    """
    x, y = search.objectives[:2]
    complete = by_configuration(search)
    front = complete[complete["on_front"]]
    ax.step(*front_steps(front, x, y), where=_corner(search.directions), color="0.6", linewidth=1, zorder=1)
    for method, (color, marker) in STYLES.items():
        for rows, size, alpha in ((complete[~complete["on_front"]], 26, 0.45), (front, 80, 1.0)):
            chosen = rows[rows["method"] == method]
            ax.scatter(chosen[x], chosen[y], s=size, c=color, marker=marker, alpha=alpha, linewidths=0, zorder=2)
        if (complete["method"] == method).any():
            ax.scatter([], [], s=40, c=color, marker=marker, label=method)
    if search.seeds > 1:
        ax.errorbar(front[x], front[y], front[f"{y}_sd"], front[f"{x}_sd"], fmt="none", ecolor="0.6", zorder=1)
    for point, rows in front.groupby([x, y]):  # trials of equal results share a label
        label = ", ".join(map(str, sorted(rows["number"])))
        ax.annotate(label, point, (5, 5), textcoords="offset points", fontsize=8)
    ax.ticklabel_format(useOffset=False)
    ax.set_xlabel(labels.axis(x))
    ax.set_ylabel(labels.axis(y))
    _fit_frame(ax, complete, front, x, y)
    if len(complete):
        ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def by_configuration(search: Search) -> pd.DataFrame:
    """One row a configuration that is complete with every seed: number (its first trial's), method, on_front, the mean
    of each objective over its seeds, and their standard deviation in ``<objective>_sd`` (NaN with one seed)."""
    values = [column for name in search.objectives for column in (name, f"{name}_sd")]
    return configurations.complete(search)[["number", "method", "on_front", *values]]


def _fit_frame(ax: Axes, complete: pd.DataFrame, front: pd.DataFrame, x: str, y: str) -> None:
    """Set the limits and say how many trials lie outside of them."""
    if not len(front):
        return
    left, right = limits(complete, x)
    low, high = limits(complete, y)
    ax.set(xlim=(left, right), ylim=(low, high))
    outside = len(complete) - int((complete[x].between(left, right) & complete[y].between(low, high)).sum())
    if outside:
        ax.text(0.01, 0.02, f"outside the frame: {outside}", transform=ax.transAxes, fontsize=7, color="0.4")


def limits(points: pd.DataFrame, name: str) -> tuple[float, float]:
    """The frame of ``name`` around ``by_configuration``'s points, the front's with the ends of their bars."""
    front = points[points["on_front"]]
    spread = front[f"{name}_sd"].fillna(0.0)  # one seed has none
    return frame(points[name].to_numpy(), np.concatenate([front[name], front[name] - spread, front[name] + spread]))


def _corner(directions: list[str]) -> str:
    """Which way a step turns so that the line bounds what the front dominates."""
    return "pre" if directions[0] == "maximize" else "post"


def front_figure(search: Search) -> Figure:
    """The front of ``search`` on a page of its own."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.add_subplot()
    draw_front(ax, search)
    points = by_configuration(search)
    what = "trials" if search.seeds == 1 else f"configurations ({search.seeds} seeds each)"
    title = f"{search.name}: {int(points['on_front'].sum())} of {len(points)} {what} on the front"
    ax.set_title(title, fontsize=10, parse_math=False)  # a folder's name may hold a $
    return figure
