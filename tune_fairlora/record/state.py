"""What the events of a search add up to: its trials, the front, the counts. Folded event by event, without files."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis import bounds
from analysis.pareto import as_minimization, front, hypervolume, reference_point
from trainables.metrics import OBJECTIVES

COMPLETE, COLLAPSED, STOPPED = "complete", "collapsed", "stopped"
FAILED, DIVERGED, INTERRUPTED, RUNNING = "failed", "diverged", "interrupted", "running"

Event = dict[str, Any]  # a line of the log, parsed JSON; ``event`` names its kind, ``time`` is in seconds
Settings = dict[str, Any]  # what the first event says of the search, parsed JSON


@dataclass
class Trial:
    """One trial as the log tells it. ``metrics`` are those of its last epoch, never the best of its epochs."""

    number: int
    values: dict[str, Any]
    config_id: str
    seed: int
    status: str = RUNNING
    reason: str = ""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    decisions: dict[int, str] = field(default_factory=dict)  # epoch -> the scheduler's, in words
    stopped: bool = False  # by the scheduler
    faults: int = 0  # how often its process failed
    tables: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    device: str = ""
    started: float = 0.0
    launched: float = 0.0  # the last time it was (a retry or a resumed search launches it again)
    seen: float = 0.0  # when it was last heard of; of one that ended, when it ended
    seconds: float = 0.0  # of all its launches, so without the time in between

    @property
    def metrics(self) -> dict[str, float]:
        return self.epochs[-1]["metrics"] if self.epochs else {}

    def launch(self, time: float) -> None:
        """Begin a launch. One that nobody closed counts until it was last heard of."""
        if self.status == RUNNING:
            self.seconds += self.seen - self.launched
        self.launched = self.seen = time

    @property
    def label(self) -> str:
        """A name to read: "007 fairlora r16 λ1"."""
        rank = f" r{self.values['rank']}" if "rank" in self.values else ""
        lam = f" λ{self.values['lam']:.2g}" if "lam" in self.values else ""
        return f"{self.number:03d} {self.values['method']}{rank}{lam}"


def sound_recall(recalls: np.ndarray, guess: float, least: float) -> float:
    """The mean recall that a model must exceed to serve anybody, where trained models have ``recalls`` ``[n]``, n >= 1.

    A destroyed model fails every class alike, so that it looks fair, and its recall is seldom exactly a ``guess``'s.
    So it is at least ``least``, halfway from a guess to the median, and a quarter of the way to the best: the median
    alone would let destroyed models pass where they are many.
    """
    return max(least, guess + max((float(np.median(recalls)) - guess) / 2, (float(recalls.max()) - guess) / 4))


class State:
    """Trials by number and the front, up to date after every ``apply``. ``settings`` come with the first event.

    A trial that was trained to its end is complete or collapsed by all that is known now: each one that ends may show
    that an earlier one serves nobody (``sound_recall``), and then that leaves the front.
    """

    def __init__(self) -> None:
        self.settings: Settings = {}
        self.objectives: tuple[str, ...] = ()
        self.directions: list[str] = []
        self.reference: list[float] = []
        self.constraints: tuple[bounds.Bound, ...] = ()
        self.began = 0.0  # when the first event came
        self.trials: dict[int, Trial] = {}
        self.status = RUNNING
        self.reason = ""  # why the search ended before its trials were used up
        self._counts: Counter[str] = Counter()
        self.changed: list[int] = []  # complete trials that the last end made collapsed, or the other way round
        self._recalls: dict[int, float] = {}  # of the trials that were trained to their end
        self._front: list[tuple[list[int], np.ndarray]] = []  # trial numbers and objectives of its configurations

    @property
    def seeds(self) -> int:
        return int(self.settings.get("seeds", 1))

    def apply(self, entry: Event) -> None:
        """Fold one event in. An event of an unknown kind says nothing about the state."""
        match entry["event"]:
            case "search":
                self.settings, self.began = dict(entry["settings"]), entry["time"]
                self.objectives = tuple(self.settings["objectives"])
                self.directions = [OBJECTIVES[name] for name in self.objectives]
                self.reference = reference_point(self.objectives, len(self.settings["classes"]))
                self.constraints = bounds.constraints(self.settings.get("constraints", ()))
            case "resume":
                self.settings.update(entry["changes"])
                self.status, self.reason = RUNNING, ""
                for trial in self.trials.values():
                    if trial.status == RUNNING:  # the process that had it was killed
                        trial.launch(entry["time"])
            case "start":
                trial = Trial(**{k: entry[k] for k in ("number", "values", "config_id", "seed")})
                trial.started = trial.launched = trial.seen = entry["time"]
                self.trials[trial.number] = trial
                self._counts[RUNNING] += 1
            case "close":
                self.status, self.reason = entry["status"], entry.get("reason", "")
            case "launch" | "epoch" | "decision" | "fault" | "end" | "tracked":
                self._apply_to(self.trials[entry["number"]], entry)

    def _apply_to(self, trial: Trial, entry: Event) -> None:
        match entry["event"]:
            case "launch":  # again, after its process failed or after the search was interrupted, killed or not
                trial.launch(entry["time"])
                self._set_status(trial, RUNNING, "")
                self._recalls.pop(trial.number, None)
            case "epoch":
                trial.seen, trial.device = entry["time"], entry.get("device", "")
                if entry["epoch"] == len(trial.epochs) + 1:  # an epoch that is told twice counts the first time
                    trial.epochs.append({k: entry[k] for k in ("epoch", "metrics", "seconds")})
            case "decision":
                trial.decisions[entry["epoch"]], trial.stopped = entry["text"], not entry["keep"]
            case "fault":
                trial.faults += 1
            case "tracked":
                trial.run_id = entry["run_id"]
            case "end":
                trial.seconds += entry["time"] - trial.launched
                trial.seen, trial.tables = entry["time"], entry["tables"]
                self._set_status(trial, entry["status"], entry["reason"])
                self.changed = []
                if trial.status in (COMPLETE, COLLAPSED):
                    self._recalls[trial.number] = trial.metrics["val_mean_recall"]
                    self._sort_out(trial)

    def _sort_out(self, newest: Trial) -> None:
        """Tell complete trials from collapsed ones, now that one more has ended."""
        recalls = np.fromiter(self._recalls.values(), float)
        floor = sound_recall(recalls, 1 / len(self.settings["classes"]), self.settings["collapse_floor"])
        for number in np.array(list(self._recalls))[(recalls > floor) != self._complete()].tolist():
            trial = self.trials[number]
            reason = f"val_mean_recall {self._recalls[number]:.4f} is not above {floor:.4f}, so it serves nobody"
            self._set_status(trial, *((COMPLETE, "") if trial.status == COLLAPSED else (COLLAPSED, reason)))
            if trial is not newest:
                self.changed.append(number)
        if self.changed:  # the front's trials, or some that these had kept off it
            self._front = []
            for number in dict.fromkeys(self.siblings(n)[0] for n in self._recalls):
                self._join_front(self.siblings(number))
        elif newest.status == COMPLETE:
            self._join_front(self.siblings(newest.number))

    def _complete(self) -> np.ndarray:
        """Which of the trials that were trained to their end are complete so far, bool ``[n]``."""
        return np.fromiter((self.trials[number].status == COMPLETE for number in self._recalls), bool)

    def _set_status(self, trial: Trial, status: str, reason: str) -> None:
        self._counts[trial.status] -= 1
        self._counts[status] += 1
        trial.status, trial.reason = status, reason

    def count(self, *statuses: str) -> int:
        return sum(self._counts[status] for status in statuses)

    def siblings(self, number: int) -> list[int]:
        """The numbers of the trials of one configuration: its seeds have consecutive numbers (``searcher.py``)."""
        first = number - number % self.seeds
        return list(range(first, first + self.seeds))

    def values(self, numbers: list[int]) -> np.ndarray:
        """A configuration's objectives ``[m]`` in the user's directions: the mean over its seeds."""
        return np.array([self._mean(numbers, name) for name in self.objectives])

    def _mean(self, numbers: list[int], name: str) -> float:
        return float(np.mean([self.trials[n].metrics.get(name, math.nan) for n in numbers]))

    def feasible(self, numbers: list[int]) -> bool:
        """Whether a configuration keeps the constraints, in the mean over its seeds."""
        means = {c.metric: self._mean(numbers, c.metric) for c in self.constraints}
        return bounds.feasible(self.constraints, means)

    def decided(self, numbers: list[int]) -> bool:
        """Whether a configuration is complete with every seed, so that it may stand on the front."""
        return all(n in self.trials and self.trials[n].status == COMPLETE for n in numbers)

    def _join_front(self, numbers: list[int]) -> None:
        """Complete configurations stay complete, so the front only needs the newest one put in its place."""
        if not self.decided(numbers) or not self.feasible(numbers):
            return
        candidates = [*self._front, (numbers, self.values(numbers))]
        members = front(self._costs(candidates))
        self._front = [candidate for candidate, member in zip(candidates, members) if member]

    def _costs(self, points: list[tuple[list[int], np.ndarray]]) -> np.ndarray:
        """Objectives ``[n, m]`` of ``points``, to be minimised."""
        values = np.array([values for _, values in points], float).reshape(len(points), len(self.objectives))
        return as_minimization(values, self.directions)

    def front_points(self) -> list[list[int]]:
        """The trial numbers of each configuration on the front, by the first objective, best first."""
        points = sorted(self._front, key=lambda point: point[0])
        order = np.lexsort(self._costs(points).T[::-1])
        return [points[i][0] for i in order]

    def front(self) -> list[int]:
        """The numbers of the trials on the front: no complete configuration dominates theirs."""
        return [number for numbers in self.front_points() for number in numbers]

    def undecided(self) -> list[int]:
        """Complete trials whose configuration may still come on the front: other seeds of it are to end, or would have
        but for an interrupt."""
        if self.seeds == 1:
            return []
        alive = (COMPLETE, RUNNING, INTERRUPTED)
        dead = {n for n, trial in self.trials.items() if trial.status not in alive}
        complete = [n for n, trial in self.trials.items() if trial.status == COMPLETE]
        return [n for n in complete if not self.decided(self.siblings(n)) and dead.isdisjoint(self.siblings(n))]

    def hypervolume(self) -> float:
        """The share of objective space that the front dominates, from ``self.reference``; larger is better."""
        reference = as_minimization(np.array([self.reference]), self.directions)[0]
        return hypervolume(self._costs(self._front), reference)
