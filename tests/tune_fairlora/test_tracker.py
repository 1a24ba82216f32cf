"""MLflow follows the log, on real databases: each event once, in the runs of its search, whatever was sent before."""

import json
import shutil
from pathlib import Path

import pytest

from tests.mirror import (
    check,
    end,
    epoch,
    everything,
    finish,
    history,
    opened,
    runs_of,
    search_runs,
    start,
    trial,
)
from tests.processes import refusal, until
from tune_fairlora.record import search_folder
from tune_fairlora.record.event_log import Record, read_events
from tune_fairlora.tracking.tracker import Tracker, resync
from tune_fairlora.tracking.tracking_uri import make_database


def eventful(folder: Path, uri: str) -> Tracker:
    """A search in which everything happens that can."""
    record, tracker = opened(folder, uri)
    trial(record, 0, 0.6)
    start(record, 1, rank=5)
    epoch(record, 1, 1, 0.4)
    record.add("decision", number=1, epoch=1, keep=True, text="went on: 1 of 2")
    record.add("fault", number=1, reason="OutOfMemoryError: \udcff 3 GiB")
    record.add("launch", number=1)
    epoch(record, 1, 1, 0.41)  # told again, a little different: the first time counts
    epoch(record, 1, 2, 0.9, delta=0.1)  # dominates trial 0
    end(record, 1)
    start(record, 2)
    end(record, 2, "failed", "val_accuracy is nan")
    start(record, 3)
    epoch(record, 3, 1, 0.7)
    end(record, 3, "interrupted", "by hand")
    assert finish(record, tracker, "interrupted") == 0
    return tracker


def test_every_event_is_mirrored_once_and_its_repetition_changes_nothing(tmp_path, store):
    folder = tmp_path / "s"
    assert eventful(folder, store).errors == 0
    check(store, folder)
    parent, children = search_runs(store, folder)
    assert children[1].data.tags["decision.1"] == "went on: 1 of 2"
    assert children[1].data.tags["fault"] == "OutOfMemoryError: ? 3 GiB"
    assert children[2].data.tags["reason"] == "val_accuracy is nan" and children[1].data.tags["device"] == "cpu"
    assert "val_eod" not in children[0].data.metrics
    assert parent.info.status == children[3].info.status == "KILLED" and children[2].info.status == "FAILED"
    assert parent.info.start_time == int(read_events(folder)[0]["time"] * 1000)

    before = everything(store)
    (folder / "mlflow.json").unlink()
    record, tracker = opened(folder, store)
    assert tracker.waiting > 15
    assert tracker.close() == tracker.errors == 0
    record.close()
    assert everything(store) == before
    table = store.removeprefix("sqlite:///").replace("mlflow.db", "mlartifacts")
    table = json.loads(next(Path(table).rglob("front.json")).read_text())
    assert len(table["data"]) == 1  # not appended to


def test_a_model_that_proves_to_serve_nobody_is_marked_in_its_run(tmp_path, store):
    record, tracker = opened(tmp_path / "s", store)
    trial(record, 0, 0.13, recall=0.13)  # alone so far
    until(lambda: tracker.waiting == 0)
    assert search_runs(store, tmp_path / "s")[1][0].data.tags["pareto"] == "true"
    trial(record, 1, 0.8, delta=0.5, recall=0.8)
    assert finish(record, tracker) == tracker.errors == 0
    check(store, tmp_path / "s")
    tags = search_runs(store, tmp_path / "s")[1][0].data.tags
    assert (tags["status"], tags["pareto"]) == ("collapsed", "false") and "serves nobody" in tags["reason"]


def test_a_resumed_search_goes_on_in_its_runs(tmp_path, store):
    folder = tmp_path / "s"
    eventful(folder, store)
    before = search_runs(store, folder)
    record, tracker = opened(folder, store)
    record.add("resume", changes={"trials": 6})
    record.add("launch", number=3)
    until(lambda: tracker.waiting == 0)
    parent, children = search_runs(store, folder)
    assert parent.info.status == children[3].info.status == "RUNNING"
    assert parent.data.tags["changed.trials"] == "6" and parent.data.tags["status"] == "running"
    epoch(record, 3, 2, 0.95, delta=0.05)
    end(record, 3)
    trial(record, 4, 0.99)
    assert finish(record, tracker) == tracker.errors == 0
    check(store, folder)
    parent, children = search_runs(store, folder)
    assert parent.info.run_id == before[0].info.run_id
    assert {n: r.info.run_id for n, r in before[1].items()}.items() <= {
        n: r.info.run_id for n, r in children.items()
    }.items()


def test_another_store_gets_runs_of_its_own_and_the_first_one_is_known_again(tmp_path, store, database):
    folder, second = tmp_path / "s", f"sqlite:///{shutil.copy(database, tmp_path / 'second.db')}"
    record, tracker = opened(folder, store)
    trial(record, 0, 0.6)
    assert finish(record, tracker, "interrupted") == 0
    record, tracker = opened(folder, second)
    record.add("resume", changes={})
    trial(record, 1, 0.7)
    assert finish(record, tracker) == tracker.errors == 0
    check(second, folder)
    assert sorted(search_runs(store, folder)[1]) == [0]  # nothing of it went to the first
    record, tracker = opened(folder, second)
    assert tracker.waiting == 0  # all of it is known to be there
    tracker.close()
    record.close()
    assert resync(folder, store) == 0
    check(store, folder)


def test_a_message_that_mlflow_refuses_is_left_out_and_the_rest_arrives(tmp_path, store, caplog):
    folder = tmp_path / "s"
    record, tracker = opened(folder, store)
    trial(record, 0, 0.6)
    start(record, 1)
    record.add("epoch", number=1, epoch=1, metrics={"no?name": 0.5}, seconds=0.1)
    record.add("decision", number=1, epoch=1, keep=True, text="x" * 20_000)  # is cut
    epoch(record, 1, 2, 0.8)
    end(record, 1)
    assert finish(record, tracker) == 0 and tracker.errors == 1
    assert "MLflow refused a message" in caplog.text and "no?name" in caplog.text
    _, children = search_runs(store, folder)
    assert history(store, children[1], "val_accuracy")[0][::2] == (2, 0.8)
    assert children[1].info.status == "FINISHED" and len(children[1].data.tags["decision.1"]) == 5000


def test_a_run_that_a_killed_process_made_but_could_not_note_is_found(tmp_path, store):
    """The log without its notes of run ids, and a position that lags: as after kill -9 at the worst moment."""
    folder = tmp_path / "s"
    eventful(folder, store)
    before = everything(store)
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    (folder / "events.jsonl").write_text("".join(line for line in lines if '"tracked' not in line))
    position = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(json.dumps(position | {"sent": 0}))
    assert resync(folder, None) == 0
    assert everything(store) == before


def test_an_empty_twin_of_a_run_is_taken_away_at_the_end(tmp_path, store):
    """A request that timed out may make its run later than it was looked for. Whatever holds something stays."""
    from mlflow import MlflowClient

    record, tracker = opened(tmp_path / "s", store)
    trial(record, 0, 0.6)
    until(lambda: tracker.waiting == 0)
    client, runs = MlflowClient(store), search_runs(store, tmp_path / "s")
    experiment = runs[0].info.experiment_id
    twins = [client.create_run(experiment, tags=run.data.tags).info.run_id for run in (runs[0], runs[1][0])]
    full = client.create_run(experiment, tags=runs[1][0].data.tags).info.run_id
    client.log_param(full, "by", "hand")
    assert finish(record, tracker) == tracker.errors == 0
    left = {run.info.run_id for run in runs_of(store)}
    assert left == {runs[0].info.run_id, runs[1][0].info.run_id, full} and not left & set(twins)


def test_a_log_that_lost_its_end_loses_no_later_event(tmp_path, store):
    """A machine's crash may take the log's last lines, of events that MLflow has."""
    folder = tmp_path / "s"
    record, tracker = opened(folder, store)
    start(record, 0)
    epoch(record, 0, 1, 0.5)
    until(lambda: tracker.waiting == 0)
    assert tracker.close() == 0
    record.close()
    events = read_events(folder)
    kept = [json.dumps(entry) + "\n" for entry in events if entry["event"] != "epoch"]
    (folder / "events.jsonl").write_text("".join(kept))
    record, tracker = opened(folder, store)
    record.add("launch", number=0)
    epoch(record, 0, 1, 0.5)
    epoch(record, 0, 2, 0.6)
    end(record, 0)
    assert finish(record, tracker) == 0
    _, children = search_runs(store, folder)
    assert {point[::2] for point in history(store, children[0], "val_accuracy")} == {(1, 0.5), (2, 0.6)}
    assert json.loads((folder / "mlflow.json").read_text())["sent"] == len(read_events(folder))


@pytest.mark.parametrize("text", ['{"format": 1, "uri"', "[]", "{}", '{"format": 1, "sent": 3}', "\xff"])
def test_a_position_that_is_damaged_is_refused_in_a_line(tmp_path, store, text):
    folder = tmp_path / "s"
    eventful(folder, store) if text == "{}" else opened(folder, store)[0].close()
    (folder / "mlflow.json").write_text(text, encoding="latin-1")
    record = Record(folder)
    message = refusal(Tracker, store, "ours", record)
    assert "delete it to send everything to MLflow again" in message and "mlflow.json must be" in message
    record.close()


@pytest.mark.parametrize("change", [{"sent": -1}, {"sent": "3"}, {"sent": True}, {"format": 2}, {"uri": None}])
def test_a_position_that_is_foreign_is_refused_in_a_line(tmp_path, change):
    record = Record(tmp_path)
    position = {"format": 1, "uri": "u", "experiment": "e", "since": 0, "sent": 0}
    (tmp_path / "mlflow.json").write_text(json.dumps(position | change))
    assert "delete it" in refusal(Tracker, "u", "e", record)
    record.close()


def test_a_resync_wants_the_folder_of_a_search_that_is_not_at_work(tmp_path, store):
    assert "must be the folder of a search" in refusal(search_folder.find, str(tmp_path), "runs")
    assert list(tmp_path.glob("events.jsonl")) == []
    record, tracker = opened(tmp_path / "s", store)
    assert "at work in another process" in refusal(resync, tmp_path / "s", None)
    tracker.close()
    record.close()
    (tmp_path / "s/mlflow.json").unlink()
    assert "give it with --tracking-uri" in refusal(resync, tmp_path / "s", None)


def test_a_database_that_another_search_made_meanwhile_is_kept(tmp_path, database):
    path = tmp_path / "mlflow.db"

    def make(uri: str) -> None:
        shutil.copy(database, uri.removeprefix("sqlite:///"))
        path.write_text("another's")

    make_database(path, make)
    assert path.read_text() == "another's" and list(tmp_path.iterdir()) == [path]
    path.unlink()
    make_database(path, lambda uri: shutil.copy(database, uri.removeprefix("sqlite:///")))
    assert [run.name for run in tmp_path.iterdir()] == ["mlflow.db"] and path.stat().st_size > 500_000
