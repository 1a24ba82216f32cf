"""Where λ and rank of the front lie: how many configurations of each value are complete, and how many on the front."""

import pandas as pd

from analysis import configurations, labels
from analysis.figures.rank_and_lambda import decade
from analysis.results import NothingToShow, Search
from analysis.table import Table
from trainables.config import METHODS


def counts(search: Search, over: str) -> pd.DataFrame:
    """``value``, ``complete``, ``on_front`` for each method, rank or decade of λ (``over``: "method", "rank", "lam").

    Configurations that lack it (FFT has no rank) are left out. λ's value is the decade's lower end; 0 for λ = 0.
    """
    rows = configurations.complete(search)
    rows = rows[rows[over].notna()]
    values = 10 ** decade(rows[over]) if over == "lam" else rows[over]
    sums = rows["on_front"].astype(bool).groupby(values).agg(["size", "sum"])
    sums = sums.set_axis(["complete", "on_front"], axis="columns").rename_axis("value").reset_index()
    if over == "method":
        sums = sums.sort_values("value", key=lambda column: column.map(list(METHODS).index), ignore_index=True)
    return sums


def table(search: Search) -> Table:
    """All three counts in one table, with the share of the complete ones that is on the front."""
    rows = []
    for over in ("method", "rank", "lam"):
        for row in counts(search, over).to_dict("records"):
            share, value = f"{100 * row['on_front'] / row['complete']:.0f} %", row["value"]
            if over == "method":
                value = labels.METHOD_STYLES[value].name
            else:
                value = f"{value:g} to {10 * value:g}" if over == "lam" and value > 0 else f"{value:.0f}"
            rows.append((labels.hyperparameter(over), value, str(row["complete"]), str(row["on_front"]), share))
    if not rows:
        raise NothingToShow("no configuration is complete")
    note = (
        "A share of few configurations says little, and a sampler tries most where it found most. "
        "Stopped trials are in neither column."
    )
    header = ("of", "value", "complete", "on the front", "share")
    return Table("Where the front lies, validation split", header, tuple(rows), note=note)
