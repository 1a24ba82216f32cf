"""Curves, tables and pages of a search, as MLflow and the folder get them."""

import json
import math

import pytest

from analysis.html import confusion
from tests import records
from tune_fairlora.record.state import Trial
from tune_fairlora.record.tables import render, render_front, snapshot
from tune_fairlora.tracking import ui_views

TABLES = {
    "by_class": {"count": [3, 0], "f1": [2 / 3, math.nan], "recall": [1.0, math.nan], "loss": [0.25, math.nan]},
    "by_group": {"count": [3, 0], "accuracy": [1.0, math.nan]},
    "confusion": [[3, 0], [0, 0]],
}
SETTINGS = {"classes": ["<script>alert(1)</script>", "=cmd()"], "groups": ["day", "night"]}


def trial() -> Trial:
    return Trial(0, {"method": "lora", "rank": 4}, "c", 0, tables=TABLES)


def test_the_curves_have_the_best_of_each_objective_among_complete_trials(tmp_path):
    record = records.begun(tmp_path)
    assert ui_views.curves(record) == {"hypervolume": 0.0, "front_size": 0.0}
    records.run(record, 0, [0.5, 0.9], delta=0.3)
    records.run(record, 1, [0.5, 0.8], delta=0.1)
    records.run(record, 2, [0.7], delta=0.01)  # has not come to its end
    curves = ui_views.curves(record)
    assert curves["best_val_accuracy"] == 0.9 and curves["best_val_delta_f1"] == 0.1 and curves["front_size"] == 2
    assert curves["hypervolume"] == pytest.approx(0.9 * 0.7 + 0.8 * 0.2)
    record.close()


def test_tables_by_class_and_group_keep_names_and_leave_empty_cells_empty():
    tables = ui_views.trial_tables(trial(), SETTINGS)
    assert tables["by_class.json"] == {
        "columns": ["class", "count", "f1", "recall", "loss"],
        "data": [["<script>alert(1)</script>", 3, 0.66667, 1.0, 0.25], ["=cmd()", 0, "–", "–", "–"]],
    }
    assert tables["by_group.json"]["data"] == [["day", 3, 1.0], ["night", 0, "–"]]


def test_a_trial_without_tables_shows_none():
    assert ui_views.trial_tables(Trial(0, {"method": "lora"}, "c", 0), SETTINGS) == {}


def test_the_confusion_matrix_holds_no_users_markup():
    shown = confusion.page(TABLES["confusion"], SETTINGS["classes"], trial().label)
    assert "<script" not in shown and "&lt;script&gt;alert(1)&lt;/script&gt;" in shown and "=cmd()" in shown


def test_the_folder_gets_the_front_as_picture_drawing_and_page(tmp_path):
    record = records.begun(tmp_path)
    records.run(record, 0, [0.5, 0.9])
    render(record)
    render_front(record)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "front.svg").read_text() and "drawFront(" in (tmp_path / "front.html").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    record.close()


def test_a_snapshot_shows_what_the_files_would(tmp_path):
    from analysis import results

    record = records.begun(tmp_path, directions=["maximize", "minimize"])
    records.run(record, 0, [0.5, 0.9])
    records.run(record, 1, [0.4, 0.3], error="it broke")
    render(record)
    (tmp_path / "search.json").write_text(json.dumps(record.settings))
    shown, read = snapshot(record), results.read(tmp_path)
    assert shown.trials.equals(read.trials) and shown.objectives == read.objectives and shown.seeds == read.seeds
    assert json.dumps(ui_views.front_table(shown), allow_nan=False) == json.dumps(ui_views.front_table(read))
    record.close()
