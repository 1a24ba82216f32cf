"""Tables of a search: a DataFrame in, a DataFrame out."""

import pandas as pd

from analysis.results import Search
from trainables.config import FAIR_HYPERPARAMETERS, LORA_HYPERPARAMETERS

LEADING = ("number", "method", "rank", "lam", "lr")


def front(search: Search) -> pd.DataFrame:
    """The front's trials, best first objective first; what tells them apart stands to the left.

    Columns: trial and main hyperparameters, objectives, accuracy by group, the searched rest, the other metrics. A
    column that is empty on the whole front is left out.
    """
    ascending = search.directions[0] == "minimize"
    members = search.trials[search.trials["on_front"]].sort_values(search.objectives[0], ascending=ascending)
    members = members.dropna(axis="columns", how="all")
    by_group = [name for name in members if name.startswith("val_group_accuracy[")]
    rest = [*LORA_HYPERPARAMETERS, *FAIR_HYPERPARAMETERS, "weight_decay"]
    leading = [*LEADING, *search.objectives, *by_group, *rest, *(name for name in members if name.startswith("val_"))]
    order = dict.fromkeys([name for name in leading if name in members] + list(members))
    return members[list(order)].reset_index(drop=True)
