"""The record of a search: an append-only log of events, and the state that is folded from it.

The log (``events.jsonl``, one JSON object a line) is the truth; ``trials.parquet`` and ``epochs.parquet`` are rendered
from it (``tables.py``), the Optuna study and MLflow follow it. JSON is written with Python's NaN and Infinity.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from analysis.record_format import upgraded
from trainables.config import ConfigError
from tune_fairlora.record.state import COLLAPSED, COMPLETE, FAILED, STOPPED, Event, State

EVENT_LOG = "events.jsonl"


class Record(State):
    """The state of a search whose events go to the log of ``folder``; safe to use from threads.

    Opening it folds in the events that are there, cuts off a last line that a crash tore, and holds a lock: raises
    ConfigError where another process works on the same search, or where the log is damaged. ``listener``, if set, is
    called with each event in order, in the thread that added it: after it was written, or could not be.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.listener: Callable[[Event], None] | None = None
        self._closed = False
        self._pending = b""  # lines that a full disk did not take
        self._log = os.open(folder / EVENT_LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock_file()
            os.ftruncate(self._log, whole_lines(folder / EVENT_LOG))
            self.events = read_events(folder)
            for entry in self.events:
                self.apply(entry)
        except BaseException:
            os.close(self._log)
            raise

    def _lock_file(self) -> None:
        """The lock ends with the process, however it dies. On file systems without locks there is none."""
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"the search in {self.folder} is at work in another process: wait for its end") from error
        except OSError:
            pass

    def add(self, event: str, **content: Any) -> None:
        """Write one event and fold it into the state. One ``write`` a line: lines of two threads never mix.

        Raises OSError where the disk does not take it: nothing may follow from an event that the log lacks. The line
        is kept, and is written before the next one.
        """
        with self.lock:
            if self._closed:  # MLflow's thread may come late; the file descriptor may be another file's by then
                return
            entry = {"event": event, "time": time.time(), **content}
            line = (json.dumps(entry, default=lambda value: value.tolist()) + "\n").encode()  # numpy's values
            self.apply(entry)  # first: an event that cannot be folded in must not stand in the log for good
            try:
                self._write(line)
            finally:  # a line that did not fit comes into the log later, or is lost with all that follows
                if self.listener is not None:
                    self.listener(entry)
            if event != "epoch":  # epochs come often, and one that is lost is trained again
                os.fsync(self._log)

    def _write(self, line: bytes) -> None:
        """Append the pending lines and ``line``, whole or not at all."""
        self._pending += line
        end = os.fstat(self._log).st_size
        written = os.write(self._log, self._pending)
        if written < len(self._pending):
            os.ftruncate(self._log, end)
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for the log", str(self.folder / EVENT_LOG))
        self._pending = b""

    def outcome(self, number: int) -> tuple[str, str]:
        """Status and reason of a trial that ended without an error: complete only at full fidelity with finite
        objectives.

        A model that guesses fails every class alike: its ΔF1 is small and it would look fair. So a trial whose mean
        recall is not clearly above a guess's (``collapse_floor``) is "collapsed", and off the front; others may follow
        when more is known (``State``).
        """
        trial = self.trials[number]
        trained, budget = len(trial.epochs), trial.values["epochs"]
        if trained < budget:
            return STOPPED, trial.decisions.get(trained, f"stopped after epoch {trained} of {budget}")
        values = {name: trial.metrics.get(name) for name in self.objectives}
        bad = [f"{name} is {value}" for name, value in values.items() if value is None or not math.isfinite(value)]
        if bad:
            return FAILED, ", ".join(bad)
        recall, floor = trial.metrics["val_mean_recall"], self.settings["collapse_floor"]
        if recall <= floor:
            return COLLAPSED, f"val_mean_recall {recall:.4f} is not clearly above a guess ({floor:.4f})"
        return COMPLETE, ""

    def close(self) -> None:
        """Events that come later are dropped."""
        with self.lock:
            if not self._closed:
                self._closed = True
                with contextlib.suppress(OSError):  # the disk may have room again
                    self._write(b"")
                os.close(self._log)


def read_events(folder: Path) -> list[Event]:
    """The events of a search's log, with settings of the previous format upgraded to this one. A last line that a crash
    tore is left out.

    Raises ConfigError where any other line is damaged, or the first one is not that of a search.
    """
    path = folder / EVENT_LOG
    events = []
    for i, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            entry = json.loads(line)
            entry["event"], entry["time"]
            if i == 1 and "settings" in entry:
                entry["settings"] = upgraded(entry["settings"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} must hold an event a line, but line {i} is damaged") from error
        events.append(entry)
    if events and (events[0]["event"] != "search" or "settings" not in events[0]):
        raise ConfigError(f"{path} must begin with a search's settings, but does not")
    return events


def whole_lines(path: Path) -> int:
    """Length in bytes up to the last line that is whole."""
    return path.read_bytes().rfind(b"\n") + 1


def collapse_floor(label: np.ndarray, n_classes: int) -> float:
    """The mean recall over the classes of ``label`` (int ``[n]``) that shows more than a guess: 1/K and two standard
    errors of a uniform guess's. On tiny splits half-way between 1/K and 1, as two errors would ask too much.

    Recall and not accuracy: where one class has 95 % of the images, a model that serves both classes at 0.8 is less
    accurate than one that always names the first, and it is what this search looks for.
    """
    counts = np.bincount(label, minlength=n_classes)
    guess = 1 / n_classes
    error = math.sqrt(guess * (1 - guess) * (1 / counts[counts > 0]).sum()) / (counts > 0).sum()
    return float(min(guess + 2 * error, (1 + guess) / 2))
