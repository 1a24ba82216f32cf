"""The second half of a search: fresh trainings of its front, which the search never hears of, killed and resumed.

No processes: the test plays the trials, everything else is the real thing.
"""

import dataclasses
import json
import math
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from analysis import results
from analysis.confirmation import confirmation
from analysis.results import CONFIRMED, FRESH, NothingToShow
from tests.tune_fairlora.test_controller import EPOCHS, Search, make_plan, result
from trainables.trial.checkpoints import save_checkpoint, trial_folder
from tune_fairlora.execution.fresh_trainings import Confirmation, FreshController, fresh_runs
from tune_fairlora.execution.terminal import Progress, confirmation_lines
from tune_fairlora.execution.time_budget import HangDetector, TimeBudget
from tune_fairlora.record import looks
from tune_fairlora.record.event_log import Record, read_events
from tune_fairlora.record.tables import render, snapshot

FRONT = [(0.9, 0.3), (0.8, 0.2), (0.7, 0.1)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path / "cache"))


def searched(folder: Path) -> Record:
    """A search that is over, with a front of three configurations and one that is off it."""
    search = Search(folder, trials=4, reseed=0.0)
    for accuracy, delta in [*FRONT, (0.6, 0.5)]:
        search.whole(accuracy=accuracy, delta=delta)
    search.controller.renderer.close()
    assert len(search.record.front_points()) == 3
    return search.record


def begin(record: Record, seeds: int = 3) -> tuple[Confirmation, FreshController]:
    plan = make_plan(record.folder, trials=4, reseed=0.0, confirm=True, confirm_seeds=seeds)
    made = Confirmation(plan, record)
    progress = Progress(made.record, made.plan.trials, 2, Console(file=StringIO(), width=200), test=True)
    controller = FreshController(made.runs, made.plan, made.record, progress, TimeBudget(), HangDetector(), 0.0)
    controller.take_up()
    return made, controller


def play(made: Confirmation, controller: FreshController, reports: int = 10**6, fails: int | None = None) -> int:
    """Train one after the other until ``reports`` epochs were reported; how many are left of these. What a training
    shows depends on configuration, seed and epoch alone; that of number ``fails`` diverges."""
    while reports and not isinstance(given := controller.searcher.suggest("ray"), str):
        assert given["context"]["test"] is True and given["context"]["folder"] == str(made.folder)
        number, epoch = given["number"], given["reported"]
        trial, goes_on = made.record.trials[number], True
        while goes_on and reports:
            epoch, reports = epoch + 1, reports - 1
            if number == fails:
                goes_on = controller.result(number, {"done": True, "diverged": "loss is nan", "device": "cpu"})
                break
            accuracy, delta = FRONT[trial.repeats]
            shift = 0.01 * math.sin(7 * trial.seed + trial.repeats)
            told = result(epoch, accuracy=accuracy - 0.05 + shift, delta=delta + shift, recall=accuracy)
            own = {"config_id": trial.config_id, "seed": trial.seed, "epoch": epoch}
            save_checkpoint(trial_folder(made.folder, number), own, told)
            goes_on = controller.result(number, told)
        if not goes_on:
            controller.ended(number)
    return reports


def end(made: Confirmation, controller: FreshController) -> pd.DataFrame:
    assert controller.complete()
    controller.renderer.close()
    controller.sweep()
    made.close("complete")
    return pd.read_parquet(made.search.folder / CONFIRMED)


def test_each_configuration_of_the_front_is_trained_afresh_and_the_search_hears_nothing_of_it(tmp_path, cache):
    record = searched(tmp_path)
    before = (tmp_path / "events.jsonl").read_bytes(), (tmp_path / "optuna.journal").read_bytes()
    made, controller = begin(record)
    play(made, controller)
    table = end(made, controller)
    assert ((tmp_path / "events.jsonl").read_bytes(), (tmp_path / "optuna.journal").read_bytes()) == before
    seeds = table.groupby("number")["seed"].apply(list).to_dict()
    assert table["trained_on"].eq(FRESH).all() and set(seeds) == {0, 1, 2}
    assert all(own == [1, 2, 3] for own in seeds.values())  # the search itself used seed 0
    assert {trial.config_id for trial in made.record.trials.values()} == {record.trials[n].config_id for n in range(3)}
    assert [trial.repeats for trial in made.record.trials.values()][:3] == [0, 1, 2]  # the first of each before others
    assert not (made.folder / "trials").exists() or not list((made.folder / "trials").rglob("model.safetensors"))
    assert read_events(made.folder)[-1]["event"] == "close" and looks.count(record.settings["data_fingerprint"]) == 1
    render(record)
    shown = confirmation(snapshot(record))
    assert shown.rows["fresh"].tolist() == [3, 3, 3] and shown.rows["stands"].tolist() == [True] * 3 and shown.look == 1
    assert shown.rows["val_accuracy_test"].to_numpy() == pytest.approx([0.85, 0.75, 0.65], abs=0.01)
    assert shown.rows["val_accuracy_test_half"].between(0, 0.1).all()
    lines = confirmation_lines(snapshot(record))
    assert "looked at for the first time" in lines[0] and sum(line.endswith("stands") for line in lines) == 3
    record.close()


@pytest.mark.parametrize("moments", [[1], [5, 4], [EPOCHS * 3 + 2, 1, 1]])
def test_it_goes_on_where_it_was_killed_as_if_nothing_had_been(tmp_path, cache, moments):
    whole = searched(tmp_path / "whole")
    undisturbed = begin(whole)
    play(*undisturbed)
    expected = end(*undisturbed)
    record = searched(tmp_path / "killed")
    for moment in moments:
        made, controller = begin(record)
        assert play(made, controller, moment) == 0
        controller.renderer.close()
        made.record.close()
    made, controller = begin(record)
    play(made, controller)
    pd.testing.assert_frame_equal(end(made, controller), expected)
    assert looks.count(record.settings["data_fingerprint"]) == 2  # one of each search, however often it was resumed
    record.close(), whole.close()


def test_a_configuration_that_diverges_with_a_fresh_seed_does_not_stand(tmp_path, cache):
    record = searched(tmp_path)
    made, controller = begin(record, seeds=2)
    play(made, controller, fails=1)
    table = end(made, controller)
    assert table["number"].tolist() == [0, 0, 1, 2, 2]
    render(record)
    shown = confirmation(snapshot(record))
    assert shown.rows["failed"].tolist() == [0, 1, 0] and shown.rows["stands"].tolist() == [True, False, True]
    assert shown.verdict()[0].startswith("2 of 3 points stand on the test split")
    assert shown.verdict()[-1] == "trial 1: a fresh training of its configuration collapsed or diverged"
    record.close()


def test_more_seeds_are_added_to_those_that_there_are(tmp_path, cache):
    record = searched(tmp_path)
    for seeds in (1, 3, 3):
        made, controller = begin(record, seeds)
        play(made, controller)
        table = end(made, controller)
        assert table.groupby("number").size().to_dict() == dict.fromkeys([0, 1, 2], seeds)
    assert not table[["config_id", "seed"]].duplicated().any()
    record.close()


def test_what_was_measured_otherwise_stays(tmp_path, cache):
    record = searched(tmp_path)
    other = pd.DataFrame([{"number": 0, "config_id": "x", "seed": 0, "trained_on": "train", "test_accuracy": 0.1}])
    other.to_parquet(tmp_path / CONFIRMED)
    made, controller = begin(record, seeds=1)
    play(made, controller)
    assert sorted(end(made, controller)["trained_on"].unique()) == sorted(["train", FRESH])
    record.close()


def test_a_training_whose_process_failed_for_good_is_made_again_when_it_is_resumed(tmp_path, cache):
    record = searched(tmp_path)
    made, controller = begin(record, seeds=1)
    number = controller.searcher.suggest("ray")["number"]
    controller.failed(number, "worker died", again=False)
    play(made, controller)
    controller.renderer.close()
    made.close("complete")
    front = [numbers[0] for numbers in record.front_points()]
    (config, confirms), *others = fresh_runs(record, made.record, front, 1)
    assert confirms == 0 and config.seed == 2 and not others
    record.close()


def test_a_front_that_was_not_confirmed_says_how_to(tmp_path, cache):
    record = searched(tmp_path)
    render(record)
    with pytest.raises(NothingToShow, match="search --resume NAME --confirm"):
        confirmation(snapshot(record))
    assert confirmation_lines(snapshot(record)) == []
    record.close()


def test_a_move_of_the_folder_takes_the_record_of_the_fresh_trainings_along(tmp_path, cache):
    record = searched(tmp_path / "a")
    made, controller = begin(record, seeds=2)
    play(made, controller)
    end(made, controller)
    render(record)
    (record.folder / "search.json").write_text(json.dumps(record.settings))
    record.close()
    moved = (tmp_path / "a").rename(tmp_path / "b")
    read = results.read(moved)
    assert confirmation(read).rows["val_delta_f1_test_half"].notna().all()
    alone = dataclasses.replace(read, folder=None)  # as it comes back from MLflow, without that record
    assert confirmation(alone).rows["val_delta_f1_test_half"].isna().all() and confirmation(alone).look == 0


def test_looks_are_counted_by_the_images_and_survive_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path / "cache"))
    assert [looks.add("a", "s", "x"), looks.add("a", "t", "y"), looks.add("b", "s", "x")] == [1, 2, 1]
    assert looks.count("a") == 2 and looks.count("c") == 0
    (tmp_path / "cache/looks/d.jsonl").mkdir()
    assert looks.add("d", "s", "x") == 1
