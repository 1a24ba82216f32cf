"""MLflow's view of a search: a parent run for the search, a child run a trial, the front in views, note and pictures.

MLflow mirrors the record's events, sent by a thread of its own (``outbox.py``), so that a slow or dead server never
holds up the search; the record in the search's folder is complete without it. ``Tracker`` says which messages an event
becomes, ``SearchRuns`` carries them out.
"""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from trainables.config import METHODS, ConfigError
from tune_fairlora.record import artifacts
from tune_fairlora.record.event_log import EVENT_LOG, Record
from tune_fairlora.record.state import INTERRUPTED, RUNNING, Event, State
from tune_fairlora.record.tables import TABLE_FILES, Renderer, render, snapshot
from tune_fairlora.tracking import client, ui_views
from tune_fairlora.tracking.client import NOTE_TAG, SEARCH, MlflowStore
from tune_fairlora.tracking.outbox import Message, Outbox
from tune_fairlora.tracking.tracking_uri import SERVERS

if TYPE_CHECKING:
    from tune_fairlora.record.search_folder import Finished

PARAMS = (
    *("space", "objectives", "constraints", "sampler", "scheduler", "seed", "seeds", "trials", "methods"),
    *("max_failures", "data", "data_fingerprint", "weights"),
)
REFRESH_SECONDS = 30.0  # between two renewals of page and note while the search is at work, at least

log = logging.getLogger(__name__)


class SearchRuns:
    """MLflow's runs of one search, by trial number (``SEARCH`` is its own), and what is put on them.

    ``state`` is the search as it was when the event that is being sent came, ``record`` the search as it is. Every call
    can be repeated. A run that may be there already is looked for by its tags ``search_id`` and ``trial``: after a
    failed attempt, and where an earlier process may have created it.
    """

    store: MlflowStore  # set once there is a connection

    def __init__(self, record: Record, state: State, ids: dict[int, str]) -> None:
        self.record, self.state, self.ids = record, state, ids
        self.surely_new: int | None = None  # the one run that need not be looked for

    def run(self, number: int) -> str:
        """The id of a trial's run, or the search's; found, or created, where it is not known."""
        if number not in self.ids:
            search_id = self.state.settings["id"]
            earlier = None if number == self.surely_new else self.store.find(search_id, number)
            self.ids[number] = earlier or self._create(number)
            if number == SEARCH:
                self.record.add("tracked_search", run_id=self.ids[number])
            else:
                self.record.add("tracked", number=number, run_id=self.ids[number])
        return self.ids[number]

    def _create(self, number: int) -> str:
        settings = self.state.settings
        common = {"search_id": settings["id"], "mlflow.runColor": ui_views.OTHER_COLOR}
        if number == SEARCH:
            tags = {"role": "search", "status": RUNNING} | {k: settings[k] for k in ("code_version", "weights")}
            return self.store.create(settings["name"], common | tags, self.state.began)
        trial = self.state.trials[number]
        tags = {
            "mlflow.parentRunId": self.run(SEARCH),
            "role": "trial",
            "search": settings["name"],
            "trial": number,
            "status": trial.status,
            "method": trial.values["method"],
            "config_id": trial.config_id,
            "pareto": "false",
        }
        return self.store.create(trial.label, common | tags, trial.started)

    def log_data(self) -> None:
        settings = self.state.settings
        profile = {name: len(settings.get(name, ())) for name in ("classes", "groups")}
        path = settings.get("store", "")
        self.store.log_data(self.run(SEARCH), settings["data"], settings["data_fingerprint"], path, profile)

    def show_trial(self, number: int) -> None:
        """Tables by class and group, and the confusion matrix, of the trial's last epoch."""
        from analysis.html import confusion

        trial, run_id, settings = self.state.trials[number], self.run(number), self.state.settings
        self.store.log_tables(run_id, artifacts.trial_tables(trial, settings))
        if "confusion" in trial.tables:
            page = confusion.page(trial.tables["confusion"], settings["classes"], trial.label)
            self.store.client.log_text(run_id, page, "confusion.html")

    def show_front(self) -> None:
        """The front on the search's run: pictures, interactive page, a table that pages, the record's tables, note."""
        from analysis.figures import front
        from analysis.html import front_page

        search, run_id, mlflow = snapshot(self.record), self.run(SEARCH), self.store.client
        mlflow.log_text(run_id, front_page.page(search), "front.html")
        figure = front.figure(search)
        for name in ("front.png", "front.svg"):
            mlflow.log_figure(run_id, figure, name, save_kwargs={"dpi": 110})
        table = artifacts.front_table(search)
        if table["data"]:
            self.store.log_tables(run_id, {"front.json": table})
        for name in TABLE_FILES:
            if (self.record.folder / name).exists():  # at the start they may not be rendered yet
                self.store.log_record(run_id, self.record.folder / name)
        mlflow.set_tag(run_id, NOTE_TAG, ui_views.search_note(self.state, self.store.experiment_id, self.ids, run_id))

    def show_views(self) -> None:
        """The experiment's prepared views and note; what did not change is not sent."""
        present = dict(self.store.client.get_experiment(self.store.experiment_id).tags)
        earlier = present.get(NOTE_TAG, "")
        note = ui_views.experiment_note(self.state, self.store.experiment_id, self.run(SEARCH), earlier)
        wanted = ui_views.prepared(self.state) | {NOTE_TAG: note}
        self.store.tag_experiment({key: text for key, text in wanted.items() if present.get(key) != text})

    def log_models(self) -> Iterator[Message]:
        """The front's adapters as models of MLflow's. A whole model, which is large, is logged when it is registered;
        so is an adapter of a network with random weights, which would have to come along."""
        from tune_fairlora.record import search_folder  # pandas, and torch for the models, take seconds

        methods = {number: METHODS[self.state.trials[number].values["method"]] for number in self.state.front()}
        kept = [n for n in methods if methods[n].lora and search_folder.weights_of(self.record.folder, n).is_file()]
        if not kept or self.state.settings["weights"] == "random":
            return
        try:
            finished = search_folder.read(self.record.folder, "its models are logged")
            search_folder.require_weights(finished.settings)
        except ConfigError as error:
            log.warning("the front's adapters are not logged as models: %s", error)
            return
        for number in kept:
            yield partial(self._log_model, finished, number)

    def _log_model(self, finished: "Finished", number: int) -> None:
        from tune_fairlora.tracking import models

        try:
            models.log_trial(self.store, finished, number, self.run(number))
        except ConfigError as error:
            log.warning("trial %d is not logged as a model: %s", number, error)

    def mark_models(self) -> None:
        from tune_fairlora.tracking import models

        models.mark(self.store, self.state.settings["id"], self.state.front())


class Tracker(Outbox):
    """Mirrors ``record`` into MLflow: what each event becomes. Every message but a run's creation can be repeated."""

    def _connect(self) -> None:
        self._runs.store = MlflowStore(self.uri, self.experiment)

    def _is_down(self, error: Exception) -> bool:
        return client.is_down(error)

    def _recall(self, events: list[Event]) -> None:
        """The runs that this store is known to have."""
        ids = {e.get("number", SEARCH): e["run_id"] for e in events if e["event"].startswith("tracked")}
        self._runs = SearchRuns(self.record, self.state, ids)
        self._members = set(self.state.front() if self.state.settings else ())
        self._stale = False  # whether page and note are behind the front
        self._refreshed, self._refresh_pause = time.monotonic(), REFRESH_SECONDS

    def _begin(self, entry: Event, new: bool) -> None:
        first = {"search": SEARCH, "start": entry.get("number")}
        self._runs.surely_new = first.get(entry["event"]) if new else None

    def _doubt(self) -> None:
        self._runs.surely_new = None

    def _write(self, method: Callable[..., None], number: int, *content: object) -> Message:
        """The message that calls a method of the store, like ``MlflowStore.tag``, for a run."""
        return lambda: method(self._runs.store, self._runs.run(number), *content)

    def _messages(self, entry: Event) -> Iterator[Message]:
        repeated = entry["event"] == "epoch" and entry["epoch"] <= len(self.state.trials[entry["number"]].epochs)
        self.state.apply(entry)
        send = getattr(self, f"_send_{entry['event']}", None)
        if send is not None and not repeated:
            yield from send(entry)

    def _send_search(self, entry: Event) -> Iterator[Message]:
        settings, runs = entry["settings"], self._runs
        fixed = {f"fixed.{name}": value for name, value in settings["fixed"].items()}
        params = {name: settings[name] for name in PARAMS if name in settings} | fixed
        params["hypervolume_reference"] = self.state.reference
        yield partial(runs.run, SEARCH)
        yield self._write(MlflowStore.log_params, SEARCH, params)
        yield runs.log_data
        yield runs.show_views

    def _send_resume(self, entry: Event) -> Iterator[Message]:
        """Parameters cannot be overwritten in MLflow, so what was changed goes into tags."""
        changed = {f"changed.{name}": value for name, value in entry["changes"].items() if name != "options"}
        yield self._write(MlflowStore.tag, SEARCH, {"status": RUNNING, "reason": ""} | changed)
        yield self._write(MlflowStore.reopen, SEARCH)

    def _send_start(self, entry: Event) -> Iterator[Message]:
        yield partial(self._runs.run, entry["number"])
        yield self._write(MlflowStore.log_params, entry["number"], entry["values"])

    def _send_launch(self, entry: Event) -> Iterator[Message]:
        yield self._write(MlflowStore.tag, entry["number"], {"status": RUNNING, "reason": ""})
        yield self._write(MlflowStore.reopen, entry["number"])

    def _send_epoch(self, entry: Event) -> Iterator[Message]:
        yield self._write(MlflowStore.log_metrics, entry["number"], entry["metrics"], entry["epoch"], entry["time"])

    def _send_decision(self, entry: Event) -> Iterator[Message]:
        yield self._write(MlflowStore.tag, entry["number"], {f"decision.{entry['epoch']}": entry["text"]})

    def _send_fault(self, entry: Event) -> Iterator[Message]:
        yield self._write(MlflowStore.tag, entry["number"], {"fault": entry["reason"]})

    def _send_end(self, entry: Event) -> Iterator[Message]:
        """Close the trial's run, and put the front as it was then on the search's curves. An interrupted trial may go
        on later: only its last end is a step of the curves."""
        number, state, runs = entry["number"], self.state, self._runs
        trial, members = state.trials[number], set(state.front())
        color = ui_views.color(trial, number in members)
        tags = {"status": entry["status"], "device": trial.device, "mlflow.runColor": color} | _reason(entry)
        yield self._write(MlflowStore.tag, number, tags)
        yield self._write(MlflowStore.terminate, number, entry["status"], entry["time"])
        yield from self._mark_front(members)
        if entry["status"] != INTERRUPTED:
            finished = len(state.trials) - state.count(RUNNING, INTERRUPTED)
            yield self._write(MlflowStore.log_metrics, SEARCH, artifacts.curves(state), finished, entry["time"])
            if trial.tables:
                yield partial(runs.show_trial, number)
        if self._stale and time.monotonic() - self._refreshed > self._refresh_pause:
            yield from self._show_front()

    def _mark_front(self, members: set[int]) -> Iterator[Message]:
        """Tag and colour only the runs whose membership changed."""
        changed, self._members = members ^ self._members, members
        self._stale = self._stale or bool(changed)
        for number in sorted(changed):
            color = ui_views.color(self.state.trials[number], number in members)
            tags = {"pareto": "true" if number in members else "false", "mlflow.runColor": color}
            yield self._write(MlflowStore.tag, number, tags)

    def _show_front(self) -> Iterator[Message]:
        """At most ``Renderer.SHARE`` of the time goes into it, as into the record's tables."""
        began = time.monotonic()
        yield self._runs.show_front
        yield self._runs.show_views
        self._stale, self._refreshed = False, time.monotonic()
        self._refresh_pause = max(REFRESH_SECONDS, (self._refreshed - began) / Renderer.SHARE)

    def _send_close(self, entry: Event) -> Iterator[Message]:
        """The run ends before its pictures are sent: they may need a store of their own, which may be down."""
        runs = self._runs
        yield self._write(MlflowStore.tag, SEARCH, {"status": entry["status"]} | _reason(entry))
        yield self._write(MlflowStore.terminate, SEARCH, entry["status"], entry["time"])
        yield partial(render, self.record)  # by now the ids of the runs are known
        yield from self._show_front()
        yield self._write(MlflowStore.log_record, SEARCH, self.record.folder / EVENT_LOG)  # which a report reads
        yield lambda: runs.store.remove_twins(self.state.settings["id"], runs.ids)
        if not self._hurried:  # `export --register` logs what is left out here
            yield from runs.log_models()
            yield runs.mark_models

    def address(self) -> str:
        """Where a server shows the front, once everything is sent; "" where no server is at hand."""
        if self.waiting or not self.uri.startswith(SERVERS):
            return ""
        return ui_views.front_address(self.uri, self._runs.store.experiment_id, self.state.settings["id"])


def _reason(entry: Event) -> dict[str, str]:
    return {"reason": entry["reason"]} if entry.get("reason") else {}
