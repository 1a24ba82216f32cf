"""MLflow's view of a search: a parent run for the search, a child run a trial. The one file that imports mlflow.

Everything is sent by a thread of its own, so that a slow or dead server never holds up the search; the record in the
search's folder is complete without it.
"""

import contextlib
import http.client
import logging
import math
import os
import queue
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from trainables.config import ConfigError
from tune_fairlora.record import COLLAPSED, COMPLETE, DIVERGED, FAILED, INTERRUPTED, RUNNING, STOPPED, Record, Trial
from tune_fairlora.render import render

RUN_STATUS = {
    COMPLETE: "FINISHED",
    COLLAPSED: "FINISHED",
    STOPPED: "FINISHED",
    FAILED: "FAILED",
    DIVERGED: "FAILED",
    INTERRUPTED: "KILLED",
    RUNNING: "RUNNING",
}
SQLITE = "sqlite:///"
PROBE_SECONDS = 10
CLOSE_SECONDS = 60

log = logging.getLogger(__name__)


def check_store(uri: str) -> None:
    """Raise ConfigError if ``uri`` is a server that does not answer within seconds, or a sqlite file that is none."""
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif uri.startswith(SQLITE):
        _check_sqlite(Path(uri.removeprefix(SQLITE)))
    elif not uri.startswith(("mysql", "postgresql", "mssql", "databricks")):
        raise ConfigError(f"--tracking-uri must be a server (http://…) or a database (sqlite:///…), but got {uri}")


def _check_server(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS):
            return
    except urllib.error.HTTPError as error:
        raise ConfigError(f"--tracking-uri {uri} answers, but not as an MLflow server (HTTP {error.code})") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(f"--tracking-uri {uri} does not answer ({reason}): is the server up?") from error


def _check_sqlite(path: Path) -> None:
    """Without MLflow, whose import takes seconds: its own trouble with the file is reported by the tracker."""
    if set("?#%") & set(str(path)):
        raise ConfigError(f"--tracking-uri's path must be free of ?, # and %, which an address cannot hold: {path}")
    nearest = next(parent for parent in path.parents if parent.exists())
    if path.is_dir() or not nearest.is_dir() or not os.access(path if path.exists() else nearest, os.W_OK):
        raise ConfigError(f"--tracking-uri must be a file that can be written, but {path} cannot")
    if path.exists():
        try:
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"--tracking-uri must be a sqlite database, but {path} is not ({error})") from error


def absolute_uri(uri: str) -> str:
    """A relative sqlite path made absolute, so that it means one file whatever the current folder is later."""
    if uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}/"):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).resolve())
    return uri


class Tracker:
    """Mirrors ``record`` into MLflow. Methods return at once; ``close`` waits until all is sent, or gives up."""

    def __init__(self, uri: str, experiment: str, record: Record):
        self.uri, self.experiment, self.record = uri, experiment, record
        self.errors = 0
        self.parent = ""
        self._members: set[int] = set()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def start_search(self) -> None:
        self._queue.put(self._start_search)

    def start_trial(self, number: int) -> None:
        self._queue.put(lambda: self._start_trial(self.record.trials[number]))

    def epoch(self, number: int, epoch: int, metrics: dict[str, float], time: float) -> None:
        self._queue.put(lambda: self._log_metrics(self.record.trials[number].run_id, metrics, epoch, time))

    def end_trial(self, number: int) -> None:
        """Close the trial's run, and put hypervolume and front size as they are now on the search's curves."""
        members = set(self.record.front())
        curves = {"hypervolume": self.record.hypervolume(), "front_size": float(len(members))}
        finished = len(self.record.trials) - self.record.count(RUNNING)
        trial = self.record.trials[number]
        self._queue.put(lambda: self._end_trial(trial))
        self._queue.put(lambda: self._mark_front(members))
        self._queue.put(lambda: self._log_metrics(self.parent, curves, finished, trial.ended))

    def close(self, status: str, seconds: float = CLOSE_SECONDS) -> None:
        """Attach the front's table and picture, end the parent run, and wait for the queue to run dry."""
        self._queue.put(self._log_front)
        self._queue.put(lambda: self._client.set_terminated(self.parent, RUN_STATUS[status]))
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.errors += self._queue.qsize() + 1

    def _work(self) -> None:
        task: Callable[[], None] | None = self._connect
        while task is not None:
            try:
                task()
            except Exception:  # whatever the server or the network does, the search goes on
                self.errors += 1
                log.exception("MLflow did not take a message")
            task = self._queue.get()

    def _connect(self) -> None:
        """MLflow is imported here, in the thread: it takes seconds. Its default retries a dead server for minutes."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        from mlflow import MlflowClient

        self._client = MlflowClient(self.uri)

    def _start_search(self) -> None:
        settings = self.record.settings
        tags = {"role": "search", "status": RUNNING, **{k: settings[k] for k in ("code_version", "weights")}}
        run = self._client.create_run(self._experiment_id(), tags=tags, run_name=settings["name"])
        self.parent = run.info.run_id
        self.record.add("tracked_search", run_id=self.parent)
        keys = ("space", "objectives", "sampler", "seed", "seeds", "trials", "methods")
        keys += ("data", "data_fingerprint", "weights")
        fixed = {f"fixed.{name}": value for name, value in settings["fixed"].items()}
        self._log_params(self.parent, {name: settings[name] for name in keys} | fixed)

    def _experiment_id(self) -> str:
        known = self._client.get_experiment_by_name(self.experiment)
        if known:
            return known.experiment_id
        location = None
        if self.uri.startswith(SQLITE):  # else MLflow would put artifacts below whatever folder is current
            location = (Path(self.uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri()
        try:
            return self._client.create_experiment(self.experiment, artifact_location=location)
        except Exception:  # another search may have made it in the meantime
            known = self._client.get_experiment_by_name(self.experiment)
            if known is None:
                raise
            return known.experiment_id

    def _start_trial(self, trial: Trial) -> None:
        if not self.parent:
            raise RuntimeError(f"trial {trial.number} has no parent run to belong to")
        tags = {
            "mlflow.parentRunId": self.parent,
            "role": "trial",
            "search": self.record.settings["name"],
            "status": RUNNING,
            "method": trial.values["method"],
            "config_id": trial.config_id,
            "pareto": "false",
        }
        start = int(trial.started * 1000)
        run = self._client.create_run(self._experiment_id(), start_time=start, tags=tags, run_name=trial.label)
        self.record.add("tracked", number=trial.number, run_id=run.info.run_id)
        self._log_params(run.info.run_id, trial.values)

    def _end_trial(self, trial: Trial) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag("status", trial.status), RunTag("reason", trial.reason[:5000]), RunTag("device", trial.device)]
        self._client.log_batch(trial.run_id, tags=tags)
        self._client.set_terminated(trial.run_id, RUN_STATUS[trial.status], end_time=int(trial.ended * 1000))

    def _mark_front(self, members: set[int]) -> None:
        """Tag only the runs whose membership changed."""
        for number in members ^ self._members:
            value = "true" if number in members else "false"
            self._client.set_tag(self.record.trials[number].run_id, "pareto", value)
        self._members = members

    def _log_metrics(self, run_id: str, metrics: dict[str, float], step: int, time: float) -> None:
        from mlflow.entities import Metric

        stamp = int(time * 1000)
        finite = [Metric(k, v, stamp, step) for k, v in metrics.items() if math.isfinite(v)]
        self._client.log_batch(run_id, metrics=finite)

    def _log_params(self, run_id: str, params: dict) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])

    def _log_front(self) -> None:
        """The front as a table that pages and as a picture, rendered once more: by now all run ids are known."""
        from analysis import tables, trials

        render(self.record)
        front = tables.front(trials.read(self.record.folder))
        if len(front):
            self._client.log_table(self.parent, front, "front.json")
        self._client.log_artifact(self.parent, str(self.record.folder / "front.png"))
        self._client.set_tag(self.parent, "status", self.record.status)
