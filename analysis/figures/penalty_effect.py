"""What the fairness penalty changes: FairLoRA less LoRA, FairFFT less FFT.

Where a search holds configurations that differ in nothing but the penalty, each such pair is compared, seed by seed:
rank, learning rate and all else are equal, so the difference is the penalty's. Where it holds none (a sampler seldom
draws the same learning rate twice), the best of the one is compared with the best of the other, and that is said: there
the difference is of everything that was searched.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import configurations, labels
from analysis.results import NothingToShow, Search
from analysis.table import Table
from trainables.config import FAIR_HYPERPARAMETERS, FIELDS

EQUAL, BEST = "equal but for the penalty", "best against best"
MEASURED = ("val_accuracy", "val_delta_f1", "val_min_f1", "val_loss_variance")


def metrics(search: Search) -> list[str]:
    """The metrics that are compared: the search's objectives, then ``MEASURED``."""
    return list(dict.fromkeys([*search.objectives, *MEASURED]))


def pairs(search: Search, by: str = configurations.CHOSEN_BY) -> pd.DataFrame:
    """A row a pair: ``fair`` and ``plain`` (numbers of their first trials), ``method`` (the fair one), ``title``,
    ``kind`` (``EQUAL`` or ``BEST``), and of each of ``metrics`` the mean difference over seeds, fair less plain, and
    its standard deviation (``<metric>_sd``, NaN with one seed). Raises NothingToShow where there is no pair."""
    rows = configurations.eligible(search, by)
    compared: list[dict[str, Any]] = []
    for method, style in labels.METHOD_STYLES.items():
        fair, plain = rows[rows["method"] == method], rows[rows["method"] == style.plain]
        partners = {_all_but_the_penalty(row): row for row in plain.to_dict("records")}
        equal = [row for row in fair.to_dict("records") if _all_but_the_penalty(row) in partners]
        compared += [_compared(search, row, partners[_all_but_the_penalty(row)], EQUAL) for row in equal]
        if len(fair) and len(plain) and not equal:
            best_fair, best_plain = (configurations.best(each, by).to_dict() for each in (fair, plain))
            compared.append(_compared(search, best_fair, best_plain, BEST))
    if not compared:
        raise NothingToShow("no complete configuration with the penalty stands beside one without it")
    return pd.DataFrame(compared)


def _all_but_the_penalty(row: dict[str, Any]) -> tuple[Any, ...]:
    names = [name for name in FIELDS if name in row and name not in ("method", "seed", *FAIR_HYPERPARAMETERS)]
    return tuple(None if pd.isna(row[name]) else row[name] for name in names)


def _compared(search: Search, fair: dict[str, Any], plain: dict[str, Any], kind: str) -> dict[str, Any]:
    title = configurations.title(fair)
    if kind == BEST:
        title = f"{title} less {configurations.title(plain)}"
    row = {"fair": fair["number"], "plain": plain["number"], "method": fair["method"], "title": title, "kind": kind}
    trials, seeds = search.trials.set_index("number"), np.arange(search.seeds)
    for name in metrics(search):
        difference = trials.loc[fair["number"] + seeds, name].to_numpy() - trials.loc[plain["number"] + seeds, name]
        row[name], row[f"{name}_sd"] = difference.mean(), difference.std()
    return row


def figure(search: Search, by: str = configurations.CHOSEN_BY) -> Figure:
    """One panel a metric: dots, with a standard deviation over seeds where there is one. Raises NothingToShow as
    ``pairs`` does."""
    rows, names = pairs(search, by), metrics(search)
    page = Figure(figsize=(2.3 * len(names) + 1.6, 1.5 + 0.28 * len(rows)), layout="constrained")
    page.suptitle(f"with the penalty less without: {' and '.join(rows['kind'].unique())}", fontsize=10)
    for ax, metric in zip(page.subplots(1, len(names), squeeze=False, sharey=True)[0], names):
        ax.axvline(0, color="0.6", linewidth=1, zorder=0)  # no difference
        for place, row in enumerate(rows.to_dict("records")):
            style, spread = labels.METHOD_STYLES[row["method"]], row[f"{metric}_sd"]
            ax.plot(row[metric], place, color=style.color, marker=style.marker)
            if pd.notna(spread):
                ax.errorbar(row[metric], place, xerr=spread, ecolor=style.color, capsize=2, elinewidth=1, fmt="none")
        ax.set_yticks(range(len(rows)), rows["title"], fontsize=8)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        side = "right" if labels.sign(metric) > 0 else "left"
        ax.set_xlabel(f"validation {labels.with_unit(metric)},\nfair less plain ({side} is better)")
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.15)
        ax.xaxis.set_major_locator(MaxNLocator(3))
    return page


def table(search: Search, by: str = configurations.CHOSEN_BY) -> Table:
    """The same in numbers, improvements in bold. Raises NothingToShow as ``pairs`` does."""
    compared, names = pairs(search, by).to_dict("records"), metrics(search)
    rows, better = [], set()
    for i, row in enumerate(compared):
        cells = [row["title"], f"{row['fair']} less {row['plain']}", row["kind"]]
        for name in names:
            if row[name] * labels.sign(name) > 0:
                better.add((i, len(cells)))
            spread = f" ± {row[f'{name}_sd']:.4f}" if pd.notna(row[f"{name}_sd"]) else ""
            cells.append(f"{row[name]:+.4f}{spread}".replace("-", "−"))
        rows.append(tuple(cells))
    header = ("configuration", "trials", "compared", *map(labels.heading, names))
    note = (
        "Fair less plain; bold: better with the penalty. Rates are fractions, loss variance is in nats². "
        f"Over seeds: {configurations.seeds_in_words(search)}."
    )
    return Table("What the penalty changes, validation split", header, tuple(rows), frozenset(better), note)
