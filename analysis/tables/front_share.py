"""Where λ and rank of the front lie: how many configurations of each value are complete, and how many on the front."""

import numpy as np
import pandas as pd

from analysis import configurations, labels
from analysis.figures import rank_and_lambda
from analysis.html.table import Table
from analysis.results import Search
from trainables.config import METHODS

OVER = ("method", "rank", "lam")
SHOWN = {"method": "method", "rank": "rank", "lam": "λ"}


def counts(search: Search, over: str) -> pd.DataFrame:
    """``value``, ``complete``, ``on_front`` for each method, rank or decade of λ (``over`` of ``OVER``).

    Configurations that lack it (FFT has no rank) are left out. λ's value is the decade's lower end; 0 for λ = 0.
    """
    rows = configurations.complete(search)
    rows = rows[rows[over].notna()]
    values = 10 ** rank_and_lambda.decade(rows[over]) if over == "lam" else rows[over]
    found = rows["on_front"].astype(bool).groupby(values).agg(["size", "sum"])
    found = found.set_axis(["complete", "on_front"], axis="columns").rename_axis("value").reset_index()
    if over == "method":
        found = found.sort_values("value", key=lambda column: column.map(list(METHODS).index), ignore_index=True)
    return found


def table(search: Search) -> Table:
    """All three counts in one table, with the share of the complete ones that is on the front."""
    rows = [
        (SHOWN[over], _value(over, row["value"]), str(row["complete"]), str(row["on_front"]), _share(row))
        for over in OVER
        for row in counts(search, over).to_dict("records")
    ]
    note = (
        "A share of few configurations says little, and a sampler tries most where it found most. "
        "Stopped trials are in neither column."
    )
    header = ("of", "value", "complete", "on the front", "share")
    return Table("Where the front lies, validation split", header, tuple(rows), note=note)


def _value(over: str, value) -> str:
    if over == "method":
        return labels.METHOD_NAMES[value]
    if over == "rank":
        return f"{value:.0f}"
    return "0" if value == 0 or np.isnan(value) else f"{value:g} to {10 * value:g}"


def _share(row: dict) -> str:
    return f"{100 * row['on_front'] / row['complete']:.0f} %"
