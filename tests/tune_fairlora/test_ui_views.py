"""What MLflow's pages are told: views, notes, colours. That the pages understand it, a browser shows elsewhere."""

import json
from pathlib import Path

import pytest

from analysis.claims import claims
from tests import records
from tune_fairlora.record.event_log import Record
from tune_fairlora.record.state import State
from tune_fairlora.record.tables import snapshot
from tune_fairlora.tracking import ui_views


@pytest.fixture
def state(tmp_path) -> State:
    """Trials 0 and 1 on the front, 2 dominated, 3 stopped early."""
    return made(tmp_path)


def made(folder: Path, **settings) -> Record:
    record = records.begun(folder, **settings)
    records.run(record, 0, [0.5, 0.9], delta=0.3, method="lora", rank=4)
    records.run(record, 1, [0.5, 0.8], delta=0.1, method="fairlora", rank=16, lam=0.1)
    records.run(record, 2, [0.5, 0.7], delta=0.4, method="fft", lr=1e-4)
    records.start(record, 3, method="fairfft", lam=2.0, epochs=2)
    records.report(record, 3, 1, accuracy=0.4)
    record.add("end", number=3, status="stopped", reason="place 4 of 4", tables={})
    record.close()
    return record


def page(text: str) -> dict:
    view = json.loads(text)
    assert set(view) == {"name", "createdAt", "updatedAt", "state"}
    return view | json.loads(view["state"])


def test_a_search_has_two_views_of_its_own_runs_alone(state):
    charts, table = map(page, ui_views.prepared(state).values())
    assert [key.removeprefix(ui_views.VIEW_TAG) for key in ui_views.prepared(state)] == list(
        ui_views.keys(state.settings["id"])
    )
    own = f"tags.search_id = '{state.settings['id']}' and "
    assert charts["searchFilter"] == own + "tags.role = 'trial'" and charts["compareRunsMode"] == "CHART"
    assert table["searchFilter"] == own + "tags.pareto = 'true'" and "compareRunsMode" not in table
    assert (table["orderByKey"], table["orderByAsc"]) == ("metrics.`val_accuracy`", False)
    assert charts["name"] != table["name"] and state.settings["name"] in charts["name"]


def test_the_charts_are_the_objectives_and_the_hyperparameters_that_differ(state):
    charts = page(next(iter(ui_views.prepared(state).values())))["compareRunCharts"]
    scatter, *parallels = charts
    axes = scatter["type"], scatter["xaxis"]["key"], scatter["yaxis"]["key"]
    assert axes == ("SCATTER", "val_accuracy", "val_delta_f1")
    chosen = {chart["uuid"]: chart["selectedParams"] for chart in parallels}
    assert chosen == {
        "parallel-all": ["method", "lr"],
        "parallel-adapters": ["rank", "lr"],
        "parallel-penalty": ["lam", "lr"],
    }


def test_three_objectives_have_a_scatter_for_each_pair(tmp_path):
    record = made(tmp_path, objectives=["val_accuracy", "val_delta_f1", "val_eod_max"])
    charts = page(next(iter(ui_views.prepared(record).values())))["compareRunCharts"]
    pairs = {(c["xaxis"]["key"], c["yaxis"]["key"]) for c in charts if c["type"] == "SCATTER"}
    assert len(pairs) == 3 and ("val_delta_f1", "val_eod_max") in pairs


def test_a_view_fits_into_mlflows_tag_and_stays_the_same(state):
    from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

    texts = ui_views.prepared(state)
    assert all(len(text) < MAX_EXPERIMENT_TAG_VAL_LENGTH / 2 for text in texts.values())
    assert texts == ui_views.prepared(state)


def test_colours_tell_the_front_the_complete_and_the_rest(state):
    assert [ui_views.color(trial, n in state.front()) for n, trial in sorted(state.trials.items())] == [
        ui_views.FRONT_COLOR,
        ui_views.FRONT_COLOR,
        ui_views.COMPLETE_COLOR,
        ui_views.OTHER_COLOR,
    ]


def test_the_searchs_note_shows_the_picture_and_links_the_fronts_runs(state):
    runs = {0: "run0", 1: "run1", 2: "run2"}
    note = ui_views.search_note(state, claims(snapshot(state)), None, "7", runs, "parent")
    assert "![Pareto front](get-artifact?path=front.png&run_uuid=parent)" in note
    rows = [line for line in note.splitlines() if line.startswith("| [")]
    assert len(rows) == 2 and "#/experiments/7/runs/run0" in rows[0] and "#/experiments/7/runs/run1" in rows[1]
    assert "| --- | --- | --- |" in note  # anything else between the bars, and MLflow sees no table
    assert "0.9000 &nbsp; | 0.3000" in rows[0] and "2 of 3 complete configurations" in note and "validation" in note


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a|b](http://x)", "=cmd()", "![x](y)", "two\nlines"])
def test_a_name_stays_a_text_in_the_notes(tmp_path, name):
    record = made(tmp_path, name=name)
    claimed = claims(snapshot(record))
    for note in (ui_views.search_note(record, claimed, None, "7", {}, "p"), ui_views.experiment_note(record, "7", "p")):
        first = note.splitlines()[0]
        assert "<" not in note and "](http://x)" not in note and "![x" not in note
        assert name.split("\n")[-1][-2:-1] in first


def test_the_experiments_note_begins_with_the_newest_search_and_keeps_what_people_wrote(tmp_path):
    old, new = made(tmp_path / "a", id="a" * 32, name="old"), made(tmp_path / "b", id="b" * 32, name="new")
    note = ui_views.experiment_note(old, "7", "p1", "written by a person\n\n- a list")
    note = ui_views.experiment_note(new, "7", "p2", note)
    again = ui_views.experiment_note(new, "7", "p2", note)
    lines = [line for line in again.splitlines() if line]
    assert again == note
    assert "**new**" in lines[0] and "**old**" in lines[1] and lines[2:] == ["written by a person", "- a list"]


def test_the_experiments_note_does_not_grow_for_ever(tmp_path):
    note = ""
    for i in range(ui_views.NOTE_SEARCHES + 3):
        note = ui_views.experiment_note(made(tmp_path / str(i), id=f"{i:02d}" + "0" * 30, name=f"n{i}"), "7", "p", note)
    assert note.count(ui_views.OWN_LINE) == ui_views.NOTE_SEARCHES and "**n14**" in note and "**n0**" not in note


def test_a_long_front_fits_into_the_note_and_says_what_is_left_out(tmp_path):
    record = records.begun(tmp_path)
    for number in range(40):
        spread = number / 100
        changes = {"rank": number + 1, "lam": 0.1 + number, "lr": 1e-3 * (number + 1), "weight_decay": spread}
        records.run(record, number, [0.5 + spread], epochs=1, delta=0.1 + spread, method="fairlora", **changes)
    runs = {number: f"{number:032d}" for number in range(40)}
    note = ui_views.search_note(record, claims(snapshot(record)), None, "7", runs, "parent")
    shown = sum(line.startswith("| [") for line in note.splitlines())
    assert len(record.front()) == 40 and 10 < shown <= ui_views.NOTE_ROWS and len(note) < 8000
    assert f"… and {40 - shown} more" in note
    record.close()


@pytest.mark.parametrize("length", [100, 18_900, 19_400, 25_000])
def test_what_people_wrote_is_never_cut_for_our_lines(state, length):
    theirs = "x" * length
    note = ui_views.experiment_note(state, "7", "p", theirs)
    assert theirs in note and len(note) <= max(length, ui_views.EXPERIMENT_NOTE_LENGTH)
    assert (ui_views.OWN_LINE in note) == (length < 19_000)
