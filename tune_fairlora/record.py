"""The record of a search: an append-only log of events, and the state that is folded from it.

The log (``events.jsonl``, one JSON object a line) is the truth; ``trials.parquet`` and ``epochs.parquet`` are rendered
from it (``render.py``), the Optuna journal and MLflow follow it. JSON is written with Python's NaN and Infinity.
"""

import json
import math
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from analysis.pareto import as_minimization, front, hypervolume
from trainables.metrics import OBJECTIVES

FORMAT = 1  # of the events below
COMPLETE, COLLAPSED, STOPPED = "complete", "collapsed", "stopped"
FAILED, DIVERGED, INTERRUPTED, RUNNING = "failed", "diverged", "interrupted", "running"


@dataclass
class Trial:
    """One trial as the log tells it. ``metrics`` are those of its last epoch, never the best of its epochs."""

    number: int
    values: dict
    config_id: str
    seed: int
    status: str = RUNNING
    reason: str = ""
    epochs: list[dict] = field(default_factory=list)
    tables: dict = field(default_factory=dict)
    run_id: str = ""
    device: str = ""
    started: float = 0.0
    ended: float = math.nan

    @property
    def metrics(self) -> dict[str, float]:
        return self.epochs[-1]["metrics"] if self.epochs else {}

    @property
    def label(self) -> str:
        """A name to read: "007 fairlora r16 λ1"."""
        rank = f" r{self.values['rank']}" if "rank" in self.values else ""
        lam = f" λ{self.values['lam']:.2g}" if "lam" in self.values else ""
        return f"{self.number:03d} {self.values['method']}{rank}{lam}"


class Record:
    """Appends events to the log of ``folder`` and keeps the state that they add up to; safe to use from threads."""

    def __init__(self, folder: Path, objectives: tuple[str, ...], n_classes: int):
        self.folder, self.objectives = folder, objectives
        self.directions = [OBJECTIVES[name] for name in objectives]
        self.reference = reference_point(objectives, n_classes)
        self.trials: dict[int, Trial] = {}
        self.settings: dict = {}
        self.status = RUNNING
        self.lock = threading.RLock()
        self._closed = False
        self._log = os.open(folder / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def add(self, event: str, **content) -> None:
        """Write one event and fold it into the state. One ``write`` a line: lines of two threads never mix."""
        with self.lock:
            entry = {"event": event, "time": time.time(), **content}
            if self._closed:  # MLflow's thread may come late; the file descriptor may be another file's by then
                return
            os.write(self._log, (json.dumps(entry, default=_plain) + "\n").encode())
            apply(self, entry)
            if event != "epoch":  # epochs come often, and one that is lost is trained again
                os.fsync(self._log)

    def outcome(self, number: int, error: str | None) -> tuple[str, str]:
        """Status and reason of a trial that has ended: complete only at full fidelity with finite objectives.

        A model that guesses fails every class alike: its ΔF1 is small and it would look fair. So a trial whose mean
        recall is not clearly above a guess's (``collapse_floor``) is "collapsed", and off the front.
        """
        trial = self.trials[number]
        done, budget = len(trial.epochs), trial.values["epochs"]
        if error is not None:
            return (DIVERGED if error.startswith("Diverged") else FAILED), error
        if done < budget:
            return STOPPED, f"stopped after epoch {done} of {budget}"
        bad = [f"{name} is {trial.metrics.get(name)}" for name in self.objectives if not _finite(trial, name)]
        if bad:
            return FAILED, ", ".join(bad)
        recall, floor = trial.metrics["val_mean_recall"], self.settings["collapse_floor"]
        if recall <= floor:
            return COLLAPSED, f"val_mean_recall {recall:.4f} is not clearly above a guess ({floor:.4f})"
        return COMPLETE, ""

    def points(self) -> tuple[list[list[int]], np.ndarray]:
        """The points that may stand on the front: the trial numbers of each configuration, and its objectives
        ``[n, m]`` in the user's directions, the mean over its seeds. One seed that is not complete leaves it out."""
        with self.lock:
            points = [numbers for numbers in self._by_point().values() if self._all(numbers, COMPLETE)]
            values = [
                [np.mean([self.trials[n].metrics[name] for n in numbers]) for name in self.objectives]
                for numbers in points
            ]
            return points, np.array(values, float).reshape(len(points), len(self.objectives))

    def _by_point(self) -> dict[int, list[int]]:
        """Trial numbers by point: the seeds of a configuration have consecutive numbers (``searcher.py``)."""
        points: dict[int, list[int]] = {}
        for number in sorted(self.trials):
            points.setdefault(number // self.seeds, []).append(number)
        return points

    def _all(self, numbers: list[int], *statuses: str) -> bool:
        return len(numbers) == self.seeds and all(self.trials[n].status in statuses for n in numbers)

    def undecided(self) -> list[int]:
        """Complete trials whose configuration may still come on the front: other seeds of it are to end, or would have
        but for an interrupt."""
        with self.lock:
            return [
                number
                for numbers in self._by_point().values()
                if not self._all(numbers, COMPLETE)
                and all(self.trials[n].status in (COMPLETE, RUNNING, INTERRUPTED) for n in numbers)
                for number in numbers
                if self.trials[number].status == COMPLETE
            ]

    @property
    def seeds(self) -> int:
        return self.settings.get("seeds", 1)

    def front_points(self) -> list[list[int]]:
        """The trial numbers of each configuration on the front, by the first objective, best first."""
        points, values = self.points()
        costs = as_minimization(values, self.directions)
        members = front(costs)
        return [points[i] for i in np.lexsort(costs.T[::-1]) if members[i]]

    def front(self) -> list[int]:
        """The numbers of the trials on the front: no complete configuration dominates theirs."""
        return [number for numbers in self.front_points() for number in numbers]

    def hypervolume(self) -> float:
        """The share of objective space that the front dominates, from ``self.reference``; larger is better."""
        _, values = self.points()
        costs = as_minimization(values, self.directions)
        return hypervolume(costs, as_minimization(np.array([self.reference]), self.directions)[0])

    def count(self, *statuses: str) -> int:
        with self.lock:
            return sum(trial.status in statuses for trial in self.trials.values())

    def close(self) -> None:
        """Events that come later are dropped."""
        with self.lock:
            self._closed = True
            os.close(self._log)


def apply(record: Record, entry: dict) -> None:
    """Fold one event into the state: the only place that gives events a meaning."""
    kind, number = entry["event"], entry.get("number")
    if kind == "search":
        record.settings = entry["settings"]
    elif kind == "start":
        keys = ("number", "values", "config_id", "seed")
        record.trials[number] = Trial(**{k: entry[k] for k in keys}, started=entry["time"])
    elif kind == "epoch":
        record.trials[number].epochs.append({k: entry[k] for k in ("epoch", "metrics", "seconds")})
        record.trials[number].device = entry.get("device", "")
    elif kind == "end":
        trial = record.trials[number]
        trial.status, trial.reason, trial.tables = entry["status"], entry["reason"], entry["tables"]
        trial.ended = entry["time"]
    elif kind == "tracked":
        record.trials[number].run_id = entry["run_id"]
    elif kind == "close":
        record.status = entry["status"]


def read_events(folder: Path) -> list[dict]:
    """The events of a search's log; a last line that was torn by a crash is left out."""
    lines = (folder / "events.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def reference_point(objectives: tuple[str, ...], n_classes: int) -> list[float]:
    """The hypervolume's reference, in the user's directions: the worst rate, or the loss of a uniform guess (nats)."""
    chance = math.log(n_classes)
    losses = {"val_loss": chance, "val_loss_variance": chance**2}
    return [losses.get(name, 0.0 if OBJECTIVES[name] == "maximize" else 1.0) for name in objectives]


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


def _finite(trial: Trial, name: str) -> bool:
    return math.isfinite(trial.metrics.get(name, math.nan))


def _plain(value):
    """numpy's numbers and arrays as JSON's."""
    return value.tolist()
