"""What the events of a search add up to: its trials, the front, the counts. Folded event by event, without files."""

import math
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis import bounds
from analysis.estimates import Estimates, estimate, standing
from analysis.pareto import as_minimization, hypervolume, reference_point
from trainables.metrics import OBJECTIVES

COMPLETE, COLLAPSED, STOPPED = "complete", "collapsed", "stopped"
FAILED, DIVERGED, INTERRUPTED, RUNNING = "failed", "diverged", "interrupted", "running"
ALIVE = (COMPLETE, RUNNING, INTERRUPTED)  # statuses of a trial whose configuration may get its other seeds

Event = dict[str, Any]  # a line of the log, parsed JSON; ``event`` names its kind, ``time`` is in seconds
Settings = dict[str, Any]  # what the first event says of the search, parsed JSON


@dataclass
class Trial:
    """One trial as the log tells it. ``metrics`` are those of its last epoch, never the best of its epochs."""

    number: int
    values: dict[str, Any]
    config_id: str
    seed: int
    repeats: int | None = None  # the first trial of the configuration that it trains once more; None: it explores
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

    A configuration is a list of its trials' numbers: those of one ``config_id``, each with a training seed of its own.
    What it is worth is its shrunk mean (``analysis.estimates``), by which configurations stand on the front.

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
        self.lock = threading.RLock()  # of a thread that reads while another applies events
        self.status = RUNNING
        self.reason = ""  # why the search ended before its trials were used up
        self._counts: Counter[str] = Counter()
        self.changed: list[int] = []  # complete trials that the last end made collapsed, or the other way round
        self._recalls: dict[int, float] = {}  # of the trials that were trained to their end
        self._configurations: dict[str, list[int]] = {}  # by config_id, in the order of their first trials
        self._worth: Worth | None = None  # None: to be computed

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
                place = trial.number % self.seeds  # records of format 3 have a configuration's seeds in a row
                trial.repeats = entry.get("repeats", trial.number - place if place else None)
                self._configurations.setdefault(trial.config_id, []).append(trial.number)
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

    def _complete(self) -> np.ndarray:
        """Which of the trials that were trained to their end are complete so far, bool ``[n]``."""
        return np.fromiter((self.trials[number].status == COMPLETE for number in self._recalls), bool)

    def _set_status(self, trial: Trial, status: str, reason: str) -> None:
        self._counts[trial.status] -= 1
        self._counts[status] += 1
        trial.status, trial.reason = status, reason
        self._worth = None

    def count(self, *statuses: str) -> int:
        return sum(self._counts[status] for status in statuses)

    def siblings(self, number: int) -> list[int]:
        """The numbers of the trials of one configuration, as they began."""
        return self.configuration(self.trials[number].config_id)

    def configuration(self, config_id: str) -> list[int]:
        """The numbers of its trials, as they began; none where it was not tried."""
        return self._configurations.get(config_id, [])

    def configurations(self) -> list[list[int]]:
        return list(self._configurations.values())

    def trainings(self, numbers: list[int]) -> list[int]:
        """The complete trials of a configuration, each seed once."""
        complete = [n for n in numbers if self.trials[n].status == COMPLETE]
        return list({self.trials[n].seed: n for n in reversed(complete)}.values())[::-1]

    def values(self, numbers: list[int]) -> np.ndarray:
        """A configuration's objectives ``[m]`` in the user's directions: the mean over its complete trials."""
        return np.array([self._mean(numbers, name) for name in self.objectives])

    def _mean(self, numbers: list[int], name: str) -> float:
        return float(np.mean([self.trials[n].metrics.get(name, math.nan) for n in self.trainings(numbers)]))

    def feasible(self, numbers: list[int]) -> bool:
        """Whether a configuration keeps the constraints, in the mean over its complete trials."""
        means = {c.metric: self._mean(numbers, c.metric) for c in self.constraints}
        return bounds.feasible(self.constraints, means)

    def sound(self, numbers: list[int]) -> bool:
        """Whether no seed of a configuration collapsed or diverged: one that fails with some seeds is not to be
        trusted with any."""
        return all(self.trials[n].status not in (COLLAPSED, DIVERGED) for n in numbers)

    def decided(self, numbers: list[int]) -> bool:
        """Whether a configuration is complete with every seed, so that it may stand on the front."""
        return len(self.trainings(numbers)) >= self.seeds and self.sound(numbers)

    def worth(self) -> "Worth":
        """What the decided configurations are worth, and which are on the front."""
        with self.lock:
            if self._worth is None:
                self._worth = self._estimate()
            return self._worth

    def _estimate(self) -> "Worth":
        decided = [numbers for numbers in self._configurations.values() if self.decided(numbers)]
        if not decided:
            return Worth([], None, np.empty((0, len(self.objectives))), np.zeros(0, bool), np.zeros(0, bool))
        trainings = [self.trainings(numbers) for numbers in decided]
        values = [[self.trials[n].metrics[name] for name in self.objectives] for group in trainings for n in group]
        counts = np.array([len(group) for group in trainings])
        estimates = estimate(np.array(values, float), np.repeat(np.arange(len(decided)), counts))
        costs = as_minimization(estimates.mean, self.directions)
        feasible = np.array([self.feasible(numbers) for numbers in decided])
        repeated = np.array([any(self.trials[n].repeats is not None for n in group) for group in trainings])
        members = [standing(costs, feasible, each) for each in (repeated & (self.reseeds > 0), ~feasible)]
        return Worth(decided, estimates, costs, *members)

    @property
    def reseeds(self) -> float:
        """The share of the trials that is kept to train candidates again."""
        return float(self.settings.get("reseed", 0.0))

    def front_points(self) -> list[list[int]]:
        """The complete trials of each configuration on the front, by the first objective, best first."""
        worth = self.worth()
        rows = np.flatnonzero(worth.members)
        order = rows[np.lexsort([rows, *worth.costs[rows].T[::-1]])]
        return [self.trainings(worth.configurations[i]) for i in order]

    def front(self) -> list[int]:
        """The numbers of the trials on the front: no decided configuration dominates theirs."""
        return [number for numbers in self.front_points() for number in numbers]

    def rivals(self) -> list[int]:
        """Complete trials off the front whose configuration may still come onto it: it would be there but that it was
        trained once, its other seeds are to end, or luck may have kept it off that was trained again."""
        worth, found = self.worth(), []
        if worth.estimates is not None:
            best = worth.costs - 2 * worth.estimates.error
            front = worth.costs[worth.contenders]
            for i, numbers in enumerate(worth.configurations):
                near = len(numbers) > self.seeds and not _dominated(best[i], front)
                if worth.contenders[i] or near:
                    found += self.trainings(numbers)
        for numbers in self._configurations.values() if self.seeds > 1 else ():
            alive = self.sound(numbers) and len(self.trainings(numbers)) < self.seeds
            if alive and all(self.trials[n].status in ALIVE for n in numbers):
                found += self.trainings(numbers)
        return sorted(set(found).difference(self.front()))

    def hypervolume(self) -> float:
        """The share of objective space that the front's estimates dominate, from ``self.reference``; larger is
        better."""
        worth = self.worth()
        reference = as_minimization(np.array([self.reference]), self.directions)[0]
        return hypervolume(worth.costs[worth.members], reference)


@dataclass(frozen=True, eq=False)
class Worth:
    """Of each decided configuration its estimate in the user's directions and as ``costs`` ``[c, m]`` to be minimised,
    and whether it is on the front; a contender would be if single trainings were enough."""

    configurations: list[list[int]]  # all trials of each
    estimates: Estimates | None  # None where there is none
    costs: np.ndarray
    members: np.ndarray  # bool [c]
    contenders: np.ndarray  # bool [c]

    def mean(self, number: int) -> np.ndarray:
        """The estimate ``[m]`` of the decided configuration that has trial ``number``."""
        assert self.estimates is not None
        return np.asarray(self.estimates.mean[next(i for i, own in enumerate(self.configurations) if number in own)])


def _dominated(point: np.ndarray, by: np.ndarray) -> bool:
    return bool(((by <= point).all(axis=1) & (by < point).any(axis=1)).any())
