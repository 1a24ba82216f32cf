"""The front's trials: as a DataFrame with everything about them, and as a table to be read.

In each module of this package but ``published``, ``table(search, ...)`` returns a Table, and raises NothingToShow where
the search lacks what it shows; ``by``, where there is one, is the metric that a configuration is chosen by.
"""

import pandas as pd

from analysis import claims, configurations, labels
from analysis.results import NothingToShow, Search
from analysis.table import Table
from trainables.config import FAIR_HYPERPARAMETERS, LORA_HYPERPARAMETERS

LEADING = ("number", "method", "rank", "lam", "lr")
GROUP = "val_group_accuracy["
NOTE = (
    "Claimed: means over training seeds, drawn towards what such configurations have, as whoever stands on a front had "
    "luck, too; with 95 % intervals of other seeds and other images like these. On the front: how probably it would be "
    "there. Measured: means of what its trainings showed."
)


def members(search: Search) -> pd.DataFrame:
    """A row a trial of the front: best first objective first, a configuration's seeds together.

    Columns: trial and main hyperparameters, objectives, what is claimed of its configuration (``claims.Claims``),
    accuracy by group, the searched rest, the other metrics. A column that is empty on the whole front is left out.
    """
    claimed = claims.claims(search).front
    worth = [*(f"{name}_{what}" for name in search.objectives for what in ("claimed", "half")), "chance"]
    rows = search.trials[search.trials["on_front"].astype(bool)]
    rows = rows.join(claimed.set_index("config_id")[worth], "config_id")
    place = dict(zip(claimed["config_id"], range(len(claimed))))
    rows = rows.assign(place=rows["config_id"].map(place)).sort_values(["place", "number"]).drop(columns="place")
    rows = rows.dropna(axis="columns", how="all")
    by_group = [name for name in rows if name.startswith(GROUP)]
    rest = [*LORA_HYPERPARAMETERS, *FAIR_HYPERPARAMETERS, "weight_decay"]
    metrics = [name for name in rows if name.startswith("val_")]
    leading = [*LEADING, *search.objectives, *worth, *by_group, *rest, *metrics]
    return rows[list(dict.fromkeys([*(name for name in leading if name in rows), *rows]))].reset_index(drop=True)


def table(search: Search) -> Table:
    """A row a configuration on the front: what is claimed of it, how often it would be on the front, hyperparameters
    that differ, and what was measured (means over its trainings): accuracy, by group, too."""
    claimed = claims.claims(search)
    rows = claimed.front
    if rows.empty:
        limits = ", ".join(search.settings.get("constraints", ()))
        complete = (search.trials["status"] == "complete").any()
        raise NothingToShow(
            f"no complete trial keeps {limits}, so there is no front"
            if complete and limits
            else "no trial is complete, so there is no front yet"
        )
    searched = [name for name in configurations.varied(search.trials) if name != "method" and name in rows]
    groups = [name for name in rows if name.startswith(GROUP) and not name.endswith("_sd")]
    shown = ("val_accuracy", "val_worst_cell_accuracy", "val_min_group_accuracy")
    measured = [name for name in shown if name in rows and name not in search.objectives[1:]]
    trials = members(search).groupby("config_id")["number"].apply(lambda numbers: ", ".join(map(str, sorted(numbers))))
    cells = []
    for row in rows.to_dict("records"):
        cells.append(
            (
                *(trials[row["config_id"]], labels.METHOD_STYLES[row["method"]].name),
                *(labels.claim(row[f"{name}_claimed"], row[f"{name}_half"]) for name in search.objectives),
                labels.number(row["chance"], ".2f"),
                *(labels.number(row[name], ".3g") for name in searched),
                *(labels.number(row[name]) for name in [*measured, *groups]),
            )
        )
    header = (
        *("trials", "method", *(f"{labels.heading(name)}, claimed" for name in search.objectives), "on the front"),
        *map(labels.hyperparameter, searched),
        *(f"{labels.heading(name)}, measured" for name in measured),
        *(f"accuracy in {name.removeprefix(GROUP).removesuffix(']')} ↑" for name in groups),
    )
    return Table("The front, validation split", header, tuple(cells), note=" ".join([NOTE, *claimed.sentences()]))
