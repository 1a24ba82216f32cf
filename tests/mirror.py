"""A search with made events, what MLflow has of it, and a real server to put it on."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.processes import patience
from trainables.config import TrainConfig
from tune_fairlora.record.event_log import Record, read_events
from tune_fairlora.record.state import State
from tune_fairlora.tracking.client import RUN_STATUS
from tune_fairlora.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run

SETTINGS = {
    "groups": ["day", "night"],
    "classes": [str(i) for i in range(10)],
    "objectives": ["val_accuracy", "val_delta_f1"],
    "directions": ["maximize", "minimize"],
    "collapse_floor": 0.12,
    "seeds": 1,
    "seed": 0,
    "trials": 4,
    "methods": ["fairlora"],
    "fixed": {"backbone": "vit_nano"},
    **{name: name for name in ("code_version", "weights", "space", "sampler", "data", "data_fingerprint")},
}


def empty_database(cache: Path) -> Path:
    """An empty database of this MLflow's, to be copied: making one takes longer than any test, so it is kept."""
    import mlflow

    path = cache / f"{mlflow.__version__}.db"
    if not path.exists():
        new = f"{path}.{os.getpid()}.new"  # several processes of tests may make one at a time
        mlflow.MlflowClient(f"sqlite:///{new}").create_experiment("other")
        os.replace(new, path)
    return path


class Server:
    """A real server, a process group of its own."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Takes 10 seconds and more."""
        if self.process is None:
            self._start()
        end = time.monotonic() + patience(120)
        while not self._answers():
            assert time.monotonic() < end, (self.folder / "log.txt").read_text()
            time.sleep(0.2)

    def _start(self) -> None:
        options = f"--workers 1 --port {self.port} --backend-store-uri sqlite:///{self.folder / 'mlflow.db'}"
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-m", "mlflow", "server", *options.split()]
        with open(self.folder / "log.txt", "a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=patience(1)).status == 200
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def opened(folder: Path, uri: str, retry: float = 0.1, **changes) -> tuple[Record, Tracker]:
    """A search, begun (with ``changes`` to its settings) or opened again."""
    folder.mkdir(exist_ok=True)
    record = Record(folder)
    tracker = Tracker(uri, "ours", record, retry)
    if not record.settings:
        settings = SETTINGS | {"id": uuid.uuid4().hex, "name": folder.name} | changes
        (folder / "search.json").write_text(json.dumps(settings))
        record.add("search", settings=settings)
    return record, tracker


def start(record: Record, number: int, **config) -> None:
    config = TrainConfig(method="fairlora", epochs=2, **config)
    values = config.hyperparameters()
    record.add("start", number=number, values=values, config_id=config.config_id, seed=config.seed)


def epoch(record: Record, number: int, epoch: int, accuracy: float, delta: float = 0.2, recall: float = 0.5) -> None:
    metrics = {"val_accuracy": accuracy, "val_delta_f1": delta, "val_mean_recall": recall, "val_eod": math.nan}
    record.add("epoch", number=number, epoch=epoch, metrics=metrics, seconds=0.1, device="cpu")


def end(record: Record, number: int, status: str = "", reason: str = "", tables: dict | None = None) -> None:
    if not status:
        status, reason = record.outcome(number)
    record.add("end", number=number, status=status, reason=reason, tables=tables or {})


def trial(
    record: Record, number: int, accuracy: float, delta: float = 0.2, tables: dict | None = None, recall: float = 0.5
) -> None:
    start(record, number, rank=4 + number)
    epoch(record, number, 1, 0.5, delta)
    epoch(record, number, 2, accuracy, delta, recall)
    end(record, number, tables=tables)


def finish(record: Record, tracker: Tracker, status: str = "complete") -> int:
    record.add("close", status=status, reason="")
    waiting = tracker.close(patience(240))
    record.close()
    return waiting


def runs_of(uri: str, experiment: str = "ours") -> "list[Run]":
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id], max_results=1000)


def search_runs(uri: str, folder: Path, experiment: str = "ours") -> "tuple[Run, dict[int, Run]]":
    """The search's own run, and its trials' runs by number: none is there twice, and none belongs elsewhere."""
    runs = [r for r in runs_of(uri, experiment) if r.data.tags["search_id"] == read_events(folder)[0]["settings"]["id"]]
    parents = [r for r in runs if r.data.tags["role"] == "search"]
    children = {int(r.data.tags["trial"]): r for r in runs if r.data.tags["role"] == "trial"}
    assert len(parents) == 1 and len(runs) == 1 + len(children)
    assert {r.data.tags["mlflow.parentRunId"] for r in children.values()} <= {parents[0].info.run_id}
    return parents[0], children


def history(uri: str, run, metric: str) -> list[tuple]:
    from mlflow import MlflowClient

    points = MlflowClient(uri).get_metric_history(run.info.run_id, metric)
    return sorted((m.step, m.timestamp, m.value) for m in points)


def check(uri: str, folder: Path) -> None:
    """MLflow tells what the log tells: each trial once, each epoch once, the curve of the front, nothing else."""
    parent, children = search_runs(uri, folder)
    state, curve, points = State(), [], {}
    for entry in read_events(folder):
        if entry["event"] == "epoch" and entry["epoch"] == 1 + len(state.trials[entry["number"]].epochs):
            point = entry["epoch"], int(entry["time"] * 1000), entry["metrics"]["val_accuracy"]
            points.setdefault(entry["number"], []).append(point)
        state.apply(entry)
        if entry["event"] == "end" and entry["status"] != "interrupted":
            curve.append((len(curve) + 1, int(entry["time"] * 1000), pytest.approx(state.hypervolume())))
    assert sorted(children) == sorted(state.trials)
    assert history(uri, parent, "hypervolume") == curve
    assert parent.info.status == RUN_STATUS[state.status] and parent.data.tags["status"] == state.status
    assert parent.data.params["fixed.backbone"] == "vit_nano" and parent.data.params["trials"] == "4"
    for number, run in children.items():
        ours = state.trials[number]
        assert history(uri, run, "val_accuracy") == points.get(number, [])
        assert run.info.status == RUN_STATUS[ours.status] and run.data.tags["status"] == ours.status
        assert run.data.params == {name: str(value) for name, value in ours.values.items()}
        assert (run.data.tags["pareto"] == "true") == (number in state.front())


def everything(uri: str) -> dict:
    """All that an eye on MLflow could see of the searches."""
    runs = {run.info.run_id: run for run in runs_of(uri)}
    seen = {key: (run.info, run.data.params, run.data.tags) for key, run in runs.items()}
    return {k: (repr(v), [history(uri, runs[k], m) for m in sorted(runs[k].data.metrics)]) for k, v in seen.items()}
