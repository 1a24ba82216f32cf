"""Runs a plan: starts Ray, lets the conductor work, and ends everything properly whatever happens."""

import contextlib
import importlib
import json
import os
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from trainables.config import ConfigError
from trainables.store import replace_atomically
from tune_fairlora import cluster
from tune_fairlora.plan import Plan
from tune_fairlora.progress import Progress, front_table
from tune_fairlora.record import COMPLETE, FAILED, INTERRUPTED, Record
from tune_fairlora.render import render, render_front
from tune_fairlora.tracking import CLOSE_SECONDS, Tracker

LOG = "log.txt"  # what Ray, MLflow and their processes print


def run(plan: Plan) -> int:
    """Carry out ``plan``; the exit status: 0 done, 1 failed or nothing complete, 130 or 143 interrupted.

    Raises ConfigError, and leaves no folder, where Ray does not answer or cannot hold a trial.
    """
    settings = plan.settings()
    made = _make_folder(plan.folder)
    with Signals() as signals, chatter_to(plan.folder / LOG) as console:
        try:
            gpus, slots = cluster.start(plan, console)
            signals.hold()  # from here on there is a record to be closed, and `carry_out` closes it
        except BaseException as error:
            shutil.rmtree(made)
            if not isinstance(error, KeyboardInterrupt):
                raise
            console.print("interrupted while Ray was starting; nothing was kept")
            return signals.exit_status
        return Run(plan, settings, console).carry_out(gpus, slots, signals)


class Run:
    """One search with Ray up: its record, and the parts that follow it."""

    def __init__(self, plan: Plan, settings: dict, console: Console):
        self.plan, self.console = plan, console
        self.record = Record(plan.folder, plan.space.objectives, len(plan.manifest.classes))
        self.record.add("search", settings=settings)
        text = json.dumps(settings, indent=1)
        replace_atomically(plan.folder / "search.json", lambda path: path.write_text(text))
        self.tracker = Tracker(plan.tracking_uri, plan.experiment, self.record)
        self.tracker.start_search()
        self.conductor = None

    def carry_out(self, gpus: float, slots: int, signals: "Signals") -> int:
        """Work until the trials are used up, a signal comes or something breaks; then end it. The exit status."""
        status = 1
        try:
            # Ray Tune and Optuna take seconds to import, while MLflow is imported in its thread. A signal in the midst
            # of it could leave an import lock behind, on which that thread would wait for ever.
            importlib.import_module("tune_fairlora.conductor")
            signals.release()
            with Progress(self.record, self.plan.trials, slots, self.console) as progress:
                self._work(gpus, slots, progress)
            status = 0 if self.record.count(COMPLETE) else 1
        except KeyboardInterrupt:
            status = signals.exit_status
        except BaseException as error:  # SystemExit too, by which rich answers a closed pipe
            traceback.print_exc()  # into the log
            _say(self.console, f"the search broke off: {(str(error).splitlines() or [type(error).__name__])[-1]}")
        finally:
            signals.ignore()  # the orderly end must not be cut short
            self._end(status)
        return status

    def _work(self, gpus: float, slots: int, progress: Progress) -> None:
        from tune_fairlora.conductor import Conductor

        self.conductor = Conductor(self.plan, self.record, self.tracker, progress, gpus)
        self.conductor.tuner(slots).fit()

    def _end(self, status: int) -> None:
        """Close trials, Ray, record and MLflow. A step that fails is logged, and the next ones are taken anyway."""
        import ray

        record, outcome = self.record, {0: COMPLETE, 1: FAILED}.get(status, INTERRUPTED)
        if status > 1:
            _say(self.console, f"interrupted; closing the record and MLflow (at most {CLOSE_SECONDS} s) …")
        steps: list[Callable[[], None]] = [
            lambda: self.conductor and self.conductor.end_open_trials(outcome),
            ray.shutdown,
            lambda: self.conductor and self.conductor.tidy(),
            lambda: record.add("close", status=outcome),
            lambda: render(record),
            lambda: render_front(record),
            lambda: self.tracker.close(outcome),
            lambda: render(record),  # once more, with the run ids that MLflow's thread brings late
            self._report,
            record.close,
        ]
        for step in steps:
            try:
                step()
            except BaseException:
                traceback.print_exc()

    def _report(self) -> None:
        """The front, where everything lies, and how to look at it."""
        record, folder = self.record, self.plan.folder
        self.console.print(front_table(record, "Pareto front, validation split"))
        if not record.count(COMPLETE):
            _say(self.console, "no trial came to its end with a sound model: trials.parquet gives the reasons")
        if self.tracker.errors:
            _say(self.console, f"MLflow missed {self.tracker.errors} message(s), see {LOG}; the record is complete")
        _say(self.console, f"hypervolume {record.hypervolume():.4f} (reference {record.reference})")
        _say(self.console, f"record      {folder} (trials.parquet, epochs.parquet, front.png, events.jsonl)")
        _say(self.console, f"MLflow      {ui_command(self.plan.tracking_uri)}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def ui_command(uri: str) -> str:
    """What opens MLflow's pages on ``uri``: the address of a server, else the command that starts one, for a shell."""
    if uri.startswith(("http://", "https://")):
        return uri
    return shlex.join([sys.executable, "-m", "mlflow", "server", "--workers", "1", "--backend-store-uri", uri])


def _make_folder(folder: Path) -> Path:
    """Make ``folder`` and what is missing above it; returns the topmost folder that was not there before."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"the search's folder {folder} cannot be made ({error.strerror})") from error
    return missing[-1]


class Signals:
    """While it is entered, SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, and the first is remembered.

    The exception itself cannot carry the signal: Ray's compiled code replaces it by a new one.
    """

    def __init__(self):
        self.exit_status = 128 + signal.SIGINT  # as shells have it
        self._held = self._pending = False

    def __enter__(self) -> "Signals":
        self._before = self._install()
        return self

    def _install(self) -> dict:
        return {each: signal.signal(each, self._interrupt) for each in (signal.SIGINT, signal.SIGTERM)}

    def _interrupt(self, number: int, frame) -> None:
        self.exit_status = 128 + number
        if self._held:
            self._pending = True
            return
        self.ignore()
        raise KeyboardInterrupt

    def hold(self) -> None:
        """Let signals wait until ``release``. Called once Ray is up, which has put a handler of its own in place."""
        self._held = True
        self._install()

    def release(self) -> None:
        """Raise KeyboardInterrupt if a signal has come since ``hold``, and from here on when one comes."""
        self._held = False
        if self._pending:
            self.ignore()
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """From here on a signal does nothing."""
        for each in self._before:
            signal.signal(each, signal.SIG_IGN)

    def __exit__(self, *error) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def chatter_to(path: Path) -> Iterator[Console]:
    """What libraries and their processes print goes to ``path``; the console given writes where stdout was."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        out = os.fdopen(os.dup(kept[0]), "w", encoding="utf-8", errors="replace")
        yield Console(file=out, highlight=False)
    finally:
        with contextlib.suppress(OSError):  # a reader that has gone away
            out.close()
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, old in zip((1, 2), kept):
            os.dup2(old, fd)
            os.close(old)
        os.close(log)
