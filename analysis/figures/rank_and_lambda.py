"""An objective against the rank, and against λ: FairLoRA's figures 2 and 5.

A search tries many configurations at one rank. The line joins, at each rank, the configuration that the tables would
choose there (``configurations.CHOSEN_BY``); the others are faint dots. So a line does not show the best value that any
configuration of that rank had in this objective, which would flatter the ranks that were tried most.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import configurations, labels
from analysis.results import NothingToShow, Search
from trainables.config import METHODS

STEPS = {"rank": "rank", "lam": "decade of λ"}


def points(search: Search, over: str, by: str = configurations.CHOSEN_BY) -> pd.DataFrame:
    """The configurations of the methods that have ``over`` ("rank" or "lam"), sorted by it.

    ``chosen`` marks one for each method and value of ``over``: the best in ``by``. λ is continuous, so there a method's
    values are taken together by decade. Raises NothingToShow where there are none.
    """
    rows = configurations.eligible(search, by)
    rows = rows[rows["method"].isin(_having(over)) & rows[over].notna()]
    if rows.empty:
        raise NothingToShow(f"no complete configuration has a {labels.hyperparameter(over)} to draw against")
    steps = rows[over] if over == "rank" else decade(rows[over])
    kept = [configurations.best(same, by)["number"] for _, same in rows.groupby([rows["method"], steps])]
    return rows.assign(chosen=rows["number"].isin(kept)).sort_values([over, "number"], ignore_index=True)


def decade(lam: pd.Series) -> pd.Series:
    """The power of ten at or below each λ; -inf for λ = 0. 0.1 and 0.5 belong together: -1."""
    # Rounded, as the logarithm of 0.001 is a hair below -3.
    return np.floor(np.log10(lam.astype(float).where(lam > 0)).round(9)).fillna(-np.inf)


def others(search: Search, over: str, by: str = configurations.CHOSEN_BY) -> pd.DataFrame:
    """The chosen configuration of each method that has no ``over``: it is drawn as a level."""
    rows = configurations.chosen(search, by)
    return rows[~rows["method"].isin(_having(over))]


def _having(over: str) -> list[str]:
    return [name for name, method in METHODS.items() if over in method.hyperparameters]


def figure(search: Search, over: str, by: str = configurations.CHOSEN_BY) -> Figure:
    """One panel an objective, against ``over`` ("rank" or "lam"). Raises NothingToShow as ``points`` does."""
    rows, levels = points(search, over, by), others(search, over, by)
    names = search.objectives
    page = Figure(figsize=(3.9 * len(names), 3.6), layout="constrained")
    panels = page.subplots(1, len(names), squeeze=False)[0]
    for ax, objective in zip(panels, names):
        draw(ax, rows, levels, over, objective)
    handles, texts = panels[0].get_legend_handles_labels()
    page.legend(handles, texts, loc="outside lower center", ncols=len(texts), frameon=False, fontsize=8)
    page.suptitle(f"lines: at each {STEPS[over]} the best {labels.name(by)}; dots: all complete", fontsize=9)
    return page


def draw(ax: Axes, rows: pd.DataFrame, levels: pd.DataFrame, over: str, objective: str) -> None:
    """One objective against ``over``: lines through the chosen of ``points``, dots for all, a dashed level for each of
    ``others``."""
    places = _places(ax, rows[over], over)
    for method, style in labels.METHOD_STYLES.items():
        own = rows["method"] == method
        ax.scatter(
            places[own], rows.loc[own, objective], s=22, c=style.color, marker=style.marker, alpha=0.5, linewidths=0
        )
        best = rows[own & rows["chosen"]]
        if len(best):
            spread = best[f"{objective}_sd"].fillna(0.0) if best[f"{objective}_sd"].notna().any() else None
            bars = ax.errorbar(places[best.index], best[objective], spread, color=style.color, capsize=2)
            bars.lines[0].set(marker=style.marker, markersize=5, linewidth=1.3)
            bars.set_label(style.name)
    for row in levels.to_dict("records"):
        style = labels.METHOD_STYLES[row["method"]]
        level = ax.axhline(row[objective], color=style.color, linewidth=1.4, label=style.name, zorder=0)
        level.set_linestyle((0, style.dashes))
    ax.set_xlabel("rank (0: the head alone)" if over == "rank" else labels.hyperparameter(over))
    ax.set_ylabel(labels.axis(objective))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.spines[["top", "right"]].set_visible(False)


def _places(ax: Axes, values: pd.Series, over: str) -> pd.Series:
    """Where the values stand on the x axis, which is set up: ranks side by side at equal distances, λ by its logarithm
    (0 by a decade below the smallest)."""
    if over == "rank":
        ranks = sorted(values.unique())
        ax.set_xticks(range(len(ranks)), [f"{value:.0f}" for value in ranks])
        return values.map({value: float(place) for place, value in enumerate(ranks)})
    ax.set_xscale("log")
    smallest = values[values > 0].min() if (values > 0).any() else 1.0
    return values.astype(float).where(values > 0, smallest / 10)
