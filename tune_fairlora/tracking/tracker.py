"""MLflow's view of a search: a parent run for the search, a child run a trial, the front in views, note and pictures.

MLflow mirrors the record's events, sent by a thread of its own (``outbox.py``), so that a slow or dead server never
holds up the search; the record in the search's folder is complete without it.
"""

from collections.abc import Iterator
from functools import partial

from tune_fairlora.record import artifacts
from tune_fairlora.record.state import COLLAPSED, COMPLETE, DIVERGED, FAILED, INTERRUPTED, RUNNING, STOPPED
from tune_fairlora.showing import Message, Showing
from tune_fairlora.tracking import client, ui_views
from tune_fairlora.tracking.client import SEARCH, MlflowStore
from tune_fairlora.tracking.outbox import Outbox
from tune_fairlora.tracking.tracking_uri import SERVERS

RUN_STATUS = dict.fromkeys((COMPLETE, COLLAPSED, STOPPED), "FINISHED") | dict.fromkeys((FAILED, DIVERGED), "FAILED")
RUN_STATUS |= {INTERRUPTED: "KILLED", RUNNING: "RUNNING"}
PARAMS = ("space", "objectives", "constraints", "sampler", "scheduler", "seed", "seeds", "trials", "methods")
PARAMS += ("max_failures", "data", "data_fingerprint", "weights")


class Tracker(Showing, Outbox):
    """Mirrors ``record`` into MLflow: what each event becomes. Every message but a run's creation can be repeated.

    A run that may be there already is looked for by its tags ``search_id`` and ``trial``: after a failed attempt, and
    where an earlier process may have made it.
    """

    def _connect(self) -> None:
        self._store = MlflowStore(self.uri, self.experiment)

    def _is_down(self, error: Exception) -> bool:
        return client.is_down(error)

    def _recall(self, events: list[dict]) -> None:
        """The runs that this store is known to have."""
        self._runs = {e.get("number", SEARCH): e["run_id"] for e in events if e["event"].startswith("tracked")}
        self._members = set(self.state.front() if self.state.settings else ())
        self._unmade: int | None = None
        self._begin_showing()

    def _begin(self, entry: dict, new: bool) -> None:
        first = {"search": SEARCH, "start": entry.get("number")}
        self._unmade = first.get(entry["event"]) if new else None  # the one run that need not be looked for

    def _doubt(self) -> None:
        self._unmade = None

    def _messages(self, entry: dict) -> Iterator[Message]:
        repeated = entry["event"] == "epoch" and entry["epoch"] <= len(self.state.trials[entry["number"]].epochs)
        self._fold(entry)
        send = getattr(self, f"_send_{entry['event']}", None)
        if send is not None and not repeated:
            yield from send(entry)

    def _send_search(self, entry: dict) -> Iterator[Message]:
        settings = entry["settings"]
        fixed = {f"fixed.{name}": value for name, value in settings["fixed"].items()}
        params = {name: settings[name] for name in PARAMS if name in settings} | fixed
        params["hypervolume_reference"] = self.state.reference
        yield partial(self._run, SEARCH)
        yield lambda: self._store.log_params(self._run(SEARCH), params)
        yield self._log_data
        yield self._show_views

    def _send_resume(self, entry: dict) -> Iterator[Message]:
        """Parameters cannot be overwritten in MLflow, so what was changed goes into tags."""
        changed = {f"changed.{name}": value for name, value in entry["changes"].items() if name != "options"}
        yield partial(self._tag, SEARCH, {"status": RUNNING, "reason": ""} | changed)
        yield lambda: self._store.reopen(self._run(SEARCH))

    def _send_start(self, entry: dict) -> Iterator[Message]:
        yield partial(self._run, entry["number"])
        yield lambda: self._store.log_params(self._run(entry["number"]), entry["values"])

    def _send_launch(self, entry: dict) -> Iterator[Message]:
        yield partial(self._tag, entry["number"], {"status": RUNNING, "reason": ""})
        yield lambda: self._store.reopen(self._run(entry["number"]))

    def _send_epoch(self, entry: dict) -> Iterator[Message]:
        yield partial(self._log_metrics, entry["number"], entry["metrics"], entry["epoch"], entry["time"])

    def _send_decision(self, entry: dict) -> Iterator[Message]:
        yield partial(self._tag, entry["number"], {f"decision.{entry['epoch']}": entry["text"]})

    def _send_fault(self, entry: dict) -> Iterator[Message]:
        yield partial(self._tag, entry["number"], {"fault": entry["reason"]})

    def _send_end(self, entry: dict) -> Iterator[Message]:
        """Close the trial's run, and put the front as it was then on the search's curves. An interrupted trial may go
        on later: only its last end is a step of the curves."""
        number, state = entry["number"], self.state
        trial, members = state.trials[number], set(state.front())
        tags = {"status": entry["status"], "device": trial.device} | _reason(entry)
        yield partial(self._tag, number, tags | {"mlflow.runColor": ui_views.color(trial, number in members)})
        yield lambda: self._store.terminate(self._run(number), RUN_STATUS[entry["status"]], entry["time"])
        yield from self._mark_front(members)
        if entry["status"] != INTERRUPTED:
            finished = len(state.trials) - state.count(RUNNING, INTERRUPTED)
            yield partial(self._log_metrics, SEARCH, artifacts.curves(state), finished, entry["time"])
            if trial.tables:
                yield partial(self._show_trial, number)
        yield from self._refresh()

    def _mark_front(self, members: set[int]) -> Iterator[Message]:
        """Tag and colour only the runs whose membership changed."""
        changed, self._members = members ^ self._members, members
        self._stale = self._stale or bool(changed)
        for number in sorted(changed):
            color = ui_views.color(self.state.trials[number], number in members)
            tags = {"pareto": "true" if number in members else "false", "mlflow.runColor": color}
            yield partial(self._tag, number, tags)

    def _send_close(self, entry: dict) -> Iterator[Message]:
        """The run ends before its pictures are sent: they may need a store of their own, which may be down."""
        yield partial(self._tag, SEARCH, {"status": entry["status"]} | _reason(entry))
        yield lambda: self._store.terminate(self._run(SEARCH), RUN_STATUS[entry["status"]], entry["time"])
        yield from self._show_front(over=True)
        yield self._log_log
        yield lambda: self._store.remove_twins(self.state.settings["id"], self._runs)
        if not self._hurried:  # `export --register` logs what is left out here
            yield from self._log_models()
            yield self._mark_models

    def address(self) -> str:
        """Where a server shows the front, once everything is sent; "" where no server is at hand."""
        if self.waiting or not self.uri.startswith(SERVERS):
            return ""
        return ui_views.front_address(self.uri, self._store.experiment_id, self.state.settings["id"])

    def _run(self, number: int) -> str:
        """The id of a trial's run, or the search's; found, or made, where it is not known."""
        if number not in self._runs:
            search_id = self.state.settings["id"]
            found = None if number == self._unmade else self._store.find(search_id, number)
            self._runs[number] = found or self._store.create(*self._new_run(number))
            of = {} if number == SEARCH else {"number": number}
            self.record.add("tracked" if of else "tracked_search", **of, run_id=self._runs[number])
        return self._runs[number]

    def _new_run(self, number: int) -> tuple[str, dict, float]:
        """Name, tags and start of a run."""
        settings = self.state.settings
        common = {"search_id": settings["id"], "mlflow.runColor": ui_views.OTHER_COLOR}
        if number == SEARCH:
            tags = {"role": "search", "status": RUNNING} | {k: settings[k] for k in ("code_version", "weights")}
            return settings["name"], common | tags, self.began
        trial = self.state.trials[number]
        tags = {
            "mlflow.parentRunId": self._run(SEARCH),
            "role": "trial",
            "search": settings["name"],
            "trial": number,
            "status": trial.status,
            "method": trial.values["method"],
            "config_id": trial.config_id,
            "pareto": "false",
        }
        return trial.label, common | tags, trial.started

    def _tag(self, number: int, tags: dict) -> None:
        self._store.tag(self._run(number), tags)

    def _log_metrics(self, number: int, metrics: dict[str, float], step: int, time: float) -> None:
        self._store.log_metrics(self._run(number), metrics, step, time)


def _reason(entry: dict) -> dict:
    return {"reason": entry["reason"]} if entry.get("reason") else {}
