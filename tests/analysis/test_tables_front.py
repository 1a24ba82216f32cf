"""The front's table: its rows, their order, and what stands to the left."""

import pandas as pd
import pytest

from analysis import claims
from analysis.results import Search
from analysis.tables.front import members, table
from tests.analysis.handmade import search as handmade
from tests.analysis.handmade import trial

TRIALS = pd.DataFrame(
    {
        "config_id": ["a", "b", "c"],
        "number": [0, 1, 2],
        "seed": 0,
        "status": "complete",
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
    rows = members(search("maximize", "minimize"))
    assert rows["number"].tolist() == [2, 0]
    leading = ["number", "method", "rank", "lam", "val_accuracy", "val_delta_f1"]
    claimed = ["val_accuracy_claimed", "val_delta_f1_claimed"]  # of so few configurations neither interval nor chance
    by_group, rest = ["val_group_accuracy[day]", "val_loss"], ["config_id", "seed", "status", "on_front"]
    assert rows.columns.tolist() == [*leading, *claimed, *by_group, *rest]
    assert (rows[claimed].to_numpy() == rows[["val_accuracy", "val_delta_f1"]].to_numpy()).all()


def test_trainings_of_a_configuration_stand_together_with_what_is_claimed_of_it():
    again = {**TRIALS.loc[2].to_dict(), "number": 5, "seed": 1, "val_accuracy": 0.7}
    others = [
        {**TRIALS.loc[1].to_dict(), "number": 3 + i, "config_id": f"o{i}", "val_accuracy": 0.4 + i / 10}
        for i in range(2)
    ]
    trials = pd.concat([TRIALS, pd.DataFrame([*others, again])])
    of = Search("s", ["val_accuracy", "val_delta_f1"], ["maximize", "minimize"], trials, pd.DataFrame())
    rows = members(of)
    assert rows["number"].tolist() == [2, 5, 0] and rows["val_accuracy"].tolist() == [0.8, 0.7, 0.6]
    worth = claims.claims(of).rows.set_index("config_id")
    for name in ("val_accuracy_claimed", "val_accuracy_half", "val_delta_f1_claimed", "val_delta_f1_half", "chance"):
        assert rows[name].tolist() == worth.loc[["c", "c", "a"], name].tolist()


def test_the_table_says_what_is_claimed_what_was_measured_and_what_of_it_stands():
    rows = [
        trial(0, val_accuracy=0.9, val_delta_f1=0.3, on_front=True),
        trial(1, lr=0.002, val_accuracy=0.8, val_delta_f1=0.1, on_front=True),
        *(trial(2 + i, lr=0.003 + i, val_accuracy=0.7 - 0.1 * i, val_delta_f1=0.4) for i in range(3)),
        trial(5, val_accuracy=0.8, val_delta_f1=0.3, on_front=True, repeats=0),
    ]
    of = handmade(*rows, reseed=0.25)
    worth, made = claims.claims(of).rows, table(of)
    assert made.header[:5] == ("trials", "method", "accuracy ↑, claimed", "ΔF1 ↓, claimed", "on the front")
    cells = dict(zip(made.header, made.rows[0]))
    assert [row[0] for row in made.rows] == ["0, 5", "1"] and cells["accuracy ↑, measured"] == "0.8500"
    for name, head in (("val_accuracy", "accuracy ↑, claimed"), ("val_delta_f1", "ΔF1 ↓, claimed")):
        assert cells[head] == f"{worth.loc[0, f'{name}_claimed']:.3f} ± {worth.loc[0, f'{name}_half']:.3f}"
    assert cells["on the front"] == f"{worth.loc[0, 'chance']:.2f}"
    assert made.note.endswith(" ".join(claims.claims(of).sentences())) and "of 2 points of the front stand" in made.note


@pytest.mark.parametrize(("direction", "order"), [("maximize", [2, 0]), ("minimize", [0, 2])])
def test_best_comes_first_in_either_direction(direction, order):
    assert members(search(direction, "minimize"))["number"].tolist() == order
