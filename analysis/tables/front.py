"""The front's trials: as a DataFrame with everything about them, and as a table to be read.

In each module of this package but ``published``, ``table(search, ...)`` returns a Table, and raises NothingToShow where
the search lacks what it shows; ``by``, where there is one, is the metric that a configuration is chosen by.
"""

import pandas as pd

from analysis import configurations, labels
from analysis.figures.intervals import Samples, bootstrap
from analysis.pareto import SIGNS
from analysis.results import NothingToShow, Search
from analysis.table import Table
from trainables.config import FAIR_HYPERPARAMETERS, LORA_HYPERPARAMETERS

LEADING = ("number", "method", "rank", "lam", "lr")
GROUP = "val_group_accuracy["


def members(search: Search) -> pd.DataFrame:
    """A row a trial of the front: best first objective first, a configuration's seeds together.

    Columns: trial and main hyperparameters, objectives, accuracy by group, the searched rest, the other metrics. A
    column that is empty on the whole front is left out.
    """
    first, rows = search.objectives[0], search.trials[search.trials["on_front"].astype(bool)]
    costs = rows[first].groupby(rows["number"] // search.seeds).transform("mean") * SIGNS[search.directions[0]]
    order = costs.to_frame("cost").assign(number=rows["number"]).sort_values(["cost", "number"]).index
    rows = rows.loc[order].dropna(axis="columns", how="all")
    by_group = [name for name in rows if name.startswith(GROUP)]
    rest = [*LORA_HYPERPARAMETERS, *FAIR_HYPERPARAMETERS, "weight_decay"]
    leading = [*LEADING, *search.objectives, *by_group, *rest, *(name for name in rows if name.startswith("val_"))]
    return rows[list(dict.fromkeys([*(name for name in leading if name in rows), *rows]))].reset_index(drop=True)


def table(search: Search, samples: Samples | None = None) -> Table:
    """Hyperparameters that differ, objectives with the intervals of ``samples``, accuracy by group."""
    rows = members(search)
    if rows.empty:
        limits = ", ".join(search.settings.get("constraints", ()))
        complete = (search.trials["status"] == "complete").any()
        raise NothingToShow(
            f"no complete trial keeps {limits}, so there is no front"
            if complete and limits
            else "no trial is complete, so there is no front yet"
        )
    ends = {number: bootstrap(sample, search.objectives) for number, sample in (samples or {}).items()}
    searched = [name for name in configurations.varied(search.trials) if name != "method" and name in rows]
    metrics = dict.fromkeys([*search.objectives, "val_accuracy", "val_worst_cell_accuracy", "val_min_group_accuracy"])
    groups = [name for name in rows if name.startswith(GROUP)]
    shown = [name for name in [*metrics, *groups] if name in rows]
    cells = []
    for row in rows.to_dict("records"):
        named = [str(row["number"]), labels.METHOD_STYLES[row["method"]].name]
        intervals = {name: " [{:.3f}, {:.3f}]".format(*pair) for name, pair in ends.get(row["number"], {}).items()}
        values = [labels.number(row[name]) + intervals.get(name, "") for name in shown]
        cells.append((*named, *(labels.number(row[name], ".3g") for name in searched), *values))
    header = (
        *("trial", "method", *map(labels.hyperparameter, searched)),
        *(labels.heading(name) for name in metrics if name in rows),
        *(f"accuracy in {name.removeprefix(GROUP).removesuffix(']')} ↑" for name in groups),
    )
    note = "In brackets: 95 % intervals over the validation images, one trained model each." if ends else ""
    return Table("The front's trials, validation split", header, tuple(cells), note=note)
