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
from analysis.figures.front import STYLES
from analysis.results import Search
from trainables.config import METHODS

HAS = {"rank": lambda method: METHODS[method].lora, "lam": lambda method: METHODS[method].fair}
DASHES = {"lora": (0, (1, 1.5)), "fairlora": "-", "fft": (0, (6, 2)), "fairfft": (0, (6, 2, 1, 2))}
X_LABELS = {"rank": "rank (0: the head alone)", "lam": "λ"}


def points(search: Search, over: str, by: str = configurations.CHOSEN_BY) -> pd.DataFrame:
    """The configurations of the methods that have ``over`` ("rank" or "lam"), sorted by it.

    ``chosen`` marks one for each method and value of ``over``: the best in ``by``. λ is continuous, so there a method's
    values are taken together by decade.
    """
    rows = configurations.eligible(search, by)
    rows = rows[rows["method"].map(HAS[over]).astype(bool) & rows[over].notna()]
    places = rows[over] if over == "rank" else decade(rows[over])
    kept = [configurations.best(same, by)["number"] for _, same in rows.groupby([rows["method"], places])]
    return rows.assign(chosen=rows["number"].isin(kept)).sort_values([over, "number"], ignore_index=True)


def decade(lam: pd.Series) -> pd.Series:
    """The power of ten at or below each λ; -inf for λ = 0. 0.1 and 0.5 belong together: -1."""
    # Rounded, as the logarithm of 0.001 is a hair below -3.
    return np.floor(np.log10(lam.astype(float).where(lam > 0)).round(9)).fillna(-np.inf)


def others(search: Search, over: str, by: str = configurations.CHOSEN_BY) -> pd.DataFrame:
    """The chosen configuration of each method that has no ``over``: it is drawn as a level."""
    rows = configurations.chosen(search, by)
    return rows[~rows["method"].map(HAS[over]).astype(bool)]


def draw(ax: Axes, search: Search, over: str, objective: str, by: str = configurations.CHOSEN_BY) -> None:
    """One objective against ``over``: lines through the chosen, dots for all, dashed levels for methods without it."""
    rows = points(search, over, by)
    places = _places(ax, rows[over], over)
    for method, (color, marker) in STYLES.items():
        own = rows["method"] == method
        best = rows[own & rows["chosen"]]
        ax.scatter(places[own], rows.loc[own, objective], c=color, marker=marker, s=22, alpha=0.5, linewidths=0)
        if len(best):
            spread = best[f"{objective}_sd"].fillna(0.0) if search.seeds > 1 else None
            style = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.3, "capsize": 2}
            ax.errorbar(places[best.index], best[objective], spread, **style, label=labels.METHOD_NAMES[method])
    for row in others(search, over, by).to_dict("records"):
        color = STYLES[row["method"]][0]
        style = {"color": color, "linestyle": DASHES[row["method"]], "linewidth": 1.4}
        ax.axhline(row[objective], **style, label=labels.METHOD_NAMES[row["method"]], zorder=0)
    ax.set_xlabel(X_LABELS[over])
    ax.set_ylabel(labels.axis(objective))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.spines[["top", "right"]].set_visible(False)


def _places(ax: Axes, values: pd.Series, over: str) -> pd.Series:
    """Where the values stand on the x axis, which is set up: ranks side by side at equal distances, λ by its logarithm
    (0 by a decade below the smallest)."""
    if over == "rank":
        known = sorted(values.unique())
        ax.set_xticks(range(len(known)), [f"{value:.0f}" for value in known])
        return values.map({value: float(place) for place, value in enumerate(known)})
    ax.set_xscale("log")
    smallest = values[values > 0].min() if (values > 0).any() else 1.0
    return values.astype(float).where(values > 0, smallest / 10)


def figure(search: Search, over: str, by: str = configurations.CHOSEN_BY) -> Figure:
    """One panel an objective. Raises ValueError where no complete configuration has ``over``."""
    rows = points(search, over, by)
    if not len(rows):
        name = X_LABELS[over].partition(" ")[0]
        raise ValueError(f"no complete configuration has a {name}, so nothing can be drawn against it")
    names = search.objectives
    page = Figure(figsize=(3.9 * len(names), 3.6), layout="constrained")
    panels = page.subplots(1, len(names), squeeze=False)[0]
    for ax, objective in zip(panels, names):
        draw(ax, search, over, objective, by)
    handles, texts = panels[0].get_legend_handles_labels()
    page.legend(handles, texts, loc="outside lower center", ncols=len(texts), frameon=False, fontsize=8)
    page.suptitle(f"lines: at each {_step(over)} the best {labels.name(by)}; dots: all complete", fontsize=9)
    return page


def _step(over: str) -> str:
    return "rank" if over == "rank" else "decade of λ"
