"""Runs a plan: lets the controller work, and ends everything properly whatever happens."""

import gc
import importlib
import json
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from trainables.config import ConfigError
from trainables.files import replace_atomically
from tune_fairlora import startup
from tune_fairlora.execution.ray_cluster import Cluster
from tune_fairlora.execution.signals import Signals, redirect_output
from tune_fairlora.execution.terminal import Progress, front_table
from tune_fairlora.plan.options import CONFIG_FILE, OPTIONS
from tune_fairlora.plan.plan import Plan
from tune_fairlora.record.event_log import Record
from tune_fairlora.record.state import COMPLETE, FAILED, INTERRUPTED, STOPPED
from tune_fairlora.record.tables import render, render_front
from tune_fairlora.tracking.outbox import CLOSE_SECONDS
from tune_fairlora.tracking.tracker import Tracker
from tune_fairlora.tracking.tracking_uri import DEFAULT, absolute_uri

# Settings that may change when a search is resumed, into the record's own.
CHANGES = ("options", "trials", "gpus_per_trial", "store", "weights_file")
CHANGES += tuple(name for name, option in OPTIONS.items() if option.logged and option.resumable)
SHORT_CLOSE_SECONDS = 3.0  # for MLflow where a time budget is used up
LOG = "log.txt"  # what Ray, MLflow and their processes print


def run(plan: Plan, cluster: Cluster, signals: Signals) -> int:
    """Carry out ``plan`` on a Ray that is up; the exit status: 0 done, 1 failed or nothing complete, 130 or 143
    interrupted."""
    console = Console(highlight=False)
    if shared := cluster.share_gpus(plan):
        console.print(shared)
    settings = plan.settings() | {"gpus_per_trial": cluster.gpus}
    # Before there is a folder: a reader that has gone away ends the search here.
    console.print(f"Ray is up: {cluster.at_once} of {plan.trials} trials at a time")
    signals.hold()  # from here on there is a record to be closed, and `carry_out` closes it
    if plan.record is None:
        _make_folder(plan.folder)
    with redirect_output(plan.folder / LOG) as console:
        sys.stderr.write(cluster.printed)
        return Run(plan, settings, cluster, console).carry_out(signals)


class Run:
    """One search with Ray up: its record, and the parts that follow it."""

    def __init__(self, plan: Plan, settings: dict, cluster: Cluster, console: Console):
        self.plan, self.cluster, self.console = plan, cluster, console
        self.record = plan.record or Record(plan.folder)
        # Which wants to hear of all that comes.
        self.tracker = Tracker(plan.tracking_uri, plan.options.experiment, self.record)
        if plan.record is None:
            self.record.add("search", settings=settings, ray_up=cluster.up)
        else:
            kept = self.record.settings
            changes = {name: settings[name] for name in CHANGES if settings[name] != kept.get(name)}
            self.record.add("resume", changes=changes, code_version=settings["code_version"])
        text = json.dumps(self.record.settings, indent=1)
        replace_atomically(plan.folder / "search.json", lambda path: path.write_text(text))
        replace_atomically(plan.folder / CONFIG_FILE, plan.options.write)
        self.executor = None

    def carry_out(self, signals: Signals) -> int:
        """Work until the trials are used up, a signal comes or something breaks; then end it. The exit status."""
        status, outcome, why = 1, FAILED, ""
        try:
            # Ray Tune and Optuna take seconds to import, while MLflow is imported in its thread. A signal in the midst
            # of it could leave an import lock behind, on which that thread would wait for ever.
            importlib.import_module("tune_fairlora.execution.ray_executor")
            signals.check()
            with Progress(self.record, self.plan.trials, self.cluster.at_once, self.console) as progress:
                over = self._work(progress, signals.check)
            status = 0 if self.record.count(COMPLETE) else 1
            outcome, why = (COMPLETE, "") if over and not status else (FAILED, "") if over else (STOPPED, "time budget")
        except KeyboardInterrupt:
            status, outcome = signals.exit_status, INTERRUPTED
        except BaseException as error:  # SystemExit too, by which rich answers a closed pipe
            traceback.print_exc()  # into the log
            _say(self.console, f"the search broke off: {(str(error).splitlines() or [type(error).__name__])[-1]}")
        finally:
            signals.ignore()  # the orderly end must not be cut short
            self._end(outcome, why)
        return status

    def _work(self, progress: Progress, check: Callable[[], None]) -> bool:
        """Whether all trials are at their end."""
        from tune_fairlora.execution.controller import SearchController
        from tune_fairlora.execution.ray_executor import Executor, TimeIsUp
        from tune_fairlora.execution.time_budget import Clock

        clock = Clock(self.plan.options.time_budget, self.plan.options.trial_timeout, startup.STARTED)
        controller = SearchController(self.plan, self.record, progress, clock, self.cluster.gpus)
        self.executor = Executor(controller, self.cluster.at_once, check)
        controller.take_up()
        self.cluster.await_processes(check)
        try:
            self.executor.run()
        except TimeIsUp:
            return False
        if not controller.complete() and self.plan.options.time_budget is None:
            raise RuntimeError("Ray ended the search before its trials were used up")
        return controller.complete()

    def _end(self, outcome: str, why: str) -> None:
        """Close trials, Ray, record and MLflow. Ray comes first where its processes are still at work, and else last:
        it takes a second that nobody has to wait for."""
        record, executor, over = self.record, self.executor, outcome == COMPLETE
        if outcome == INTERRUPTED:
            _say(self.console, f"interrupted; closing the record and MLflow (at most {CLOSE_SECONDS} s) …")
        ray: list[Callable[[], object]] = [shut_down, lambda: executor and executor.tidy()]
        steps: list[Callable[[], object]] = [
            lambda: executor and executor.controller.end_open_trials(why or outcome),
            *([] if over else ray),
            lambda: executor and executor.controller.renderer.close(),
            lambda: render(record),
            lambda: render_front(record),
            lambda: record.add("close", status=outcome, reason=why),
            lambda: self.tracker.close(self._seconds_for_mlflow()),
            lambda: render(record),  # once more, with the run ids that MLflow's thread brings late
            lambda: self._report(outcome),
            *(ray if over else []),
            record.close,
        ]
        take(steps)

    def _seconds_for_mlflow(self) -> float:
        """What it does not get in time, it gets by ``--resync``."""
        if self.plan.options.time_budget is None:
            return CLOSE_SECONDS
        left = startup.STARTED + self.plan.options.time_budget - time.monotonic()
        return min(CLOSE_SECONDS, max(SHORT_CLOSE_SECONDS, left))

    def _report(self, outcome: str) -> None:
        """The front, where everything lies, how to look at it, and how to go on."""
        record, folder = self.record, self.plan.folder
        self.console.print(front_table(record, "Pareto front, validation split"))
        if not record.count(COMPLETE):
            _say(self.console, "no trial came to its end with a sound model: trials.parquet gives the reasons")
        if self.tracker.errors:
            _say(self.console, f"MLflow refused {self.tracker.errors} message(s), see {LOG}; the record is complete")
        _say(self.console, f"hypervolume {record.hypervolume():.4f} (reference {record.reference})")
        _say(self.console, f"record      {folder} (trials.parquet, epochs.parquet, front.html, events.jsonl)")
        _say(self.console, f"MLflow      {self.tracker.address() or ui_command(self.plan.tracking_uri)}")
        if record.count(COMPLETE):
            _say(self.console, f"next        {search_command('--search', folder, 'report')} (or confirm, export)")
        if self.tracker.waiting:
            why = "does not answer" if self.tracker.silent else "has not got everything in time"
            _say(self.console, f"            {why}: {self.tracker.waiting} events wait in {folder}; later:")
            _say(self.console, f"            {search_command('--resync', folder)}")
        if outcome != COMPLETE:
            _say(self.console, f"go on with  {search_command('--resume', folder)}")


def shut_down() -> None:
    """End Ray. It would end this process as well if another thread freed an object of Ray's meanwhile ("the core worker
    has already been shutdown"): so garbage is collected before, and not again until Ray is gone."""
    import ray

    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def take(steps: list[Callable[[], object]]) -> None:
    """Take each step; one that fails is logged, and the next ones are taken anyway."""
    for step in steps:
        try:
            step()
        except BaseException:
            traceback.print_exc()


def search_command(option: str, folder: Path, command: str = "search") -> str:
    """What to type to go on with the search in ``folder``, from the current folder."""
    name = [folder.name] if folder.parent == Path("runs").resolve() else [str(folder)]
    return shlex.join([sys.executable, "-m", f"tune_fairlora.{command}", option, *name])


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def ui_command(uri: str) -> str:
    """What opens MLflow's pages on the store ``uri``, for a shell."""
    where = [] if uri == absolute_uri(DEFAULT) else ["--tracking-uri", uri]
    return shlex.join([sys.executable, "-m", "tune_fairlora.ui", *where])


def _make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it."""
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"the search's folder {folder} cannot be made ({error.strerror})") from error
