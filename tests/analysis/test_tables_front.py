"""The front's table: its rows, their order, and what stands to the left."""

import pandas as pd
import pytest

from analysis.results import Search
from analysis.tables.front import members

TRIALS = pd.DataFrame(
    {
        "config_id": ["a", "b", "c"],
        "number": [0, 1, 2],
        "on_front": [True, False, True],
        "method": ["lora", "fft", "fairlora"],
        "rank": [4.0, None, 8.0],
        "lam": [None, None, 0.5],
        "reason": [None, "x", None],
        "val_loss": [0.3, 0.2, 0.1],
        "val_group_accuracy[day]": [0.5, 0.6, 0.7],
        "val_accuracy": [0.6, 0.9, 0.8],
        "val_delta_f1": [0.1, 0.4, 0.2],
    }
)


def search(*directions: str) -> Search:
    return Search("s", ["val_accuracy", "val_delta_f1"], list(directions), TRIALS, pd.DataFrame())


def test_the_front_is_sorted_by_its_first_objective_and_leads_with_what_differs():
    table = members(search("maximize", "minimize"))
    assert table["number"].tolist() == [2, 0]
    leading = ["number", "method", "rank", "lam", "val_accuracy", "val_delta_f1", "val_group_accuracy[day]", "val_loss"]
    assert table.columns.tolist() == [*leading, "config_id", "on_front"]


@pytest.mark.parametrize(("direction", "order"), [("maximize", [2, 0]), ("minimize", [0, 2])])
def test_best_comes_first_in_either_direction(direction, order):
    assert members(search(direction, "minimize"))["number"].tolist() == order
