"""What the terminal says of a front."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from analysis.claims import claims
from tests.records import begun, metrics, start
from trainables.config import TrainConfig
from tune_fairlora.execution.terminal import chance_lines, front_table
from tune_fairlora.record.tables import snapshot


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
    console = Console(file=StringIO(), width=80)
    console.print(front_table(record, "Front", claims(snapshot(record))))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    heads, row = lines[2:4], next(line for line in lines if line.strip().startswith("0 "))
    assert "0.3000" in row and "…" not in "".join(lines) and max(map(len, lines)) <= 80
    assert "worst" in heads[0] and "group" in heads[1]
    assert ("0.7587" in row) == ("attribute" in "".join(heads)) == (objective != "val_delta_f1")


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


def lines_of(record, claimed=None) -> list[str]:
    console = Console(file=StringIO(), width=80)
    console.print(front_table(record, "Front", claimed))
    lines = console.file.getvalue().splitlines()
    return lines[1 + next(i for i, line in enumerate(lines) if "──" in line) :]  # below the heads


def test_the_front_shows_what_is_claimed_with_intervals_and_how_sure_it_is(tmp_path):
    record = begun(tmp_path, directions=["maximize", "minimize"])
    rng = np.random.default_rng(0)
    for number in range(3):
        end(record, number, 0.7 + rng.normal(0, 0.02), 0.3 + rng.normal(0, 0.05), None)
    few = claims(snapshot(record))
    assert few.verdict() == [] and not any("±" in line for line in lines_of(record, few))  # three say too little
    for number in range(3, 8):
        end(record, number, 0.7 + rng.normal(0, 0.02), 0.3 + rng.normal(0, 0.05), None)
    best, claimed = record.front()[0], claims(snapshot(record))
    measured = record.trials[best].metrics["val_accuracy"]
    live, last = lines_of(record), lines_of(record, claimed)
    assert f" {record.worth().mean(best)[0]:.4f} " in live[0] and f"{measured:.4f}" not in "".join(live)
    accuracy, half = claimed.front.iloc[0][["val_accuracy_claimed", "val_accuracy_half"]]
    assert 0.7 < accuracy < measured and f" {accuracy:.3f}±{half:.3f}".replace("±0.", "±.") in last[0]
    assert last[0].split()[-1] == f"{claimed.front.iloc[0]['chance']:.2f}" and max(map(len, last)) <= 80
    assert claimed.verdict()[0].endswith("with other seeds they would be on it more often than not")


def test_a_configuration_of_many_trainings_is_one_row(tmp_path):
    record = begun(tmp_path, directions=["maximize", "minimize"])
    for number in range(4):
        record.add("start", number=number, values=VALUES, config_id="a", seed=number, repeats=0 if number else None)
        record.add("epoch", number=number, epoch=1, metrics=metrics(0.5 + number / 10, 0.2), seconds=0.1, device="cpu")
        record.add("end", number=number, status="complete", reason="", tables={})
    (row,) = filter(str.strip, lines_of(record))
    assert row.split()[:4] == ["0,", "1,", "+2", "lora"] and " 0.6500 " in row


VALUES = TrainConfig(epochs=1, rank=4).hyperparameters()
