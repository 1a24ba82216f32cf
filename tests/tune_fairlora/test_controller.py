"""What follows from what trials report: record, scheduler, study and files; and a search taken up where it broke off.

No processes: the test plays the trials, everything else is the real thing.
"""

import dataclasses
import math
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher
from rich.console import Console

from search_spaces import SPACES
from tests.records import metrics
from trainables import logits
from trainables.data import batches
from trainables.prepare import datasets
from trainables.trial.checkpoints import save_checkpoint, save_weights, trial_folder
from tune_fairlora.execution.controller import SearchController
from tune_fairlora.execution.terminal import Progress
from tune_fairlora.execution.time_budget import HangDetector, TimeBudget
from tune_fairlora.plan.plan import Plan
from tune_fairlora.plan.search_options import SearchOptions
from tune_fairlora.record.event_log import Record

EPOCHS = 4


class Search:
    """A search over real parts. ``die`` and ``again`` are a crash and the resume after it."""

    def __init__(self, folder: Path, **options):
        folder.mkdir(exist_ok=True)
        self.folder, self.options = folder, options
        self.plan = make_plan(folder, **options)
        record = Record(folder)
        if not record.settings:
            record.add("search", settings=self.plan.settings() | {"collapse_floor": 0.12})
        self.record, self.out = record, StringIO()
        console = Console(file=self.out, width=300)
        progress = Progress(record, self.plan.trials, 2, console)
        self.controller = SearchController(self.plan, record, progress, TimeBudget(), HangDetector(), 0.0)
        self.controller.take_up()

    @property
    def searcher(self):
        return self.controller.searcher

    def launch(self) -> dict:
        return self.searcher.suggest("ray")

    def report(self, number: int, epoch: int, seconds: float = 0.1, **values) -> bool:
        """As a trial's process does it: the checkpoint first, then the report."""
        made = result(epoch, seconds, **values)
        trial = self.record.trials[number]
        save_checkpoint(
            trial_folder(self.folder, number), {"config_id": trial.config_id, "seed": trial.seed, "epoch": epoch}, made
        )
        return self.controller.result(number, made)

    def whole(self, **values) -> int:
        """A trial from its launch to its end."""
        number = self.launch()["number"]
        for epoch in range(1, EPOCHS + 1):
            if not self.report(number, epoch, **values):
                break
        self.controller.ended(number)
        return number

    def die(self) -> None:
        self.controller.renderer.close()
        self.record.close()

    def again(self, **options) -> "Search":
        self.die()
        return Search(self.folder, **self.options | options)

    def state_of(self, number: int) -> TrialState:
        return self.searcher.study[number].state

    def files(self, number: int) -> list[str]:
        folder = trial_folder(self.folder, number)
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def result(epoch: int, seconds: float = 0.1, **values) -> dict:
    tables = {"by_group": {"accuracy": [0.9, 0.8]}}
    return {
        "done": epoch == EPOCHS,
        "epoch": epoch,
        "metrics": metrics(**values),
        "tables": tables,
        "seconds": seconds,
        "device": "cpu",
        "pid": 1,
    }


def make_plan(folder: Path, trials=6, points=(), **options) -> Plan:
    space = dataclasses.replace(SPACES["digits"], fixed={**SPACES["digits"].fixed, "epochs": EPOCHS})
    store = datasets.prepare("digits", None, 16)
    defaults = {"space": "digits", "scheduler": "none", "grace_period": 1, "reduction_factor": 2}
    given = SearchOptions(**defaults | options)
    return Plan(
        options=given, folder=folder, space=space, store=store, manifest=batches.open_data(store).manifest,
        weights=None, trials=trials, points=points,
    )  # fmt: skip


@pytest.fixture
def search(tmp_path):
    made = Search(tmp_path)
    yield made
    made.die()


def test_a_search_runs_its_trials_and_ends(search):
    numbers = [search.whole(accuracy=0.5 + i / 20, delta=0.3) for i in range(6)]
    assert numbers == [0, 1, 2, 3, 4, 5] and search.launch() == Searcher.FINISHED and search.controller.complete()
    assert search.record.front() == [4, 5] and [search.state_of(n) for n in numbers] == [TrialState.COMPLETE] * 6


def test_a_result_that_is_told_twice_counts_once(search):
    number = search.launch()["number"]
    assert search.report(number, 1, accuracy=0.5)
    assert search.controller.result(number, result(1, accuracy=0.9))
    assert [e["metrics"]["val_accuracy"] for e in search.record.trials[number].epochs] == [0.5]


def test_a_trial_whose_process_broke_goes_on_as_often_as_it_may_and_then_has_failed(search):
    number = search.launch()["number"]
    search.report(number, 1)
    for _ in range(2):
        search.controller.failed(number, "OutOfMemoryError: 3 GiB")
        assert search.record.trials[number].status == "running" and search.files(number) == ["checkpoint.pt"]
        again = search.launch()
        assert again["number"] == number and again["reported"] == 1
        assert again["values"] == search.record.trials[number].values
    search.controller.failed(number, "OutOfMemoryError: 4 GiB")
    trial = search.record.trials[number]
    assert (trial.status, trial.reason, trial.faults) == ("failed", "OutOfMemoryError: 4 GiB", 3)
    assert search.state_of(number) == TrialState.FAIL and search.launch()["number"] == number + 1
    assert "tried again from epoch 1 (2 of 2)" in search.out.getvalue()


def test_the_searcher_waits_for_open_trials_that_may_come_again(tmp_path):
    search = Search(tmp_path, trials=1)
    number = search.launch()["number"]
    assert search.launch() is None  # not the end: the trial may fail
    search.controller.failed(number, "worker died")
    assert search.launch()["number"] == number
    for epoch in range(1, EPOCHS + 1):
        search.report(number, epoch)
    search.controller.ended(number)
    assert search.launch() == Searcher.FINISHED
    search.die()


def test_a_nan_ends_a_trial_as_diverged_at_once(search):
    number = search.launch()["number"]
    search.report(number, 1)
    assert not search.controller.result(number, {"done": True, "diverged": "the training loss is nan", "device": "cpu"})
    search.controller.ended(number)
    trial = search.record.trials[number]
    assert (trial.status, trial.reason) == ("diverged", "Diverged: the training loss is nan")
    assert search.state_of(number) == TrialState.FAIL and search.files(number) == []


def test_a_trial_that_hung_is_not_tried_again_by_itself(search):
    number = search.launch()["number"]
    search.controller.failed(number, "hung: no report for 600 s (--trial-timeout)", again=False)
    assert search.record.trials[number].status == "failed" and not search.searcher.again
    resumed = search.again()
    assert resumed.launch()["number"] == number  # a resumed search tries it again
    resumed.die()


def test_files_of_front_and_open_trials_are_kept_and_no_others(search):
    best = search.whole(accuracy=0.9, delta=0.1)
    worse = search.whole(accuracy=0.5, delta=0.5)
    (trial_folder(search.folder, worse) / "model.safetensors").parent.mkdir(exist_ok=True)
    running = search.launch()["number"]
    search.report(running, 1)
    assert search.files(best) == [] and search.files(worse) == [] and search.files(running) == ["checkpoint.pt"]


def test_logits_of_complete_trials_stay_on_the_front_or_off_it_and_no_others(search):
    for number, recall in enumerate((0.9, 0.5, 0.1)):
        search.launch()
        logits.save(search.folder, number, logits.half(np.eye(3)))  # as its process does before its last report
        for epoch in range(1, EPOCHS + 1):
            search.report(number, epoch, accuracy=recall, delta=1 - recall, recall=recall)
        search.controller.ended(number)
    assert [search.record.trials[n].status for n in range(3)] == ["complete", "complete", "collapsed"]
    assert [logits.load(search.folder, n) is None for n in range(3)] == [False, False, True]
    logits.save(search.folder, 2, logits.half(np.eye(3)))  # by a process that was killed late
    logits.file_of(search.folder, 0).with_name(".0000.npz.0a1b.tmp").touch()
    search.controller.sweep()
    assert sorted(path.name for path in (search.folder / "logits").iterdir()) == ["0000.npz", "0001.npz"]


def test_a_checkpoint_that_came_after_its_trials_end_is_swept_away(search):
    """Those of trials that go on, or may be tried again, stay."""
    best = search.whole(accuracy=0.9, delta=0.1)
    worse = search.whole(accuracy=0.5, delta=0.5)
    running, failed = (search.launch()["number"] for _ in range(2))
    for number in (running, failed):
        search.report(number, 1)
    search.controller.failed(failed, "broken", again=False)
    save_checkpoint(trial_folder(search.folder, worse), {"epoch": 1}, result(1))
    save_weights(trial_folder(search.folder, best), {}, {})
    for number, name in ((best, "model.safetensors"), (running, "checkpoint.pt"), (failed, "checkpoint.pt")):
        (trial_folder(search.folder, number) / f".{name}.0a1b.tmp").touch()  # of a process that was killed
    search.controller.sweep()
    assert not trial_folder(search.folder, worse).exists() and search.files(best) == ["model.safetensors"]
    assert search.files(running) == search.files(failed) == ["checkpoint.pt"]


def test_a_search_that_ends_at_once_keeps_what_may_still_come_onto_the_front(tmp_path):
    """Resumed and interrupted again before any trial ends: the weights of a seed whose siblings are open stay."""
    search = Search(tmp_path, seeds=3)
    first = search.whole(accuracy=0.9, delta=0.1)
    save_weights(trial_folder(search.folder, first), {}, {})
    again = search.again()
    assert again.record.front() == [] and again.record.rivals() == [first]
    again.controller.sweep()
    assert again.files(first) == ["model.safetensors"]
    again.die()


def test_an_epoch_that_is_trained_again_is_a_sign_of_life(search):
    number = search.launch()["number"]
    search.report(number, 1)
    search.controller.hangs._heard[number] -= 1000
    search.report(number, 1)
    assert search.controller.hangs.silent() == [] and len(search.record.trials[number].epochs) == 1


def test_tables_of_an_earlier_epoch_are_not_taken_for_the_last_ones(tmp_path):
    """The machine died between the decision to stop a trial and its checkpoint's way onto the disk."""
    search = Search(tmp_path, scheduler="moasha", trials=8, grace_period=2)
    good = [search.whole(accuracy=0.9, delta=0.1) for _ in range(4)]
    poor = search.launch()["number"]
    assert good and search.report(poor, 1, accuracy=0.5, delta=0.6)
    path = trial_folder(search.folder, poor) / "checkpoint.pt"
    behind = path.read_bytes()
    assert not search.report(poor, 2, accuracy=0.5, delta=0.6)
    path.write_bytes(behind)
    resumed = search.again()
    trial = resumed.record.trials[poor]
    assert trial.status == "stopped" and trial.tables == {}
    resumed.die()


def test_the_scheduler_stops_what_is_poor_and_every_decision_is_in_the_record(tmp_path):
    search = Search(tmp_path, scheduler="moasha", trials=8)
    good = [search.whole(accuracy=0.9, delta=0.1) for _ in range(2)]
    for number in (2, 3):  # fft and fairfft, which are not compared with adapters
        assert search.whole(accuracy=0.2, delta=0.9) == number
    poor = search.whole(accuracy=0.5, delta=0.5)
    trial = search.record.trials[poor]
    assert trial.status == "stopped" and len(trial.epochs) == 1
    assert trial.reason == "stopped at epoch 1: place 3 of 3, keeps best 2" == trial.decisions[1]
    assert search.state_of(poor) == TrialState.PRUNED and search.files(poor) == []
    assert search.record.front() == good[:1] and "kept at epoch 1" in search.record.trials[good[0]].decisions[1]
    assert search.record.trials[2].decisions[1] == "kept at epoch 1: 1 of the 2 trials that a comparison takes"
    search.die()


def test_a_configuration_is_judged_once(tmp_path):
    """With its first seed: the others of what was stopped never begin, those of what was kept come to their end."""
    search = Search(tmp_path, scheduler="moasha", trials=6, seeds=2)
    best = search.whole(accuracy=0.9, delta=0.1)
    poor = search.whole(accuracy=0.3, delta=0.9)
    assert search.record.trials[poor].repeats == best and search.record.trials[poor].status == "complete"
    assert search.record.trials[poor].decisions == {} and search.record.trials[best].decisions
    worse = search.whole(accuracy=0.85, delta=0.2)
    assert search.record.trials[worse].status == "stopped" and search.record.trials[worse].repeats is None
    resumed = search.again()
    third = resumed.whole(accuracy=0.8, delta=0.2)
    assert resumed.record.trials[third].repeats is None
    rungs = resumed.controller.scheduler.state
    assert best in rungs[("adapters", 4, 1)] and not any(poor in rung for rung in rungs.values())
    resumed.die()


def outcome(search: Search) -> tuple:
    trials = search.record.trials
    kept = [(t.number, t.config_id, t.status, t.reason, [e["metrics"] for e in t.epochs]) for t in trials.values()]
    return repr(kept), [search.state_of(n) for n in trials], search.record.front()


def play(search: Search, moments: set[int], step: int = 0) -> Search:
    """Run ``search`` to its end one trial at a time, and let it die before each report in ``moments``. What a trial
    reports depends on its number and epoch alone."""
    while not isinstance(given := search.launch(), str):
        number, epoch = given["number"], given["reported"]
        while True:
            epoch, step = epoch + 1, step + 1
            if step in moments:
                search = search.again()
                break
            accuracy = 0.3 + 0.6 * math.sin(number + 1) ** 2 + epoch / 100
            if not search.report(number, epoch, accuracy=accuracy, delta=0.5 * math.cos(number) ** 2):
                search.controller.ended(number)
                break
    return search


@pytest.mark.parametrize("moments", [{2}, {5, 6}, {1, 9, 14, 15, 22}])
def test_a_search_that_died_goes_on_as_if_nothing_had_been(tmp_path, moments):
    options = {"scheduler": "moasha", "trials": 10}
    whole = play(Search(tmp_path / "whole", **options), set())
    broken = play(Search(tmp_path / "broken", **options), moments)
    assert outcome(broken) == outcome(whole)
    assert {"stopped", "complete"} <= {t.status for t in broken.record.trials.values()}
    whole.die(), broken.die()


@pytest.mark.parametrize("cut", [0, 1])
def test_a_decision_that_was_lost_is_made_again(tmp_path, cut):
    """The search died between the decision to stop and the end of the trial, or before the decision was written."""
    search = Search(tmp_path, scheduler="moasha", trials=8)
    for _ in range(4):
        search.whole(accuracy=0.9, delta=0.1)
    number = search.launch()["number"]
    assert not search.report(number, 1, accuracy=0.5, delta=0.5)
    whole = (tmp_path / "events.jsonl").read_bytes().splitlines(keepends=True)
    search.die()
    (tmp_path / "events.jsonl").write_bytes(b"".join(whole[: len(whole) - cut]))
    search = Search(tmp_path, scheduler="moasha", trials=8)
    trial = search.record.trials[number]
    assert trial.status == "stopped" and trial.reason == "stopped at epoch 1: place 3 of 3, keeps best 2"
    assert trial.tables == {"by_group": {"accuracy": [0.9, 0.8]}}  # from the checkpoint
    search.die()


def test_interrupted_trials_go_on_and_are_told_to_the_study_only_at_their_end(search):
    number = search.launch()["number"]
    search.report(number, 1)
    search.controller.end_open_trials("interrupted")
    assert search.record.trials[number].status == "interrupted" and search.state_of(number) == TrialState.RUNNING
    again = search.again()
    assert again.launch() | {"context": 0, "values": 0} == {"number": number, "reported": 1, "context": 0, "values": 0}
    again.die()


def test_failed_trials_are_tried_again_when_more_failures_are_allowed(tmp_path):
    search = Search(tmp_path, max_failures=0)
    number = search.launch()["number"]
    search.controller.failed(number, "worker died")
    assert search.state_of(number) == TrialState.FAIL
    same = search.again()
    assert same.launch()["number"] == number + 1
    more = same.again(max_failures=1)
    assert more.launch()["number"] == number and more.state_of(number) == TrialState.RUNNING
    for epoch in range(1, EPOCHS + 1):
        more.report(number, epoch, accuracy=0.9)
    more.controller.ended(number)
    assert more.state_of(number) == TrialState.COMPLETE and number in more.record.front()
    more.die()


def test_more_trials_may_be_asked_for(search):
    for _ in range(6):
        search.whole()
    more = search.again(trials=8)
    assert more.whole() == 6 and more.whole() == 7 and more.launch() == Searcher.FINISHED
    more.die()


def test_time_is_kept_for_what_follows_the_search(search):
    search.controller.budget = budget = TimeBudget(1000.0)
    budget.learn(1.0)
    assert search.controller.may_start()
    search.controller.reserve = lambda: 1000.0
    assert not search.controller.may_start() and search.launch() == Searcher.FINISHED and search.searcher.left()


def test_nothing_new_starts_that_cannot_reach_its_first_rung(search):
    search.controller.budget = budget = TimeBudget(1000.0)
    search.whole()
    budget.end = budget.end - 999.0  # a second is left or so
    budget._epochs.clear()
    budget.learn(10.0)
    assert search.launch() == Searcher.FINISHED and not search.controller.complete()
