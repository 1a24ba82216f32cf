"""What a search shows beside numbers: curves of the front, tables by class and group, pictures and pages.

Nothing here knows MLflow: the same is used by whoever shows a search. matplotlib and pandas take a second to import, so
they are imported where they are needed, not at the start of every command.
"""

import math
from typing import TYPE_CHECKING

from tune_fairlora.record.state import State, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.results import Search

BY_CLASS = ("count", "f1", "recall", "precision", "loss")
DIGITS, EMPTY = 5, "–"
BY_GROUP = ("count", "accuracy", "macro_f1", "eod")


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


def trial_tables(trial: Trial, settings: dict) -> dict[str, dict]:
    """File name -> table of the trial's last epoch on the validation split, by class and by group. A class or group
    without images has count 0 and empty cells."""
    parts = (("by_class", "class", settings["classes"], BY_CLASS), ("by_group", "group", settings["groups"], BY_GROUP))
    found = {}
    for key, what, names, columns in parts:
        table = trial.tables.get(key, {})
        shown = [column for column in columns if column in table]
        if shown:
            rows = [[name, *(_cell(table[column][i]) for column in shown)] for i, name in enumerate(names)]
            found[f"{key}.json"] = {"columns": [what, *shown], "data": rows}
    return found


def _cell(value):
    """Few digits, as a table is to be read; the parquet files have them all."""
    if not isinstance(value, float):
        return EMPTY if value is None else value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else EMPTY


def confusion(trial: Trial, settings: dict) -> str:
    """The trial's confusion matrix, an HTML page."""
    from analysis.html import confusion

    return confusion.page(trial.tables["confusion"], settings["classes"], trial.label)


def pages(search: "Search") -> dict[str, str]:
    """File name -> text of the pages that show the front without anything else."""
    from analysis.html import front_page

    return {"front.html": front_page.page(search)}


def picture(search: "Search") -> "Figure":
    """The front on paper."""
    from analysis.figures import front

    return front.figure(search)


def front_table(search: "Search") -> dict:
    """The front's trials as a table."""
    from analysis.tables import front

    rows = front.members(search).astype(object).to_dict("split")
    return {"columns": rows["columns"], "data": [[_cell(value) for value in row] for row in rows["data"]]}
