"""What a search shows beside the record's tables: curves of the front, tables by class and group, a table of the front.

Nothing here knows MLflow: whoever shows a search uses it.
"""

import math
from typing import TYPE_CHECKING, Any

from tune_fairlora.record.state import Settings, State, Trial

if TYPE_CHECKING:
    from analysis.results import Search

BY_CLASS = ("count", "f1", "recall", "precision", "loss")
BY_GROUP = ("count", "accuracy", "macro_f1", "eod")
DIGITS, EMPTY = 5, "–"

Table = dict[str, list[Any]]  # "columns": the names, "data": the rows


def curves(state: State) -> dict[str, float]:
    """Hypervolume, size of the front, and the best value of each objective among complete trials, which is always that
    of a member of the front."""
    points = state.front_points()
    numbers = {"hypervolume": state.hypervolume(), "front_size": float(len(points))}
    if points:
        best = {"maximize": max, "minimize": min}
        values = [state.values(point) for point in points]
        for i, (name, direction) in enumerate(zip(state.objectives, state.directions)):
            numbers[f"best_{name}"] = float(best[direction](value[i] for value in values))
    return numbers


def trial_tables(trial: Trial, settings: Settings) -> dict[str, Table]:
    """File name -> table of the trial's last epoch on the validation split, by class and by group. A class or group
    without images has count 0 and empty cells."""
    parts = (("by_class", "class", settings["classes"], BY_CLASS), ("by_group", "group", settings["groups"], BY_GROUP))
    tables: dict[str, Table] = {}
    for key, heading, names, columns in parts:
        values = trial.tables.get(key, {})
        present = [column for column in columns if column in values]
        if present:
            rows = [[name, *(_cell(values[column][i]) for column in present)] for i, name in enumerate(names)]
            tables[f"{key}.json"] = {"columns": [heading, *present], "data": rows}
    return tables


def front_table(search: "Search") -> Table:
    """The front's trials as a table."""
    from analysis.tables import front  # pandas takes a second to import

    rows = front.members(search).astype(object).to_dict("split")
    return {"columns": rows["columns"], "data": [[_cell(value) for value in row] for row in rows["data"]]}


def _cell(value: Any) -> Any:
    """Few digits, as a table is to be read; the parquet files have them all."""
    if not isinstance(value, float):
        return EMPTY if value is None else value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else EMPTY
