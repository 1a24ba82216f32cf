"""MLflow's server, or the process that follows the log into it, killed at any moment: nothing lost, nothing twice."""

import json
import math
import os
import random
import shutil
import signal
import socket
import statistics
import time
from pathlib import Path

import pytest

from tests.mirror import Server, check, end, epoch, finish, opened, start, trial
from tests.processes import patience, until
from tune_fairlora.record.event_log import read_events
from tune_fairlora.tracking.tracker import resync


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    """Not started yet."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(database, folder / "mlflow.db")
    server = Server(folder)
    yield server
    server.kill()


def go_on(folder: Path, uri: str, trials: int) -> None:
    """Work at a search from where its log ends."""
    record, tracker = opened(folder, uri)
    if record.events:
        record.add("resume", changes={})
    for number in range(trials):
        if number not in record.trials:
            start(record, number, rank=4 + number)
        elif record.trials[number].status == "running":
            record.add("launch", number=number)
        else:
            continue
        for each in range(len(record.trials[number].epochs) + 1, 3):
            epoch(record, number, each, 0.5 + number / 100)
            time.sleep(0.03)
        end(record, number)
    assert finish(record, tracker) == tracker.errors == 0


def kill_after(seconds: float, *args) -> None:
    """``go_on`` in a process of its own, for a while, which is longer on a slower machine."""
    child = os.fork()
    if not child:
        try:
            go_on(*args)
        finally:
            os._exit(0)
    time.sleep(patience(seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.slow
def test_a_search_killed_while_mlflow_makes_its_database_can_be_resumed(tmp_path, store):
    from mlflow import MlflowClient

    MlflowClient(store)  # what it imports now, the forked processes need not
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    for seconds in (0.6, 1.5, 2.5, 3, 5):
        kill_after(seconds, tmp_path / "s", uri, 20)
    go_on(tmp_path / "s", uri, 20)
    check(uri, tmp_path / "s")
    assert [path.name for path in (tmp_path / "new").glob("*db")] == ["mlflow.db"]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4, 25])
def test_a_search_killed_at_any_moment_leaves_each_trial_once(tmp_path, store, kills):
    folder, delays = tmp_path / "s", random.Random(1)
    for _ in range(kills):
        kill_after(delays.uniform(0.1, 0.8), folder, store, 6 * kills)
    go_on(folder, store, 6 * kills)
    events = [entry["event"] for entry in read_events(folder)]
    print({event: events.count(event) for event in events})
    # On a busy machine a kill may come before the log has been read.
    assert 0.8 * kills <= events.count("resume") <= kills
    assert events.count("launch") > 0 and events.count("end") == 6 * kills
    check(store, folder)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_a_server_that_comes_back_gets_everything_and_nothing_twice(tmp_path, server, capsys, killed):
    """Two searches find no server, or it is killed: one outlasts it, one ends before it is back and is resynced."""
    server.start() if killed else server.kill()
    patient, brief = tmp_path / "patient", tmp_path / "brief"
    searches = [opened(folder, server.uri) for folder in (patient, brief)]
    for record, _ in searches:
        trial(record, 0, 0.6)
        start(record, 1)
        epoch(record, 1, 1, 0.5)
    if killed:  # in the midst of it
        until(lambda: all(tracker._position.sent > 3 for _, tracker in searches))
        server.kill()
    seconds = []
    for record, _ in searches:
        for number in (2, 3):
            begin = time.perf_counter()
            trial(record, number, 0.6 + number / 10)
            seconds.append((time.perf_counter() - begin) / 4)
        epoch(record, 1, 2, 0.7)
        end(record, 1)
    assert statistics.median(seconds) < patience(0.05)

    begin = time.monotonic()
    waiting = finish(*searches[1])
    assert time.monotonic() - begin < patience(20) and waiting >= 13
    assert resync(brief, None) == 1
    assert f"MLflow at {server.uri} does not answer; {waiting} events wait in brief\n" in capsys.readouterr().out
    assert sorted(p.name for p in brief.iterdir()) == [
        "epochs.parquet", "events.jsonl", "mlflow.json", "search.json", "trials.parquet",
    ]  # fmt: skip

    server.start()
    assert finish(*searches[0]) == 0 and searches[0][1].errors == 0
    assert resync(brief, None) == 0
    assert f"MLflow has all of brief: {waiting} events sent\n" in capsys.readouterr().out
    assert resync(brief, None) == 0  # nothing is left
    assert "MLflow has all of brief: 0 events sent\n" in capsys.readouterr().out
    for folder in (patient, brief):
        check(server.uri, folder)


@pytest.mark.slow
def test_a_server_that_hung_has_each_trial_once(tmp_path, server, monkeypatch):
    """Requests timed out, were repeated, and may all be carried out once the server goes on."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(math.ceil(patience(1))))
    server.start()
    record, tracker = opened(tmp_path / "s", server.uri)
    trial(record, 0, 0.6)
    until(lambda: tracker.waiting == 0)
    for number in (1, 2, 3):
        os.killpg(server.process.pid, signal.SIGSTOP)
        trial(record, number, 0.7)
        time.sleep(patience(5))
        os.killpg(server.process.pid, signal.SIGCONT)
        until(lambda: tracker.waiting == 0)
    assert finish(record, tracker) == 0
    check(server.uri, tmp_path / "s")


def test_a_search_without_any_server_takes_no_longer(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    record, tracker = opened(tmp_path / "s", uri, retry=30)
    seconds = []
    for number in range(20):
        begin = time.perf_counter()
        trial(record, number, 0.6)
        seconds.append((time.perf_counter() - begin) / 4)
    print(f"an event takes {1000 * statistics.median(seconds):.1f} ms, at most {1000 * max(seconds):.1f}")
    assert statistics.median(seconds) < patience(0.05)
    begin = time.monotonic()
    assert finish(record, tracker) == tracker.waiting == 82
    assert time.monotonic() - begin < patience(20)
    assert json.loads((tmp_path / "s/mlflow.json").read_text())["sent"] == 0
