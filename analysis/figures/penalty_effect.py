"""What the fairness penalty changes: FairLoRA less LoRA, FairFFT less FFT.

Where a search holds configurations that differ in nothing but the penalty, each such pair is compared (``paired``):
rank, learning rate and all else are equal, so the difference is the penalty's, and its mean over the pairs is tested.
Where it holds none (a sampler seldom draws the same learning rate twice), the best of the one is compared with the best
of the other, and that is said: there the difference is of everything that was searched and of who had more luck, and
nothing is tested.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import configurations, labels
from analysis.estimates import LEVEL
from analysis.paired import Difference, Pair, Paired
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
    ``kind`` (``EQUAL`` or ``BEST``), and of each of ``metrics`` the difference over common seeds, fair less plain, and
    half of its 95 % interval (``<metric>_half``; NaN for ``BEST``, and where too little was trained to know). Raises
    NothingToShow where there is no pair."""
    rows = configurations.eligible(search, by)
    compared = [(fair, plain, EQUAL) for fair, plain in _equal(rows)]
    for method, style in labels.METHOD_STYLES.items():
        fair, plain = rows[rows["method"] == method], rows[rows["method"] == style.plain]
        if len(fair) and len(plain) and all(row["method"] != method for row, _, _ in compared):
            best_fair, best_plain = (configurations.best(each, by).to_dict() for each in (fair, plain))
            compared.append((best_fair, best_plain, BEST))
    if not compared:
        raise NothingToShow("no complete configuration with the penalty stands beside one without it")
    each = {name: Paired(search, name, _ids(_equal(rows))) for name in metrics(search)}
    return pd.DataFrame([_compared(each, *pair) for pair in compared])


def _equal(rows: pd.DataFrame) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows with the penalty, each beside the row without it that is equal in all else."""
    names = [name for name in FIELDS if name in rows and name != "seed"]
    shared = [name for name in names if name not in ("method", *FAIR_HYPERPARAMETERS)]
    records = rows[["number", "config_id", *names]].to_dict("records")
    keys = [tuple(None if pd.isna(row[name]) else row[name] for name in shared) for row in records]
    partners = {(row["method"], key): row for row, key in zip(records, keys)}
    plain = {method: style.plain for method, style in labels.METHOD_STYLES.items()}
    pairs = [(row, partners.get((plain[row["method"]], key))) for row, key in zip(records, keys)]
    order = [*plain]
    equal = [(row, partner) for row, partner in pairs if partner]
    return sorted(equal, key=lambda pair: order.index(pair[0]["method"]))


def _ids(rows: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Pair]:
    return [(fair["config_id"], plain["config_id"]) for fair, plain in rows]


def _compared(each: dict[str, Paired], fair: dict[str, Any], plain: dict[str, Any], kind: str) -> dict[str, Any]:
    title = configurations.title(fair)
    if kind == BEST:
        title = f"{title} less {configurations.title(plain)}"
    row = {"fair": fair["number"], "plain": plain["number"], "method": fair["method"], "title": title, "kind": kind}
    for name, metric in each.items():
        difference = metric.difference(_ids([(fair, plain)]))
        row[name] = difference.value
        row[f"{name}_half"] = (
            difference.half if kind == EQUAL else np.nan
        )  # the winners had luck, of which it says nothing
    return row


def effects(search: Search, by: str = configurations.CHOSEN_BY) -> dict[str, Difference]:
    """By objective, with the penalty less without: the mean over all configurations without it that have equal ones
    with it."""
    equal = _ids(_equal(configurations.eligible(search, by)))
    return {name: Paired(search, name, equal).difference(equal) for name in search.objectives}


def verdict(metric: str, difference: Difference) -> str:
    """A sentence: whether λ > 0 is better than λ = 0 in ``metric``. Of searches without any effect it
    says "better" or "worse" once in 20 times."""
    name, pairs = labels.name(metric), f"{difference.pairs} pair{'s' * (difference.pairs != 1)}"
    if not difference.pairs:
        return (
            f"In {name}, it cannot be told whether λ > 0 is better than λ = 0 here: no two configurations that came to "
            "their end are equal in all but the penalty."
        )
    value = f"difference {difference.value:+.4f}".replace("-", "−")
    if np.isnan(difference.p):
        return (
            f"In {name}, it cannot be told whether λ > 0 is better than λ = 0 here with {pairs} ({value}): too little "
            "was trained again to know what other seeds change."
        )
    better = difference.value * labels.sign(metric) > 0
    told = ("better" if better else "worse") if difference.p < 1 - LEVEL else "not shown to be better"
    luck = "other seeds and images" if difference.with_images else "other seeds"
    facts = f"{value} ± {difference.half:.4f} with {luck}, p = {difference.p:.2g}, {pairs}"
    return f"In {name}, λ > 0 is {told} than λ = 0 here ({facts})."


def figure(search: Search, by: str = configurations.CHOSEN_BY) -> Figure:
    """One panel a metric: dots, with a 95 % interval where there is one. Raises NothingToShow as
    ``pairs`` does."""
    rows, names = pairs(search, by), metrics(search)
    page = Figure(figsize=(2.3 * len(names) + 1.6, 1.5 + 0.28 * len(rows)), layout="constrained")
    page.suptitle(f"with the penalty less without: {' and '.join(rows['kind'].unique())}", fontsize=10)
    for ax, metric in zip(page.subplots(1, len(names), squeeze=False, sharey=True)[0], names):
        ax.axvline(0, color="0.6", linewidth=1, zorder=0)  # no difference
        for place, row in enumerate(rows.to_dict("records")):
            style, spread = labels.METHOD_STYLES[row["method"]], row[f"{metric}_half"]
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
            half = f" ± {row[f'{name}_half']:.4f}" if pd.notna(row[f"{name}_half"]) else ""
            cells.append(f"{row[name]:+.4f}{half}".replace("-", "−"))
        rows.append(tuple(cells))
    header = ("configuration", "trials", "compared", *map(labels.heading, names))
    verdicts = [verdict(name, difference) for name, difference in effects(search, by).items()]
    note = (
        f"{' '.join(verdicts)} Fair less plain; bold: better with the penalty. Rates are fractions, loss variance is "
        "in nats². ±: 95 % intervals of pairs on the same seeds and images. Only pairs of which both came to their end "
        "are seen here: a λ that destroys models is in no difference."
    )
    return Table("What the penalty changes, validation split", header, tuple(rows), frozenset(better), note)
