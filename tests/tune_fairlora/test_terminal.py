"""What the terminal says of a front."""

import numpy as np
import pytest
from rich.console import Console

from tests.records import begun, metrics, start
from tune_fairlora.execution.terminal import chance_lines, front_table, seed_lines


def end(record, number, accuracy, delta, cells):
    start(record, number, epochs=1, rank=4 + number)
    record.add("epoch", number=number, epoch=1, metrics=metrics(accuracy, delta), seconds=0.1, device="cpu")
    record.add(
        "end", number=number, status="complete", reason="", tables={"by_cell": {"count": cells}} if cells else {}
    )


@pytest.mark.parametrize("objective", ["val_delta_f1", "val_min_group_accuracy"])
def test_the_front_shows_the_worst_group_in_80_columns(tmp_path, objective):
    record = begun(tmp_path, objectives=["val_accuracy", objective])
    values = metrics(0.9, 0.1, val_worst_cell_accuracy=0.3, val_min_group_accuracy=0.7587)
    start(record, 0, epochs=1, method="fairlora", rank=128, lam=0.0378, lr=0.000713)
    record.add("epoch", number=0, epoch=1, metrics=values, seconds=0.1, device="cpu")
    record.add("end", number=0, status="complete", reason="", tables={})
    console = Console(width=80)
    with console.capture() as capture:
        console.print(front_table(record, "Front"))
    lines = capture.get().splitlines()
    assert "0.3000" in lines[-2] and "…" not in capture.get() and max(map(len, lines)) <= 80
    assert lines[2].split("┃")[-2].strip() == "worst" and lines[3].split("┃")[-2].strip() == "group"
    assert ("0.7587" in lines[-2]) == ("attribute" in lines[3]) == (objective != "val_delta_f1")


def test_the_fronts_gaps_stand_beside_those_of_chance(tmp_path):
    record = begun(tmp_path)
    cells = np.full((10, 2), 10).tolist()
    end(record, 0, 0.90, 0.5, cells)
    end(record, 1, 0.85, 0.15, cells)  # what chance alone shows
    end(record, 2, 0.80, 0.9, cells)  # off the front
    (line,) = chance_lines(record)
    assert line.startswith("by chance   an evenly right model as accurate as trial 1 (0.850) shows ΔF1 0.1")
    assert line.endswith("on these images; 1 of 2 points of the front show more")


def test_nothing_is_said_where_nothing_is_known(tmp_path):
    record = begun(tmp_path / "without")
    end(record, 0, 0.9, 0.5, None)  # a record without tables
    assert chance_lines(record) == []
    record = begun(tmp_path / "no gap", objectives=["val_accuracy", "val_min_f1"])
    end(record, 0, 0.9, 0.5, np.full((10, 2), 10).tolist())
    assert chance_lines(record) == []


def test_other_seeds_are_less_lucky_than_the_front(tmp_path):
    record = begun(tmp_path, directions=["maximize", "minimize"])
    rng = np.random.default_rng(0)
    for number in range(3):
        end(record, number, 0.7 + rng.normal(0, 0.02), 0.3 + rng.normal(0, 0.05), None)
    assert seed_lines(record) == []  # three say too little of each other
    for number in range(3, 8):
        end(record, number, 0.7 + rng.normal(0, 0.02), 0.3 + rng.normal(0, 0.05), None)
    lines, best = seed_lines(record), record.front()[0]
    assert len(lines) == len(record.front()) and lines[0].startswith(f"other seeds of trial {best}: accuracy 0.7")
    claimed = float(lines[0].split("accuracy ")[1].split()[0])
    assert 0.7 < claimed < record.trials[best].metrics["val_accuracy"] and " ± 0." in lines[0]
