"""What ``confirm`` measured on the test split: a row a configuration and what it was trained on."""

from collections.abc import Sequence

import pandas as pd

from analysis.results import FRESH, NothingToShow, Search
from analysis.table import Table
from analysis.tables.methods import COMPARED, by_metric, units
from trainables.config import METHODS

TRAINED_ON = {FRESH: FRESH, "train": "train", "trainval": "train and val"}


def table(search: Search, metrics: Sequence[str] = COMPARED) -> Table:
    """Method by metric (without prefix) on the test split, means over the seeds that were measured.

    Raises NothingToShow where nothing was confirmed.
    """
    if search.confirmed.empty:
        raise NothingToShow("nothing of this search was measured on the test split: tune_fairlora.confirm does it")
    names = [f"test_{name}" for name in metrics if f"test_{name}" in search.confirmed]
    first = search.confirmed["config_id"].map(search.trials.groupby("config_id")["number"].min()).rename("number")
    groups = search.confirmed.groupby([first, search.confirmed["trained_on"].map(TRAINED_ON).rename("trained on")])
    spread = groups[names].std().add_suffix("_sd")
    rows = pd.concat([groups[names].mean(), spread, groups.size().rename("seeds")], axis="columns").reset_index()
    rows = rows.join(search.trials.set_index("number").filter(["method", "rank", "lam"]), on="number")
    rows["order"] = rows["method"].map(list(METHODS).index)
    rows = rows.sort_values(["order", "number", "trained on"], ignore_index=True)
    note = f"Chosen on the validation split; test numbers must not choose again. {units(search)}"
    if rows["seeds"].max() > 1:
        counts = ", ".join(f"trial {row['number']}: {row['seeds']}" for row in rows.to_dict("records"))
        note += f" Seeds that were measured: {counts}."
    return by_metric("Methods compared, test split", rows, names, note, more="trained on")
