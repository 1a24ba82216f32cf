"""MLflow's view of a search: a parent run for the search, a child run a trial, the front in views, note and pictures.

MLflow mirrors the record's events, sent by a thread of its own (``outbox.py``), so that a slow or dead server never
holds up the search; the record in the search's folder is complete without it.
"""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from trainables.config import METHODS, ConfigError
from tune_fairlora.record import search_folder
from tune_fairlora.record.event_log import EVENT_LOG, Record
from tune_fairlora.record.search_folder import Finished
from tune_fairlora.record.state import INTERRUPTED, RUNNING, Event
from tune_fairlora.record.tables import CONFIGURATIONS, TABLE_FILES, Renderer, render, snapshot
from tune_fairlora.tracking import models, ui_views
from tune_fairlora.tracking.client import NOTE_TAG, SEARCH, MlflowStore
from tune_fairlora.tracking.outbox import Message, Outbox, read_position
from tune_fairlora.tracking.tracking_uri import EXPERIMENT, SERVERS, absolute_uri

PARAMS = (
    *("space", "objectives", "constraints", "sampler", "scheduler", "seed", "seeds", "trials", "methods"),
    *("max_failures", "data", "data_fingerprint", "weights"),
)
REFRESH_SECONDS = 30.0  # between two renewals of page and note while the search is at work, at least

log = logging.getLogger(__name__)


class Tracker(Outbox):
    """Mirrors ``record`` into MLflow's runs of the search, by trial number (``SEARCH`` is its own).

    Every message but a run's creation can be repeated. A run that may be there already is looked for by its tags
    ``search_id`` and ``trial``: after a failed attempt, and where an earlier process may have created it.
    """

    def _connect(self, earlier: list[Event]) -> None:
        self.store = MlflowStore(self.uri, self.experiment)
        self._ids = {e.get("number", SEARCH): e["run_id"] for e in earlier if e["event"].startswith("tracked")}
        self._members = set(self.state.front() if self.state.settings else ())
        self._stale = False  # whether page and note are behind the front
        self._refreshed, self._refresh_pause = time.monotonic(), REFRESH_SECONDS

    def run(self, number: int, surely_new: bool = False) -> str:
        """The id of a trial's run, or the search's; found (unless it is ``surely_new``), or created, where it is not
        known."""
        if number not in self._ids:
            earlier = None if surely_new else self.store.find(self.state.settings["id"], number)
            self._ids[number] = earlier or self._create(number)
            if number == SEARCH:
                self.record.add("tracked_search", run_id=self._ids[number])
            else:
                self.record.add("tracked", number=number, run_id=self._ids[number])
        return self._ids[number]

    def _create(self, number: int) -> str:
        settings = self.state.settings
        common = {"search_id": settings["id"], "mlflow.runColor": ui_views.OTHER_COLOR}
        if number == SEARCH:
            tags = {"role": "search", "status": RUNNING} | {k: settings[k] for k in ("code_version", "weights")}
            return self.store.create(settings["name"], common | tags, self.state.began)
        trial = self.state.trials[number]
        tags = {"role": "trial", "search": settings["name"], "trial": number, "mlflow.parentRunId": self.run(SEARCH)}
        tags |= {"method": trial.values["method"], "config_id": trial.config_id}
        tags |= {"status": trial.status, "pareto": "false"}
        return self.store.create(trial.label, common | tags, trial.started)

    def _write(self, number: int, method: Callable[..., None], *content: object) -> Message:
        """The message that calls a method of the store, like ``MlflowStore.tag``, for a run."""
        return lambda: method(self.store, self.run(number), *content)

    def _messages(self, entry: Event) -> Iterator[Message]:
        number, event = entry.get("number", SEARCH), entry["event"]
        repeated = event == "epoch" and entry["epoch"] <= len(self.state.trials[number].epochs)
        self.state.apply(entry)
        write = partial(self._write, number)
        if event in ("search", "start"):
            yield lambda: self.run(number, self._untried)
        match event:
            case "search":
                settings = self.state.settings
                params = {name: settings[name] for name in PARAMS if name in settings}
                params |= {f"fixed.{name}": value for name, value in settings["fixed"].items()}
                params["hypervolume_reference"] = self.state.reference
                yield write(MlflowStore.log_params, params)
                yield self.log_data
                yield self.show_views
            case "start":
                yield write(MlflowStore.log_params, entry["values"])
            case "resume" | "launch":  # parameters cannot be overwritten in MLflow: what was changed goes into tags
                changes = {f"changed.{k}": value for k, value in entry.get("changes", {}).items() if k != "options"}
                yield write(MlflowStore.tag, {"status": RUNNING, "reason": ""} | changes)
                yield write(MlflowStore.reopen)
            case "epoch" if not repeated:
                yield write(MlflowStore.log_metrics, entry["metrics"], entry["epoch"], entry["time"])
            case "decision":
                yield write(MlflowStore.tag, {f"decision.{entry['epoch']}": entry["text"]})
            case "fault":
                yield write(MlflowStore.tag, {"fault": entry["reason"]})
            case "end" | "close":
                tags = {name: entry[name] for name in ("status", "reason") if entry.get(name)}
                if event == "end":
                    trial = self.state.trials[number]  # it may be known by now that it serves nobody
                    tags |= {"status": trial.status} | ({"reason": trial.reason} if trial.reason else {})
                    color = ui_views.color(trial, number in self.state.front())
                    tags |= {"device": trial.device, "mlflow.runColor": color}
                yield write(MlflowStore.tag, tags)
                yield write(MlflowStore.terminate, entry["status"], entry["time"])
                yield from self._after_trial(entry) if event == "end" else self._after_search()

    def _after_trial(self, entry: Event) -> Iterator[Message]:
        """Tag and colour the runs that came to the front or left it, or whose models proved to serve nobody, and put
        the front as it was then on the search's curves. An interrupted trial may go on later: only its last end is a
        step of the curves."""
        number, state, members = entry["number"], self.state, set(self.state.front())
        changed, self._members = (members ^ self._members).union(state.changed), members
        self._stale = self._stale or bool(changed)
        for other in sorted(changed):
            color = ui_views.color(state.trials[other], other in members)
            tags = {"pareto": "true" if other in members else "false", "mlflow.runColor": color}
            if other in state.changed:
                tags |= {"status": state.trials[other].status, "reason": state.trials[other].reason}
            yield self._write(other, MlflowStore.tag, tags)
        if entry["status"] != INTERRUPTED:
            ended = len(state.trials) - state.count(RUNNING, INTERRUPTED)
            yield self._write(SEARCH, MlflowStore.log_metrics, ui_views.curves(state), ended, entry["time"])
            if state.trials[number].tables:
                yield partial(self.show_trial, number)
        if self._stale and time.monotonic() - self._refreshed > self._refresh_pause:
            yield from self._refresh()

    def _refresh(self) -> Iterator[Message]:
        """At most ``Renderer.SHARE`` of the time goes into it, as into the record's tables."""
        began = time.monotonic()
        yield self.show_front
        yield self.show_views
        self._stale, self._refreshed = False, time.monotonic()
        self._refresh_pause = max(REFRESH_SECONDS, (self._refreshed - began) / Renderer.SHARE)

    def _after_search(self) -> Iterator[Message]:
        """The run has ended before its pictures are sent: they may need a store of their own, which may be down."""
        yield partial(render, self.record)  # by now the ids of the runs are known
        yield from self._refresh()
        yield self._write(SEARCH, MlflowStore.log_record, self.record.folder / EVENT_LOG)  # which a report reads
        yield lambda: self.store.remove_twins(self.state.settings["id"], self._ids)
        if not self._hurried:  # `export --register` logs what is left out here
            yield from self._log_models()
            yield lambda: models.mark(self.store, self.state.settings["id"], self.state.front())

    def log_data(self) -> None:
        settings = self.state.settings
        profile = {name: len(settings.get(name, ())) for name in ("classes", "groups")}
        path = settings.get("store", "")
        self.store.log_data(self.run(SEARCH), settings["data"], settings["data_fingerprint"], path, profile)

    def show_trial(self, number: int) -> None:
        """Tables by class and group, and the confusion matrix, of the trial's last epoch."""
        from analysis.html import confusion

        trial, run_id, settings = self.state.trials[number], self.run(number), self.state.settings
        self.store.log_tables(run_id, ui_views.trial_tables(trial, settings))
        if "confusion" in trial.tables:
            page = confusion.page(trial.tables["confusion"], settings["classes"], trial.label)
            self.store.client.log_text(run_id, page, "confusion.html")

    def show_front(self) -> None:
        """The front on the search's run: pictures, interactive page, a table that pages, the record's tables, note; and
        once it is over what is claimed of its members, on their own runs."""
        from analysis.claims import claims
        from analysis.confirmation import confirmation
        from analysis.figures import front
        from analysis.html import front_page
        from analysis.results import CONFIRMED, NothingToShow

        search, run_id, mlflow = snapshot(self.record), self.run(SEARCH), self.store.client
        mlflow.log_text(run_id, front_page.page(search), "front.html")
        figure = front.figure(search)
        for name in ("front.png", "front.svg"):
            mlflow.log_figure(run_id, figure, name, save_kwargs={"dpi": 110})
        table = ui_views.front_table(search)
        if table["data"]:
            self.store.log_tables(run_id, {"front.json": table})
        for name in (*TABLE_FILES, CONFIGURATIONS, CONFIRMED):
            if (self.record.folder / name).exists():  # at the start they may not be rendered yet
                self.store.log_record(run_id, self.record.folder / name)
        claimed = claims(search)
        try:
            confirmed = confirmation(search)
        except NothingToShow:
            confirmed = None
        note = ui_views.search_note(self.record, claimed, confirmed, self.store.experiment_id, self._ids, run_id)
        mlflow.set_tag(run_id, NOTE_TAG, note)
        if self.state.status != RUNNING:  # metrics cannot be taken back from a run that leaves the front
            ended = len(self.state.trials) - self.state.count(RUNNING, INTERRUPTED)
            last = max(trial.seen for trial in self.state.trials.values())  # sent again, a point is the same one
            tests = ui_views.confirmed_metrics(confirmed) if confirmed else {}
            claims_of = ui_views.claimed_metrics(claimed)  # the record may be ahead of what was sent
            for number, values in ((n, v) for n, v in claims_of.items() if n in self.state.trials):
                self.store.log_metrics(self.run(number), values | tests.get(number, {}), ended, last)

    def show_views(self) -> None:
        """The experiment's prepared views and note; what did not change is not sent."""
        present = dict(self.store.client.get_experiment(self.store.experiment_id).tags)
        earlier = present.get(NOTE_TAG, "")
        note = ui_views.experiment_note(self.state, self.store.experiment_id, self.run(SEARCH), earlier)
        wanted = ui_views.prepared(self.state) | {NOTE_TAG: note}
        self.store.tag_experiment({key: text for key, text in wanted.items() if present.get(key) != text})

    def _log_models(self) -> Iterator[Message]:
        """The front's adapters as models of MLflow's. A whole model, which is large, is logged when it is registered;
        so is an adapter of a network with random weights, which would have to come along."""
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

    def _log_model(self, finished: Finished, number: int) -> None:
        try:
            models.log_trial(self.store, finished, number, self.run(number))
        except ConfigError as error:
            log.warning("trial %d is not logged as a model: %s", number, error)

    def address(self) -> str:
        """Where a server shows the front, once everything is sent; "" where no server is at hand."""
        if self.waiting or not self.uri.startswith(SERVERS):
            return ""
        return ui_views.front_address(self.uri, self.store.experiment_id, self.state.settings["id"])


def resync(folder: Path, uri: str | None) -> int:
    """Send what MLflow has not got of the search in ``folder`` to the store it went to, or to ``uri``, and nothing
    twice; the exit status: 0 all sent, 1 some events wait.

    Address and experiment are those of ``mlflow.json``, and where it was deleted, those of the search's settings.
    Raises ConfigError where the search never began, where it is at work, or where no store is known.
    """
    record = Record(folder)
    try:
        position, settings = read_position(folder), record.settings
        if not settings:
            raise ConfigError(f"{folder / EVENT_LOG} must begin with a search's settings, but is empty")
        uri = absolute_uri(uri) if uri else position.uri if position else settings.get("tracking_uri")
        experiment = position.experiment if position else settings.get("experiment", EXPERIMENT)
        if not uri:
            raise ConfigError(f"{folder} does not say which MLflow it went to: give it with --tracking-uri")
        tracker = Tracker(uri, experiment, record)
        events = tracker.waiting
        waiting = tracker.close(None)
        render(record)  # the run ids that are new
    finally:
        record.close()
    refused = f" ({tracker.errors} messages were refused, see above)" if tracker.errors else ""
    if waiting:
        print(f"MLflow at {tracker.uri} does not answer; {waiting} events wait in {settings['name']}{refused}")
        return 1
    print(f"MLflow has all of {settings['name']}: {events} events sent{refused}")
    return 0
