"""What the fairness penalty changes: FairLoRA less LoRA, FairFFT less FFT.

Where a search holds configurations that differ in nothing but the penalty, each such pair is compared, seed by seed:
rank, learning rate and all else are equal, so the difference is the penalty's. Where it holds none (a sampler seldom
draws the same learning rate twice), the best of the one is compared with the best of the other, and that is said: there
the difference is of everything that was searched.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import configurations, labels
from analysis.figures.front import STYLES
from analysis.html.table import Table
from analysis.results import Search
from trainables.config import FAIR_HYPERPARAMETERS, FIELDS

PARTNERS = {"fairlora": "lora", "fairfft": "fft"}
EQUAL, BEST = "equal but for the penalty", "best against best"
MEASURED = ("val_accuracy", "val_delta_f1", "val_min_f1", "val_loss_variance")


def metrics(search: Search) -> list[str]:
    """The metrics that are compared: the search's objectives, then ``MEASURED``."""
    return list(dict.fromkeys([*search.objectives, *MEASURED]))


def pairs(search: Search, by: str = configurations.CHOSEN_BY) -> pd.DataFrame:
    """A row a pair: ``fair`` and ``plain`` (numbers of their first trials), ``method`` (the fair one), ``title``,
    ``kind`` (``EQUAL`` or ``BEST``), and of each of ``metrics`` the mean difference over seeds, fair less plain, and
    its standard deviation (``<metric>_sd``, NaN with one seed)."""
    rows = configurations.eligible(search, by)
    found = [pair for method in PARTNERS for pair in _pairs_of(rows, method, by)]
    return pd.DataFrame([_row(search, *pair) for pair in found])


def _pairs_of(rows: pd.DataFrame, method: str, by: str) -> list[tuple[pd.Series, pd.Series, str]]:
    fair, plain = rows[rows["method"] == method], rows[rows["method"] == PARTNERS[method]]
    partners = {_key(row): row for _, row in plain.iterrows()}
    equal = [(row, partners[_key(row)], EQUAL) for _, row in fair.iterrows() if _key(row) in partners]
    if equal or not len(fair) or not len(plain):
        return equal
    return [(configurations.best(fair, by), configurations.best(plain, by), BEST)]


def _key(row: pd.Series) -> tuple:
    """All hyperparameters but the penalty's."""
    names = [name for name in FIELDS if name in row and name not in ("method", "seed", *FAIR_HYPERPARAMETERS)]
    return tuple(None if pd.isna(row[name]) else row[name] for name in names)


def _row(search: Search, fair: pd.Series, plain: pd.Series, kind: str) -> dict:
    title = configurations.title(fair)
    if kind == BEST:
        title = f"{title} less {configurations.title(plain)}"
    row = {"fair": fair["number"], "plain": plain["number"], "method": fair["method"], "title": title, "kind": kind}
    trials, seeds = search.trials.set_index("number"), np.arange(search.seeds)
    for name in metrics(search):
        difference = trials.loc[fair["number"] + seeds, name].to_numpy() - trials.loc[plain["number"] + seeds, name]
        row[name], row[f"{name}_sd"] = difference.mean(), difference.std()
    return row


def table(search: Search, by: str = configurations.CHOSEN_BY) -> Table:
    """The differences, those that are improvements in bold."""
    found, names = pairs(search, by), metrics(search)
    rows = tuple(
        (row["title"], f"{row['fair']} less {row['plain']}", row["kind"], *(_cell(row, name) for name in names))
        for row in found.to_dict("records")
    )
    better = frozenset(
        (i, 3 + j)
        for i, row in enumerate(found.to_dict("records"))
        for j, name in enumerate(names)
        if row[name] * labels.sign(name) > 0
    )
    header = ("configuration", "trials", "compared", *(labels.heading(name) for name in names))
    note = (
        "Fair less plain; bold: better with the penalty. Rates are fractions, loss variance is in nats². "
        f"Over seeds: {configurations.seeds_in_words(search)}."
    )
    return Table("What the penalty changes, validation split", header, rows, better, note)


def _cell(row: dict, name: str) -> str:
    spread = row[f"{name}_sd"]
    return f"{row[name]:+.4f}{f' ± {spread:.4f}' if pd.notna(spread) else ''}".replace("-", "−")


def draw(ax: Axes, found: pd.DataFrame, metric: str) -> None:
    """A dot a pair, with a standard deviation over seeds where there is one; the line at 0 is no difference."""
    ax.axvline(0, color="0.6", linewidth=1, zorder=0)
    for place, row in enumerate(found.to_dict("records")):
        color, marker = STYLES[row["method"]]
        spread = row[f"{metric}_sd"]
        bar = {"ecolor": color, "capsize": 2, "elinewidth": 1}
        ax.errorbar(row[metric], place, xerr=spread if pd.notna(spread) else None, fmt=marker, color=color, **bar)
    ax.set_yticks(range(len(found)), [f"{row['title']}" for row in found.to_dict("records")], fontsize=8)
    ax.set_ylim(len(found) - 0.5, -0.5)
    side = "right" if labels.sign(metric) > 0 else "left"
    unit = labels.UNITS.get(labels.plain(metric))
    name = f"{labels.name(metric)} ({unit})" if unit else labels.name(metric)
    ax.set_xlabel(f"validation {name},\nfair less plain ({side} is better)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.15)
    ax.xaxis.set_major_locator(MaxNLocator(3))


def figure(search: Search, by: str = configurations.CHOSEN_BY) -> Figure:
    """One panel a metric. Raises ValueError where no fair configuration has a plain one to stand against."""
    found = pairs(search, by)
    if not len(found):
        raise ValueError("no complete FairLoRA stands beside a complete LoRA, and no FairFFT beside an FFT")
    names = metrics(search)
    page = Figure(figsize=(2.3 * len(names) + 1.6, 1.5 + 0.28 * len(found)), layout="constrained")
    panels = page.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for ax, metric in zip(panels, names):
        draw(ax, found, metric)
    page.suptitle(f"with the penalty less without: {' and '.join(found['kind'].unique())}", fontsize=10)
    return page
