"""A search from its options to its end, in this process, which should do nothing else (``search_process.py``).

It is planned while Ray starts; then the controller works, and whatever happens everything ends properly.
"""

import importlib
import json
import math
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from trainables import logits
from trainables.config import ConfigError
from trainables.data.store import Store
from trainables.files import replace_atomically
from tune_fairlora import cli, startup
from tune_fairlora.execution.ray_cluster import RayCluster, shut_down
from tune_fairlora.execution.signals import Signals, redirect_output
from tune_fairlora.execution.terminal import Bars, Progress, chance_lines, confirmation_lines, front_table
from tune_fairlora.plan import resume
from tune_fairlora.plan.plan import Plan, make_plan
from tune_fairlora.plan.search_options import CONFIG_FILE, OPTIONS, SearchOptions
from tune_fairlora.record.event_log import Record
from tune_fairlora.record.state import COMPLETE, FAILED, INTERRUPTED, STOPPED
from tune_fairlora.record.tables import render, render_front, snapshot
from tune_fairlora.tracking.outbox import CLOSE_SECONDS
from tune_fairlora.tracking.tracker import Tracker
from tune_fairlora.tracking.tracking_uri import DEFAULT, absolute_uri

if TYPE_CHECKING:
    from tune_fairlora.execution.fresh_trainings import Confirmation, FreshController
    from tune_fairlora.execution.ray_executor import RayExecutor

# Settings that may change when a search is resumed, into the record's own.
CHANGES = ["options", "trials", "reseed", "gpus_per_trial", "store", "weights_file"]
CHANGES += [name for name, option in OPTIONS.items() if option.logged and option.resumable]
SHORT_CLOSE_SECONDS = 3.0  # for MLflow where a time budget is used up
LIBRARY_LOG = "log.txt"  # what Ray, MLflow and their processes print


def search(
    given: Mapping[str, Any], resumed: str | None = None, planned: Callable[[Path], object] = lambda folder: None
) -> int:
    """Carry out a new search with the options ``given``, or go on with ``resumed``, a folder or a name in ``storage``,
    with those ``given`` anew. Returns the exit status: 0 done, 1 failed or nothing complete, 130 or 143 interrupted.

    ``planned`` is called with the search's folder once nothing stands in its way. Raises ConfigError, which names the
    field; then nothing was written, and a search that is resumed is as it was.
    """
    make = partial(resume.make_plan, resumed, given) if resumed else partial(make_plan, SearchOptions(**given))
    with cli.errors_name_fields(OPTIONS), Signals() as signals, RayCluster() as ray:

        def begin(options: SearchOptions, trials: int, models: bool) -> None:
            ray.start(options, trials, models)
            signals.install()  # Ray has put a handler of its own in place

        try:
            with Bars() as bars:
                plan = make(bars.images, begin)
            planned(plan.folder)
            return _run(plan, ray, signals)
        except KeyboardInterrupt:  # later ones are answered by `carry_out`
            kept = "went on; it is as it was" if resumed else "began; nothing was kept"
            print(f"interrupted before the search {kept}", file=sys.stderr)
            return signals.exit_status


def _run(plan: Plan, cluster: RayCluster, signals: Signals) -> int:
    """Carry out ``plan`` on a Ray that is up. Raises ConfigError if the search's folder cannot be made."""
    console = Console(highlight=False)
    if shared := cluster.share_gpus(plan):
        console.print(shared)
    settings = plan.settings() | {"gpus_per_trial": cluster.gpus}
    # Before there is a folder: a reader that has gone away ends the search here.
    console.print(f"Ray is up: {cluster.at_once} of {plan.trials} trials at a time")
    signals.hold()  # from here on there is a record to be closed, and `carry_out` closes it
    if plan.record is None:
        try:
            plan.folder.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"the search's folder {plan.folder} cannot be made ({error.strerror})") from error
    with redirect_output(plan.folder / LIBRARY_LOG) as console:
        sys.stderr.write(cluster.printed)
        return Run(plan, settings, cluster, console).carry_out(signals)


class Run:
    """One search with Ray up: its record, and the parts that follow it."""

    def __init__(self, plan: Plan, settings: dict[str, Any], cluster: RayCluster, console: Console):
        self.plan, self.cluster, self.console = plan, cluster, console
        self.record = plan.record or Record(plan.folder)
        self.tracker = Tracker(plan.tracking_uri, plan.options.experiment, self.record)  # hears of all that is added
        if plan.record is None:
            self.record.add("search", settings=settings, ray_up=cluster.up)
        else:
            recorded = self.record.settings
            changes = {name: settings[name] for name in CHANGES if settings[name] != recorded.get(name)}
            self.record.add("resume", changes=changes, code_version=settings["code_version"])
        text = json.dumps(self.record.settings, indent=1)
        replace_atomically(plan.folder / "search.json", lambda path: path.write_text(text))
        replace_atomically(plan.folder / CONFIG_FILE, plan.options.write)
        logits.keep_images(plan.folder, **Store(plan.store).facts("val"))
        self.executor: RayExecutor | None = None
        self.confirmation: Confirmation | None = None

    def carry_out(self, signals: Signals) -> int:
        """Work until the trials are used up, a signal comes or something breaks; then end it. Returns the exit
        status."""
        status, outcome, reason = 1, FAILED, ""
        try:
            # Ray Tune and Optuna take seconds to import, while MLflow is imported in its thread. A signal in the midst
            # of it could leave an import lock behind, on which that thread would wait for ever.
            importlib.import_module("tune_fairlora.execution.ray_executor")
            signals.check()
            with ExitStack() as views:
                all_ended = self._work(views, signals)
            status = 0 if self.record.count(COMPLETE) else 1
            if not all_ended:
                outcome, reason = STOPPED, "time budget"
            elif status == 0:
                outcome = COMPLETE
        except KeyboardInterrupt:
            status, outcome = signals.exit_status, INTERRUPTED
        except BaseException as error:  # SystemExit too, by which rich answers a closed pipe
            traceback.print_exc()  # into the log
            self._print(f"the search broke off: {(str(error).splitlines() or [type(error).__name__])[-1]}")
        finally:
            signals.ignore()  # the orderly end must not be cut short
            self._end(outcome, reason)
        return status

    def _work(self, views: ExitStack, signals: Signals) -> bool:
        """Run the trials, and what confirms their front; returns whether all have ended."""
        from tune_fairlora.execution.controller import SearchController
        from tune_fairlora.execution.fresh_trainings import Confirmation, seconds_to_confirm
        from tune_fairlora.execution.ray_executor import RayExecutor, TimeIsUp
        from tune_fairlora.execution.time_budget import HangDetector, TimeBudget

        options, slots = self.plan.options, self.cluster.at_once
        budget, hangs = TimeBudget(options.time_budget, startup.STARTED), HangDetector(options.trial_timeout)
        progress = views.enter_context(Progress(self.record, self.plan.trials, slots, self.console))
        controller = SearchController(self.plan, self.record, progress, budget, hangs, self.cluster.gpus)

        def following() -> "FreshController | None":
            """The trainings that confirm the front, once the trials are used up, or the time for them."""
            over = controller.complete() or (options.time_budget and not controller.open)
            if not (options.confirm and over and self.record.count(COMPLETE)):
                return None
            confirmation = self.confirmation = Confirmation(self.plan, self.record)
            views.close()  # one live view at a time
            if confirmation.left:
                self._print(confirmation.about())
            view = Progress(confirmation.record, confirmation.plan.trials, slots, self.console, test=True)
            parts = (views.enter_context(view), budget, HangDetector(options.trial_timeout), self.cluster.gpus)
            return confirmation.begin(*parts)

        if options.confirm and options.time_budget:
            controller.reserve = lambda: seconds_to_confirm(self.record, options.confirm_seeds, slots)
        self.executor = RayExecutor(controller, slots, signals.check, following)
        controller.take_up()
        self.cluster.await_workers(signals)
        try:
            self.executor.run()
        except TimeIsUp:
            return False
        complete = controller.complete() and (self.confirmation is None or self.confirmation.complete())
        if not complete and options.time_budget is None:
            raise RuntimeError("Ray ended the search before its trials were used up")
        return complete

    def _end(self, outcome: str, reason: str) -> None:
        """Close trials, Ray, record and MLflow; a step that fails is logged, and the next ones are taken anyway.

        Ray comes first where its processes are still at work, and else last: it takes a second that nobody has to wait
        for."""
        record, executor = self.record, self.executor
        steps: list[Callable[[], object]] = []
        end_ray: list[Callable[[], object]] = [shut_down, *([executor.tidy] if executor else [])]
        if outcome == INTERRUPTED:  # a step too: where the reader of the output has died, printing ends in an exception
            closing = f"interrupted; closing the record and MLflow (at most {CLOSE_SECONDS} s) …"
            steps.append(lambda: self._print(closing))
        if executor:
            steps.append(partial(executor.first.end_open_trials, reason or outcome))
        if self.confirmation:
            steps.append(partial(self.confirmation.close, outcome))
        steps += [
            *(end_ray if outcome != COMPLETE else []),
            *([executor.first.renderer.close] if executor else []),
            lambda: render(record),
            lambda: render_front(record),
            lambda: record.add("close", status=outcome, reason=reason),
            lambda: self.tracker.close(self._seconds_for_mlflow()),
            lambda: render(record),  # once more, with the run ids that MLflow's thread brings late
            lambda: self._report(outcome),
            *(end_ray if outcome == COMPLETE else []),
            record.close,
        ]
        for step in steps:
            try:
                step()
            except BaseException:
                traceback.print_exc()

    def _seconds_for_mlflow(self) -> float:
        """What it does not get in time, it gets by ``--resync``."""
        end = startup.STARTED + (self.plan.options.time_budget or math.inf)
        return min(CLOSE_SECONDS, max(SHORT_CLOSE_SECONDS, end - time.monotonic()))

    def _report(self, outcome: str) -> None:
        """Print the front, where everything lies, how to look at it, and how to go on."""
        from analysis.claims import claims  # pandas takes a moment: not at every start

        record, folder, uri = self.record, self.plan.folder, self.plan.tracking_uri
        search = snapshot(record)
        claimed = claims(search)
        self.console.print(front_table(record, "Pareto front, validation split", claimed))
        if not record.count(COMPLETE):
            self._print("no trial came to its end with a sound model: trials.parquet gives the reasons")
        if self.tracker.errors:
            self._print(f"MLflow refused {self.tracker.errors} message(s), see {LIBRARY_LOG}; the record is complete")
        for line in claimed.verdict():
            self._print(f"how sure    {line}")
        for line in (*chance_lines(record), *confirmation_lines(search)):
            self._print(line)
        ui = command("ui", *(() if uri == absolute_uri(DEFAULT) else ("--tracking-uri", uri)))
        self._print(f"hypervolume {record.hypervolume():.4f} (reference {record.reference})")
        self._print(f"record      {folder} (trials.parquet, epochs.parquet, front.html, events.jsonl)")
        self._print(f"MLflow      {self.tracker.address() or ui}")
        # A command finds a search in runs/ by its name.
        name = folder.name if folder.parent == Path("runs").resolve() else str(folder)
        if record.count(COMPLETE):
            self._print(f"next        {command('report', '--search', name)} (or confirm, export)")
            if not self.plan.options.confirm and outcome == COMPLETE:
                self._print("            what stands on fresh data, with fresh trainings on the test split:")
                self._print(f"            {command('search', '--resume', name, '--confirm')}")
        if self.tracker.waiting:
            problem = "does not answer" if self.tracker.silent else "has not got everything in time"
            self._print(f"            {problem}: {self.tracker.waiting} events wait in {folder}; later:")
            self._print(f"            {command('search', '--resync', name)}")
        if outcome != COMPLETE:
            self._print(f"go on with  {command('search', '--resume', name)}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def command(name: str, *arguments: str) -> str:
    """What to type in a shell for a command of this package, from the current folder."""
    return shlex.join([sys.executable, "-m", f"tune_fairlora.{name}", *arguments])
