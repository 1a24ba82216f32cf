"""The log is the truth: outcomes, the front, torn lines, and the tables rendered from it."""

import json
import math
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis import results
from analysis.pick import pick
from tests.processes import ROOT
from tests.records import SETTINGS, begun, metrics, report, run, start
from trainables.metrics import METRICS
from tune_fairlora.record.event_log import Record, collapse_floor, read_events
from tune_fairlora.record.state import State
from tune_fairlora.record.tables import render


@pytest.fixture
def record(tmp_path):
    record = begun(tmp_path)
    yield record
    record.close()


def test_a_trial_is_complete_only_at_full_fidelity_with_finite_objectives(record):
    assert run(record, 0, [0.5, 0.6]) == "complete"
    assert run(record, 1, [0.5]) == "stopped"
    assert run(record, 2, [0.5, math.nan]) == "failed"
    assert run(record, 4, [], error="OutOfMemoryError: 3 GiB") == "failed"
    assert record.trials[2].reason == "val_accuracy is nan"
    assert record.trials[4].reason == "OutOfMemoryError: 3 GiB"


def test_the_front_holds_full_fidelity_trials_alone(record):
    run(record, 0, [0.5, 0.6], delta=0.3)
    run(record, 1, [0.99], delta=0.0)  # stopped early, and better than all
    run(record, 2, [0.5, 0.7], delta=0.3)
    run(record, 3, [0.9, 0.5], delta=0.1)  # its last epoch counts, not its best
    assert record.front() == [2, 3]
    assert record.hypervolume() == pytest.approx(0.7 * 0.7 + 0.5 * 0.2)


def test_the_front_is_told_by_the_first_objective_best_first_and_of_equals_by_number(record):
    run(record, 0, [0.1, 0.5], delta=0.1)
    run(record, 1, [0.1, 0.7], delta=0.3)
    run(record, 2, [0.1, 0.6], delta=0.2)
    run(record, 3, [0.1, 0.7], delta=0.3)
    assert record.front() == [1, 3, 2, 0]


def test_the_hypervolume_is_that_of_the_means_drawn_together(record):
    """Four configurations, one training each. Accuracy: .5, .6, .7, .9, so that the median is .65, and the median
    distance from it .1: the spread is (1.4826 * .1)². Half of it is noise, half their own, so that each goes half of
    the way; of three, which say too little of each other, none does."""
    for number, accuracy in enumerate([0.5, 0.6, 0.7]):
        run(record, number, [0.1, accuracy], delta=0.2)
    assert record.hypervolume() == pytest.approx(0.7 * 0.8)
    run(record, 3, [0.1, 0.9], delta=0.2)
    assert record.worth().estimates.mean[:, 0] == pytest.approx([0.575, 0.625, 0.675, 0.775])
    assert record.hypervolume() == pytest.approx(0.775 * 0.8)


def again(record: Record, number: int, repeats: int, accuracy: float, seed: int, delta=0.2, **ended) -> None:
    first = record.trials[repeats]
    values = first.values | {"seed": seed}
    record.add("start", number=number, values=values, config_id=first.config_id, seed=seed, repeats=repeats)
    for epoch in (1, 2):
        report(record, number, epoch, accuracy=accuracy, delta=delta)
    status, reason = record.outcome(number)
    record.add("end", number=number, tables={}, **{"status": status, "reason": reason} | ended)


def test_once_one_was_trained_again_the_front_is_of_those_that_were(tmp_path):
    record = begun(tmp_path, reseed=0.25)
    for number, (accuracy, delta) in enumerate([(0.8, 0.2), (0.75, 0.15), (0.7, 0.3), (0.6, 0.4)]):
        run(record, number, [0.1, accuracy], delta=delta)
    assert record.front_points() == [[0], [1]]
    again(record, 4, 1, 0.65, seed=1, delta=0.35)
    assert record.front_points() == [[1, 4]] and record.rivals() == [0]  # its weights stay: it may be trained again
    assert record.values([1, 4]).tolist() == pytest.approx([0.7, 0.25])
    again(record, 5, 0, 0.78, seed=1, delta=0.2)
    assert record.front_points() == [[0, 5]]
    record.close()


@pytest.mark.parametrize(("status", "stays"), [("diverged", False), ("failed", True), ("interrupted", True)])
def test_a_configuration_that_diverges_with_another_seed_leaves_the_front(tmp_path, status, stays):
    """One whose process failed says nothing of it."""
    record = begun(tmp_path, reseed=0.25)
    for number, accuracy in enumerate([0.8, 0.7, 0.6, 0.5]):
        run(record, number, [0.1, accuracy], delta=0.1 + number / 10)
    again(record, 4, 0, 0.9, seed=1, status=status, reason="it did")
    assert (0 in record.front()) == stays and 4 not in record.front()
    record.close()


def test_a_seed_that_collapses_takes_its_configuration_off_the_front(tmp_path):
    record = begun(tmp_path, reseed=0.25)
    for number, accuracy in enumerate([0.8, 0.7, 0.6, 0.5]):
        run(record, number, [0.1, accuracy], delta=0.1 + number / 10)
    again(record, 4, 0, 0.9, seed=1, status="collapsed", reason="val_mean_recall 0.1")
    assert record.trials[4].status == "complete"  # what it measured decides, not who tells
    record.add("launch", number=4)
    record.trials[4].epochs[-1]["metrics"]["val_mean_recall"] = 0.1
    record.add("end", number=4, status="complete", reason="", tables={})
    assert record.trials[4].status == "collapsed" and record.front() == [1]
    record.close()


def test_of_a_configuration_that_was_trained_twice_alike_one_counts(tmp_path):
    """Before format 4 a point that was drawn again had the same seed again."""
    record = begun(tmp_path)
    for number in (0, 1):
        run(record, number, [0.1, 0.6], lr=1e-3)
    assert record.front_points() == [[0]] and record.worth().estimates.freedom.tolist() == [0.0]
    record.close()


def test_an_epoch_counts_once_and_in_its_turn(record):
    start(record, 0, epochs=3)
    for epoch, accuracy in ((1, 0.5), (1, 0.9), (3, 0.8), (2, 0.6)):
        report(record, 0, epoch, accuracy=accuracy)
    assert [(e["epoch"], e["metrics"]["val_accuracy"]) for e in record.trials[0].epochs] == [(1, 0.5), (2, 0.6)]


def test_trials_are_counted_by_what_became_of_them_and_have_names_to_read(record):
    run(record, 0, [0.5, 0.6], method="fairlora", rank=4, lam=0.125)
    run(record, 1, [0.5], method="fft")
    start(record, 2, rank=0)
    record.add("end", number=2, status="interrupted", reason="", tables={})
    assert [record.count(name) for name in ("complete", "stopped", "interrupted", "running")] == [1, 1, 1, 0]
    record.add("launch", number=2)
    assert record.count("complete", "running") == 2 and record.count("interrupted") == 0
    names = [trial.label for trial in record.trials.values()]
    assert names == ["000 fairlora r4 λ0.12", "001 fft", "002 lora r0"]


def test_a_collapsed_trial_looks_fair_and_is_off_the_front(record):
    run(record, 0, [0.5, 0.6], delta=0.3)
    assert run(record, 1, [0.5, 0.9], delta=0.0, recall=0.12) == "collapsed"
    assert record.front() == [0]
    assert record.trials[1].reason == "val_mean_recall 0.1200 is not clearly above a guess (0.1200)"


def test_the_floor_is_a_guess_and_two_standard_errors_of_it():
    # Two classes of 64 and 16: errors 1/2 / 8 and 1/2 / 4, of their mean sqrt(1/256 + 1/64) / 2.
    assert collapse_floor(np.repeat([0, 1], [64, 16]), 2) == pytest.approx(0.5 + math.sqrt(5 / 256))
    assert collapse_floor(np.array([0, 1]), 2) == 0.75
    # A model that serves a 95 % class and a 5 % class alike, at 0.8, is less accurate than naming the first always.
    assert collapse_floor(np.repeat([0, 1], [950, 50]), 2) < 0.6


def test_an_empty_record_has_an_empty_front(record):
    assert record.front() == [] and record.hypervolume() == 0.0


def test_the_log_rebuilds_the_state(record, tmp_path):
    run(record, 0, [0.5, 0.6])
    run(record, 1, [0.5], method="fairfft", lam=3.0)
    record.add("tracked", number=1, run_id="abc")
    other = State()
    for event in read_events(tmp_path):
        other.apply(event)
    assert repr(other.trials) == repr(record.trials)  # repr: NaN equals no NaN
    assert other.front() == record.front() and other.settings == SETTINGS


def test_a_torn_last_line_is_left_out(record, tmp_path):
    run(record, 0, [0.5, 0.6])
    whole = read_events(tmp_path)
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    assert read_events(tmp_path) == whole[:-1] or repr(read_events(tmp_path)) == repr(whole[:-1])


def test_lines_of_two_threads_never_mix(record, tmp_path):
    run(record, 0, [])
    metrics = {f"m{i}": 0.1 for i in range(200)}
    add = lambda: [record.add("epoch", number=0, epoch=1, metrics=metrics, seconds=1.0) for _ in range(100)]  # noqa: E731
    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 3 + 400


def test_numpy_values_are_written_as_numbers(record, tmp_path):
    run(record, 0, [np.float64(0.5), np.float32(0.25)])
    assert read_events(tmp_path)[3]["metrics"]["val_accuracy"] == 0.25


def test_trials_parquet_has_a_row_a_trial_and_null_where_a_method_lacks_something(record, tmp_path):
    run(record, 0, [0.5, 0.6], method="fairlora", rank=4, lam=0.5)
    run(record, 1, [0.5], method="fft")
    render(record)
    table = pd.read_parquet(tmp_path / "trials.parquet")
    assert table["number"].tolist() == [0, 1] and table["on_front"].tolist() == [True, False]
    assert table["status"].tolist() == ["complete", "stopped"] and table["epochs_trained"].tolist() == [2, 1]
    assert table["rank"].tolist()[0] == 4 and table["rank"].isna().tolist() == [False, True]
    assert table["lam"].isna().tolist() == [False, True]
    assert table["val_group_accuracy[day]"].tolist() == [0.9, 0.9]
    assert table["val_group_accuracy[night]"].isna().all()
    assert {f"val_{name}" for name in METRICS} <= set(table.columns)
    assert table.loc[0, "val_accuracy"] == 0.6


def test_epochs_parquet_has_the_curves(record, tmp_path):
    run(record, 0, [0.5, 0.6])
    render(record)
    table = pd.read_parquet(tmp_path / "epochs.parquet")
    assert table[["number", "epoch", "val_accuracy"]].values.tolist() == [[0, 1, 0.5], [0, 2, 0.6]]


def test_tables_of_a_search_without_trials_can_be_read(record, tmp_path):
    render(record)
    assert len(pd.read_parquet(tmp_path / "trials.parquet")) == 0
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_with_several_seeds_the_front_is_of_the_means_of_complete_configurations(tmp_path):
    record = begun(tmp_path, seeds=2)
    run(record, 0, [0.1, 0.99], delta=0.5, seed=0)  # one lucky seed
    assert record.front() == [] and record.rivals() == [0]
    run(record, 1, [0.1, 0.41], delta=0.5, seed=1)
    assert record.front() == [0, 1] and record.rivals() == []
    run(record, 2, [0.1, 0.8], delta=0.3, seed=0)
    run(record, 3, [0.1, 0.7], delta=0.3, seed=1)  # mean 0.75, 0.3 beats mean 0.70, 0.5
    assert record.front_points() == [[2, 3]]
    assert record.hypervolume() == pytest.approx(0.75 * 0.7)
    run(record, 4, [0.1, 0.95], delta=0.01, seed=0)
    run(record, 5, [0.1, math.nan], seed=1)  # without all of its seeds a configuration has no mean
    assert record.front_points() == [[2, 3]] and record.rivals() == []
    record.close()


def test_weights_stay_until_every_seed_of_a_configuration_has_spoken(tmp_path):
    """The controller's own pruning, on a real record and real files."""
    from tune_fairlora.execution.controller import SearchController

    record = begun(tmp_path, seeds=2)
    controller = SimpleNamespace(record=record, plan=SimpleNamespace(folder=tmp_path), _kept=set())
    controller.kept = lambda: SearchController.kept(controller)
    plan = [(0.9, 0.1), (0.9, 0.1), (0.5, 0.5), (0.5, 0.5)]  # the second configuration is dominated
    kept = []
    for number, (accuracy, delta) in enumerate(plan):
        (tmp_path / f"trials/{number:04d}").mkdir(parents=True)
        run(record, number, [0.1, accuracy], delta=delta, seed=number % 2)
        SearchController._prune(controller, number)
        kept.append(sorted(p.name for p in (tmp_path / "trials").iterdir()))
    assert kept == [["0000"], ["0000", "0001"], ["0000", "0001", "0002"], ["0000", "0001"]]
    run(record, 4, [0.1, 0.95], delta=0.05, seed=0)
    start(record, 5, epochs=2, seed=1)
    record.add("end", number=5, status="interrupted", reason="interrupted", tables={})
    assert record.rivals() == [4]
    record.close()


def test_a_trials_seconds_leave_out_the_time_in_which_nobody_worked_on_it():
    state, event = State(), {"number": 0, "values": {}, "config_id": "x", "seed": 0}
    state.apply({"event": "search", "time": 0.0, "settings": SETTINGS})
    state.apply({"event": "start", "time": 10.0, **event})
    epoch = {"number": 0, "epoch": 1, "metrics": metrics(), "seconds": 3.0}
    state.apply({"event": "epoch", "time": 14.0, **epoch})  # then a kill
    state.apply({"event": "resume", "time": 1000.0, "changes": {}})
    state.apply({"event": "launch", "time": 1010.0, "number": 0})
    state.apply({"event": "end", "time": 1015.0, "number": 0, "status": "interrupted", "reason": "", "tables": {}})
    assert state.trials[0].seconds == 4 + 5
    state.apply({"event": "launch", "time": 2000.0, "number": 0})
    state.apply({"event": "end", "time": 2002.0, "number": 0, "status": "complete", "reason": "", "tables": {}})
    assert state.trials[0].seconds == 11 and state.trials[0].started == 10


FULL = """
import sys
from pathlib import Path
from tests.records import begun, report, run, start
from tune_fairlora.record.event_log import Record, read_events
folder, fed = Path(sys.argv[1]), []
record = begun(folder)
record.listener = fed.append
run(record, 0, [0.5, 0.6])
filler = folder / "filler"
with open(filler, "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(1000))
    except OSError:
        pass
whole, told = len(read_events(folder)), 0
for number in range(1, 40):
    try:
        start(record, number)
    except OSError as error:
        told += error.errno == 28
assert told and (folder / "events.jsonl").read_bytes().endswith(b"\\n")
during = len(read_events(folder))
filler.unlink()
record.add("close", status="failed")
record.close()
state = Record(folder)
print(whole, during, len(state.trials), len(fed), len(state.events) - 1, state.status)
"""


def test_on_a_full_disk_the_log_stays_whole_and_says_so(small_disk):
    done = subprocess.run([sys.executable, "-c", FULL, str(small_disk)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    whole, during, trials, fed, events, status = done.stdout.split()
    assert 5 <= int(whole) <= int(during) < 45 and (trials, status) == ("40", "failed")  # what waited came in the end
    assert fed == events  # MLflow heard of each event once, whether the disk took it or not


# --- A model that serves nobody looks fair, and is on no front. ---


def destroyed(record, number, recall=0.1201, delta=0.1663):
    """As recorded on the digits: FairLoRA at λ=1 with a learning rate of .015 ends a little above a guess."""
    return run(record, number, [0.1, recall], delta=delta, recall=recall, method="fairlora", rank=4, lam=1.0, lr=0.015)


def test_a_destroyed_model_leaves_the_front_once_a_sound_one_has_ended(tmp_path):
    record = begun(tmp_path)
    destroyed(record, 0)
    assert record.trials[0].status == "complete" and record.front() == [0]  # nobody knows better yet
    run(record, 1, [0.5, 0.78], delta=0.25, recall=0.76)
    assert record.trials[0].status == "collapsed" and "serves nobody" in record.trials[0].reason
    assert record.front() == [1] and record.count("complete") == record.count("collapsed") == 1
    assert record.hypervolume() == pytest.approx(0.78 * 0.75)
    record.close()
    again = Record(tmp_path)  # from the log, which still says what was known when the trial ended
    assert again.front() == [1] and again.trials[0].status == "collapsed"
    render(again)
    again.close()
    (tmp_path / "search.json").write_text(json.dumps(again.settings | {"directions": again.directions}))
    search = results.read(tmp_path)
    assert [pick(search, rule).number for rule in ("fairness", "accuracy", "knee")] == [1, 1, 1]


def test_it_does_so_where_most_models_are_destroyed(tmp_path):
    record = begun(tmp_path)
    for number in range(5):
        destroyed(record, number, recall=0.125 + 0.001 * number)
    run(record, 5, [0.5, 0.78], recall=0.76)
    destroyed(record, 6)
    assert record.front() == [5] and record.count("collapsed") == 6


def test_a_weak_model_comes_back_where_the_task_proves_to_be_hard(tmp_path):
    """Two lucky ones first: a third with .45 is under halfway to .9, but not under halfway to what most then reach."""
    record = begun(tmp_path)
    for number, recall in enumerate((0.9, 0.9, 0.45)):
        run(record, number, [0.3, recall], delta=0.3 - 0.1 * number, recall=recall)
    assert record.trials[2].status == "collapsed" and record.front() == [1]
    for number in range(3, 8):
        run(record, number, [0.3, 0.4], delta=0.4, recall=0.5)
    assert record.trials[2].status == "complete" and record.front() == [1, 2] and record.trials[2].reason == ""


def test_with_several_seeds_one_that_collapses_takes_its_configuration_along(tmp_path):
    record = begun(tmp_path, seeds=2)
    for number, recall in enumerate((0.3, 0.5, 0.8, 0.8)):
        config = {"seed": number % 2, "rank": 1 + number // 2}
        run(record, number, [0.3, recall], delta=0.1 + 0.1 * number, recall=recall, **config)
    assert [record.trials[n].status for n in range(4)] == ["collapsed", "complete", "complete", "complete"]
    assert record.front() == [2, 3]
