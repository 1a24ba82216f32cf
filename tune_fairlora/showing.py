"""What MLflow is given to show: a trial's tables and picture, the front's pages, note and views, the front's models."""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from trainables.config import METHODS, ConfigError
from tune_fairlora.record import artifacts
from tune_fairlora.record.event_log import LOG, Record
from tune_fairlora.record.state import State
from tune_fairlora.record.tables import TABLES, Renderer, render, snapshot
from tune_fairlora.tracking import client, ui_views
from tune_fairlora.tracking.client import RECORD, SEARCH, MlflowStore

if TYPE_CHECKING:
    from tune_fairlora.record.search_folder import Finished

REFRESH_SECONDS = 30.0  # between two renewals of page and note while the search is at work, at least

log = logging.getLogger(__name__)

Message = Callable[[], object]


class Showing:
    """The part of the tracker that shows; ``tracker.py`` gives it store, record, state and the runs by number."""

    _store: MlflowStore
    record: Record
    state: State
    _runs: dict[int, str]
    _run: Callable[[int], str]

    def _begin_showing(self) -> None:
        self._stale = False  # whether page and note are behind the front
        self._refreshed, self._refresh_pause = time.monotonic(), REFRESH_SECONDS

    def _refresh(self) -> Iterator[Message]:
        if self._stale and time.monotonic() - self._refreshed > self._refresh_pause:
            yield from self._show_front()

    def _show_front(self, over: bool = False) -> Iterator[Message]:
        """The front on the search's run: table that pages, pictures, interactive page, note; and the views. At most
        ``Renderer.SHARE`` of the time goes into it, as into the tables, which are rendered elsewhere until the end."""
        began = time.monotonic()
        if over:
            yield lambda: render(self.record)  # by now the ids of the runs are known
        yield self._send_front
        yield self._show_views
        self._stale, self._refreshed = False, time.monotonic()
        self._refresh_pause = max(REFRESH_SECONDS, (self._refreshed - began) / Renderer.SHARE)

    def _send_front(self) -> None:
        search, run_id = snapshot(self.record), self._run(SEARCH)
        for name, text in artifacts.pages(search).items():
            self._store.log_text(run_id, text, name)
        figure = artifacts.picture(search)
        for name in ("front.png", "front.svg"):
            self._store.log_figure(run_id, figure, name)
        table = artifacts.front_table(search)
        if table["data"]:
            self._store.log_tables(run_id, {"front.json": table})
        for name in TABLES:
            if (self.record.folder / name).exists():  # at the start they may not be rendered yet
                self._store.log_file(run_id, self.record.folder / name, RECORD)
        note = ui_views.search_note(self.state, self._store.experiment_id, self._runs, run_id, picture=True)
        self._store.note(run_id, note)

    def _show_views(self) -> None:
        """The experiment's prepared views and note; what did not change is not sent."""
        known = self._store.experiment_tags()
        earlier = known.get(client.NOTE, "")
        note = ui_views.experiment_note(self.state, self._store.experiment_id, self._run(SEARCH), earlier)
        wanted = ui_views.prepared(self.state) | {client.NOTE: note}
        self._store.tag_experiment({key: text for key, text in wanted.items() if known.get(key) != text})

    def _show_trial(self, number: int) -> None:
        """Tables by class and group, and the confusion matrix, of the trial's last epoch."""
        trial, run_id = self.state.trials[number], self._run(number)
        self._store.log_tables(run_id, artifacts.trial_tables(trial, self.state.settings))
        if "confusion" in trial.tables:
            self._store.log_text(run_id, artifacts.confusion(trial, self.state.settings), "confusion.html")

    def _log_data(self) -> None:
        settings = self.state.settings
        profile = {name: len(settings.get(name, ())) for name in ("classes", "groups")}
        path = settings.get("store", "")
        self._store.log_data(self._run(SEARCH), settings["data"], settings["data_fingerprint"], path, profile)

    def _log_log(self) -> None:
        """What a report that is made elsewhere reads."""
        self._store.log_file(self._run(SEARCH), self.record.folder / LOG, RECORD)

    def _log_models(self) -> Iterator[Message]:
        """The front's adapters as models of MLflow's. A whole model, which is large, is logged when it is registered;
        so is an adapter of a network with random weights, which would have to come along."""
        from tune_fairlora.record import search_folder  # pandas, and torch for the models, take seconds

        methods = {number: METHODS[self.state.trials[number].values["method"]] for number in self.state.front()}
        kept = [n for n in methods if methods[n].lora and search_folder.weights_of(self.record.folder, n).is_file()]
        if not kept or self.state.settings["weights"] == "random":
            return
        try:
            done = search_folder.read(self.record.folder, "its models are logged")
            search_folder.require_weights(done.settings)
        except ConfigError as error:
            log.warning("the front's adapters are not logged as models: %s", error)
            return
        for number in kept:
            yield partial(self._log_model, done, number)

    def _log_model(self, done: "Finished", number: int) -> None:
        from tune_fairlora.tracking import models

        try:
            models.log_trial(self._store, done, number, self._run(number))
        except ConfigError as error:
            log.warning("trial %d is not logged as a model: %s", number, error)

    def _mark_models(self) -> None:
        from tune_fairlora.tracking import models

        models.mark(self._store, self.state.settings["id"], self.state.front())
