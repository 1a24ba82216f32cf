"""MLflow's view of a search: a parent run for the search, a child run a trial. The one file that imports mlflow.

MLflow mirrors the record's events, sent by a thread of its own (``spool.py``), so that a slow or dead server never
holds up the search; the record in the search's folder is complete without it.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tune_fairlora.render import render
from tune_fairlora.spool import Spool
from tune_fairlora.state import COLLAPSED, COMPLETE, DIVERGED, FAILED, INTERRUPTED, RUNNING, STOPPED
from tune_fairlora.stores import SQLITE, make_database

RUN_STATUS = dict.fromkeys((COMPLETE, COLLAPSED, STOPPED), "FINISHED") | dict.fromkeys((FAILED, DIVERGED), "FAILED")
RUN_STATUS |= {INTERRUPTED: "KILLED", RUNNING: "RUNNING"}
SEARCH = -1  # stands for the search's run among the trials' numbers
PARAMS = ("space", "objectives", "constraints", "sampler", "scheduler", "seed", "seeds", "trials", "methods")
PARAMS += ("max_failures", "data", "data_fingerprint", "weights")
OURS_TO_WAIT = (401, 403, 408, 429)  # refusals that say something of the server or its gate, not of the message
TEXT = 5000  # characters; MLflow takes 6000 in a parameter


class Tracker(Spool):
    """Mirrors ``record`` into MLflow: what each event becomes. Every message but a run's creation can be repeated as
    it is: a metric of equal time, step and value, a tag or an equal parameter is stored once.

    A run that may be there already is looked for by its tags ``search_id`` and ``trial``: after a failed attempt, and
    where an earlier process may have made it.
    """

    def _connect(self) -> None:
        """MLflow is imported here, in the thread: it takes seconds. Its own retries would block for minutes."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a request and two lines for every run
        from mlflow import MlflowClient

        path = Path(self.uri.removeprefix(SQLITE))
        if self.uri.startswith(SQLITE) and not path.exists():
            make_database(path, lambda uri: MlflowClient(uri).search_experiments(max_results=1))
        self._client = MlflowClient(self.uri)

    def _is_down(self, error: Exception) -> bool:
        import requests
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import OperationalError

        if isinstance(error, MlflowException):
            status = error.get_http_status_code()
            return status >= 500 or status in OURS_TO_WAIT or error.error_code == "ENDPOINT_NOT_FOUND"
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return error.response.status_code >= 500 or error.response.status_code in OURS_TO_WAIT
        return isinstance(error, (requests.RequestException, ConnectionError, TimeoutError, OperationalError))

    def _recall(self, events: list[dict]) -> None:
        """The runs that this store is known to have."""
        self._runs = {e.get("number", SEARCH): e["run_id"] for e in events if e["event"].startswith("tracked")}
        self._members = set(self.state.front() if self.state.settings else ())
        self._experiment = ""
        self._unmade: int | None = None

    def _begin(self, entry: dict, new: bool) -> None:
        first = {"search": SEARCH, "start": entry.get("number")}
        self._unmade = first.get(entry["event"]) if new else None  # the one run that need not be looked for

    def _doubt(self) -> None:
        self._unmade = None

    def _messages(self, entry: dict) -> Iterator[Callable[[], object]]:
        repeated = entry["event"] == "epoch" and entry["epoch"] <= len(self.state.trials[entry["number"]].epochs)
        self._fold(entry)
        send = getattr(self, f"_send_{entry['event']}", None)
        if send is not None and not repeated:
            yield from send(entry)

    def _send_search(self, entry: dict) -> Iterator[Callable[[], object]]:
        settings = entry["settings"]
        fixed = {f"fixed.{name}": value for name, value in settings["fixed"].items()}
        yield partial(self._run, SEARCH)
        yield partial(self._log_params, SEARCH, {name: settings[name] for name in PARAMS if name in settings} | fixed)

    def _send_resume(self, entry: dict) -> Iterator[Callable[[], object]]:
        """Parameters cannot be overwritten in MLflow, so what was changed goes into tags."""
        changed = {f"changed.{name}": value for name, value in entry["changes"].items() if name != "options"}
        yield partial(self._tag, SEARCH, {"status": RUNNING, "reason": ""} | changed)
        yield partial(self._reopen, SEARCH)

    def _send_start(self, entry: dict) -> Iterator[Callable[[], object]]:
        yield partial(self._run, entry["number"])
        yield partial(self._log_params, entry["number"], entry["values"])

    def _send_launch(self, entry: dict) -> Iterator[Callable[[], object]]:
        yield partial(self._tag, entry["number"], {"status": RUNNING})
        yield partial(self._reopen, entry["number"])

    def _send_epoch(self, entry: dict) -> Iterator[Callable[[], object]]:
        yield partial(self._log_metrics, entry["number"], entry["metrics"], entry["epoch"], entry["time"])

    def _send_decision(self, entry: dict) -> Iterator[Callable[[], object]]:
        yield partial(self._tag, entry["number"], {f"decision.{entry['epoch']}": entry["text"]})

    def _send_fault(self, entry: dict) -> Iterator[Callable[[], object]]:
        yield partial(self._tag, entry["number"], {"fault": entry["reason"]})

    def _send_end(self, entry: dict) -> Iterator[Callable[[], object]]:
        """Close the trial's run, and put hypervolume and front size as they were then on the search's curves. An
        interrupted trial may go on later: only its last end is a step of the curves."""
        number, state = entry["number"], self.state
        tags = {"status": entry["status"], "reason": entry["reason"], "device": state.trials[number].device}
        yield partial(self._tag, number, tags)
        yield partial(self._terminate, number, entry)
        yield from self._mark_front(set(state.front()))
        if entry["status"] != INTERRUPTED:
            curves = {"hypervolume": state.hypervolume(), "front_size": float(len(self._members))}
            finished = len(state.trials) - state.count(RUNNING, INTERRUPTED)
            yield partial(self._log_metrics, SEARCH, curves, finished, entry["time"])

    def _mark_front(self, members: set[int]) -> Iterator[Callable[[], object]]:
        """Tag only the runs whose membership changed."""
        for number in sorted(members ^ self._members):
            yield partial(self._tag, number, {"pareto": "true" if number in members else "false"})
        self._members = members

    def _send_close(self, entry: dict) -> Iterator[Callable[[], object]]:
        """The run ends before its pictures are sent: they may need a store of their own, which may be down."""
        yield partial(self._tag, SEARCH, {"status": entry["status"], "reason": entry.get("reason", "")})
        yield partial(self._terminate, SEARCH, entry)
        yield self._log_front_table
        if (self.record.folder / "front.png").exists():
            yield lambda: self._client.log_artifact(self._run(SEARCH), str(self.record.folder / "front.png"))
        yield self._remove_twins

    def _run(self, number: int) -> str:
        """The id of a trial's run, or the search's; found, or made, where it is not known."""
        if number not in self._runs:
            found = None if number == self._unmade else self._find(number)
            self._runs[number] = found or self._create(number)
            of = {} if number == SEARCH else {"number": number}
            self.record.add("tracked" if of else "tracked_search", **of, run_id=self._runs[number])
        return self._runs[number]

    def _find(self, number: int) -> str | None:
        own = "tags.role = 'search'" if number == SEARCH else f"tags.trial = '{number}'"
        wanted = f"tags.search_id = '{self.state.settings['id']}' and {own}"
        runs = self._client.search_runs([self._experiment_id()], filter_string=wanted, max_results=1)
        return runs[0].info.run_id if runs else None

    def _create(self, number: int) -> str:
        experiment = self._experiment_id()
        tags, name, start = self._search_run() if number == SEARCH else self._trial_run(number)
        tags = {key: _text(value) for key, value in tags.items()}
        run = self._client.create_run(experiment, start_time=int(start * 1000), tags=tags, run_name=_text(name))
        return run.info.run_id

    def _search_run(self) -> tuple[dict, str, float]:
        settings = self.state.settings
        tags = {"role": "search", "search_id": settings["id"], "status": RUNNING}
        return tags | {k: settings[k] for k in ("code_version", "weights")}, settings["name"], self.began

    def _trial_run(self, number: int) -> tuple[dict, str, float]:
        trial = self.state.trials[number]
        tags = {
            "mlflow.parentRunId": self._run(SEARCH),
            "role": "trial",
            "search": self.state.settings["name"],
            "search_id": self.state.settings["id"],
            "trial": number,
            "status": trial.status,
            "method": trial.values["method"],
            "config_id": trial.config_id,
            "pareto": "false",
        }
        return tags, trial.label, trial.started

    def _experiment_id(self) -> str:
        if not self._experiment:
            known = self._client.get_experiment_by_name(self.experiment)
            self._experiment = known.experiment_id if known else self._make_experiment()
        return self._experiment

    def _make_experiment(self) -> str:
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

    def _remove_twins(self) -> None:
        """A request that timed out may have made its run after all, later than it was looked for: an empty one."""
        wanted, token = f"tags.search_id = '{self.state.settings['id']}'", None
        while token != "":
            runs = self._client.search_runs([self._experiment_id()], filter_string=wanted, page_token=token)
            for run in runs:
                own = self._runs.get(int(run.data.tags.get("trial", SEARCH)))
                if own not in (None, run.info.run_id) and not run.data.params and not run.data.metrics:
                    self._client.delete_run(run.info.run_id)
            token = runs.token or ""

    def _reopen(self, number: int) -> None:
        self._client.update_run(self._run(number), status=RUN_STATUS[RUNNING])

    def _terminate(self, number: int, entry: dict) -> None:
        self._client.set_terminated(self._run(number), RUN_STATUS[entry["status"]], end_time=int(entry["time"] * 1000))

    def _log_metrics(self, number: int, metrics: dict[str, float], step: int, time: float) -> None:
        from mlflow.entities import Metric

        finite = [Metric(k, v, int(time * 1000), step) for k, v in metrics.items() if math.isfinite(v)]
        self._client.log_batch(self._run(number), metrics=finite)

    def _log_params(self, number: int, params: dict) -> None:
        from mlflow.entities import Param

        self._client.log_batch(self._run(number), params=[Param(k, _text(v)) for k, v in params.items()])

    def _tag(self, number: int, tags: dict) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self._run(number), tags=[RunTag(k, _text(v)) for k, v in tags.items()])

    def _log_front_table(self) -> None:
        """The front as a table that pages, rendered once more: by now all run ids are known. MLflow's ``log_table``
        would append to the table of an earlier end."""
        from analysis import tables, trials

        render(self.record)
        front = tables.front(trials.read(self.record.folder))
        if len(front):
            text = front.to_json(orient="split", index=False, date_format="iso")
            self._client.log_text(self._run(SEARCH), text, "front.json")
            self._tag(SEARCH, {"mlflow.loggedArtifacts": json.dumps([{"path": "front.json", "type": "table"}])})


def _text(value) -> str:
    """What MLflow takes as a text: cut, and without the halves of characters that odd file names hold."""
    return str(value)[:TEXT].encode(errors="replace").decode()
