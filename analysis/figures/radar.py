"""All metrics of the chosen configurations at a glance, oriented so that outside is better: FairLoRA's figures 3 and 4.

A radar misleads when it stands alone: each spoke is stretched from the worst to the best of the methods shown, however
close they are, and its area depends on the order of the spokes. The figure says so, and ``values`` is the table that
belongs beside it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from analysis import configurations, labels
from analysis.results import NothingToShow, Search

SPOKES = (
    *("val_accuracy", "val_min_f1", "val_min_recall", "val_delta_f1", "val_loss_variance"),
    *("val_worst_cell_accuracy", "val_min_group_accuracy", "val_delta_group_accuracy"),
    *("val_eod_max", "val_equalized_odds"),
)


def figure(search: Search, metrics: Sequence[str] = SPOKES, by: str = configurations.CHOSEN_BY) -> Figure:
    """The radar of ``configurations.chosen``. Raises NothingToShow where fewer than two methods are complete."""
    rows = configurations.chosen(search, by)
    if len(rows) < 2:
        raise NothingToShow(f"a radar compares methods, but only {rows['method'][0]} has a complete configuration")
    page = Figure(figsize=(6.2, 6.0), layout="constrained")
    ax = page.add_subplot(projection="polar")
    assert isinstance(ax, PolarAxes)
    page.suptitle(
        "validation metrics; each spoke from the worst (centre) to the best (rim)\nof the methods shown, "
        f"so small differences look large ({configurations.seeds_in_words(search)})",
        fontsize=9,
    )
    table = scaled(rows, metrics)
    angles = np.linspace(0, 2 * np.pi, table.shape[1], endpoint=False)
    for row, values in zip(rows.to_dict("records"), table.to_numpy()):
        style = labels.METHOD_STYLES[row["method"]]
        closed, turn = np.append(values, values[:1]), np.append(angles, angles[:1])
        (line,) = ax.plot(turn, closed, color=style.color, marker=style.marker, markersize=5, linewidth=1.6)
        line.set(linestyle=(0, style.dashes), label=configurations.title(row), clip_on=False)
        ax.fill(turn, closed, color=style.color, alpha=0.06)
    ax.set_theta_offset(np.pi / 2)
    ax.set_theta_direction(-1)
    ends = rows[list(table)].agg(["min", "max"]).astype(float)  # what centre and rim stand for
    spokes = [(name, *(ends[name] if labels.sign(name) > 0 else ends[name][::-1])) for name in table]
    texts = [f"{labels.name(name)}\n{worst:.3g} → {best:.3g}" for name, worst, best in spokes]
    ax.set_xticks(angles, texts, fontsize=7.5)
    for label, angle in zip(ax.get_xticklabels(), angles):  # its text begins at the rim and goes outwards
        across, up = np.sin(angle), np.cos(angle)
        label.set_horizontalalignment("center" if abs(across) < 0.2 else "left" if across > 0 else "right")
        label.set_verticalalignment("center" if abs(up) < 0.7 else "bottom" if up > 0 else "top")
    ax.set_yticks([0, 0.5, 1], ["", "", ""])
    ax.set_ylim(-0.12, 1.0)
    ax.grid(color="0.85", linewidth=0.7)
    ax.spines["polar"].set_color("0.85")
    page.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return page


def scaled(rows: pd.DataFrame, metrics: Sequence[str] = SPOKES) -> pd.DataFrame:
    """``metrics`` of ``rows``, each in [0, 1]: 0 the worst of the rows, 1 the best, all 1 where they are equal.

    A metric that any row lacks is left out: a polygon has no gaps.
    """
    whole = [name for name in metrics if name in rows and rows[name].notna().all()]
    oriented = rows[whole].astype(float) * [labels.sign(name) for name in whole]
    low, high = oriented.min(), oriented.max()
    return ((oriented - low) / (high - low).where(high > low)).fillna(1.0)
