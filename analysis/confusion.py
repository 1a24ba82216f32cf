"""The confusion matrix of one trial as a figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NAMED = 45  # classes whose names still find room beside the matrix
WRITTEN = 16  # classes up to which each cell carries its count
LONGEST = 18  # characters of a name


def shares(confusion) -> np.ndarray:
    """Each row of ``[K, K]`` (true class by predicted class) divided by its sum; NaN where a class has no image."""
    confusion = np.asarray(confusion, float)
    total = confusion.sum(axis=1, keepdims=True)
    return np.divide(confusion, total, out=np.full_like(confusion, np.nan), where=total > 0)


def draw_confusion(ax: Axes, confusion, classes: Sequence[str]) -> None:
    """Shades by the share of the true class, counts in the cells; a class without images is grey."""
    share = shares(confusion)
    ax.set_facecolor("0.85")
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= NAMED:
        names = shortened(classes)
        ticks = range(len(classes))
        ax.set_xticks(ticks, names, rotation=90, fontsize=7, parse_math=False)  # a name may hold a $
        ax.set_yticks(ticks, names, fontsize=7, parse_math=False)
    if len(classes) <= WRITTEN:
        for (row, column), number in np.ndenumerate(np.asarray(confusion)):
            if number:
                white = share[row, column] > 0.55
                ax.text(column, row, int(number), ha="center", va="center", fontsize=7, color="w" if white else "0.2")
    ax.set(xlabel="predicted class", ylabel="true class")


def shortened(classes: Sequence[str]) -> list[str]:
    return [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in classes]


def confusion_figure(confusion, classes: Sequence[str], title: str) -> Figure:
    """The matrix on a page of its own, validation split. One is drawn for every trial of a search, so the margins are
    reckoned: letting matplotlib lay out the page would draw it twice."""
    cells = min(len(classes), NAMED)
    longest = max(map(len, shortened(classes))) if len(classes) <= NAMED else 3
    margin = 0.55 + 0.075 * longest  # inches: the axis' name, then the classes'
    matrix = max(2.4, (0.3 if len(classes) <= WRITTEN else 0.14) * cells)
    width, height = margin + matrix + 0.2, margin + matrix + 0.35
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((margin / width, margin / height, matrix / width, matrix / height))
    draw_confusion(ax, confusion, classes)
    figure.suptitle(f"{title}, validation split", fontsize=9, y=1 - 0.08 / height, va="top", parse_math=False)
    return figure
