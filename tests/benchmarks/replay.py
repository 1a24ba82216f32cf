"""Replays recorded curves to any searcher and any scheduler at simulated time: a search of minutes in milliseconds.

    from tests.benchmarks.replay import Table, replay
    table = Table.read("tests/benchmarks/data/digits.parquet")
    trace = replay(table, searcher, scheduler, seed=0, workers=2, max_epochs=138)

The table holds what each configuration measured after each epoch, and how long that took (`grid_curves.py` trains it).
`workers` trials run side by side on a simulated clock. A result comes when its epoch would have ended; of results at
the same moment the lower trial number comes first. A worker that falls free asks the searcher at once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from analysis.pareto import as_minimization
from tune_fairlora.record.event_log import collapse_floor

OBJECTIVES = ("val_accuracy", "val_delta_f1")
DIRECTIONS = ("maximize", "minimize")
RECALL = "val_mean_recall"
AXES = ("rank", "lam", "lr")  # the hyperparameters that a grid combines, under each method those that it has
RUNNING, STOPPED, COMPLETE, COLLAPSED, FAILED = "running", "stopped", "complete", "collapsed", "failed"


class Curve(NamedTuple):
    """One run: what each of its epochs took and measured. Shorter than the table's budget where the run diverged."""

    seconds: list[float]
    metrics: list[dict[str, float]]


class Table:
    """Recorded curves by configuration, counted from 0 in the grid's order, and training seed.

    Only seeds are kept of which every configuration has a curve, so that a table that is still growing is good for
    something. ``classes`` is how many the task has: a guess is right once in so many.
    """

    def __init__(self, frame: pd.DataFrame, classes: int = 10):
        axes = [name for name in AXES if name in frame]
        order = frame.drop_duplicates("config_id")
        self.points = [_point(row, axes) for row in order[["method", *axes]].to_dict("records")]
        self.budget, self.guess = int(frame["epoch"].max()), 1 / classes
        # The validation split is not at hand, but the size of its smallest class is: close, where classes are even.
        smallest = int(frame["val_min_class_count"].iloc[0])
        self.collapse_floor = collapse_floor(np.repeat(np.arange(classes), smallest), classes)
        number = {config: i for i, config in enumerate(order["config_id"])}
        frame = frame.sort_values("epoch", kind="stable")
        metrics = frame[[name for name in frame if name.startswith("val_")]].astype(float).to_dict("records")
        self.curves: dict[tuple[int, int], Curve] = {}
        for config, seed, seconds, measured in zip(frame["config_id"], frame["seed"], frame["seconds"], metrics):
            curve = self.curves.setdefault((number[config], int(seed)), Curve([], []))
            curve.seconds.append(float(seconds))
            curve.metrics.append(measured)
        seeds = sorted({seed for _, seed in self.curves})
        self.seeds = [s for s in seeds if all((i, s) in self.curves for i in range(len(self.points)))]

    @classmethod
    def read(cls, path: str | Path) -> "Table":
        """The table in a Parquet file, or in a folder of the parts from which `grid_curves.py` will make one."""
        if Path(path).is_dir():
            from tests.benchmarks import grid_curves

            return cls(grid_curves.table(Path(path)))
        return cls(pd.read_parquet(path))

    def __len__(self) -> int:
        return len(self.points)

    @property
    def epochs(self) -> int:
        """What training every configuration once takes."""
        return len(self) * self.budget

    def curve(self, index: int, seed: int) -> Curve:
        """Raises KeyError for a configuration outside of the grid."""
        return self.curves[index, seed]

    def status(self, index: int, seed: int) -> str:
        """How a run ends that nobody stops."""
        curve = self.curve(index, seed)
        if len(curve.metrics) < self.budget or not all(math.isfinite(curve.metrics[-1][name]) for name in OBJECTIVES):
            return FAILED
        return COMPLETE if curve.metrics[-1][RECALL] > self.collapse_floor else COLLAPSED

    def costs(self, seeds: Sequence[int]) -> np.ndarray:
        """``[configurations, 2]``, to be minimised: the objectives after the last epoch, mean over ``seeds``; NaN where
        a run failed."""
        return np.array([np.mean([self.costs_of(i, s) for s in seeds], axis=0) for i in range(len(self))])

    def recalls(self, seed: int, epoch: int) -> np.ndarray:
        """``[configurations]``: the mean recall after ``epoch``, or after the last one before a run diverged."""
        return np.array([self.curve(i, seed).metrics[:epoch][-1][RECALL] for i in range(len(self))])

    def lost(self, seed: int) -> np.ndarray:
        """Which configurations end with a mean recall under half of the median's distance from a guess: what collapses
        is seldom exactly a guess."""
        final = self.recalls(seed, self.budget)
        return final < self.guess + 0.5 * (np.median(final) - self.guess)

    def costs_of(self, index: int, seed: int) -> np.ndarray:
        failed = self.status(index, seed) == FAILED
        values = [math.nan if failed else self.curve(index, seed).metrics[-1][name] for name in OBJECTIVES]
        return as_minimization([values], DIRECTIONS)[0]


class Searcher(Protocol):
    """Chooses configurations."""

    def ask(self, number: int) -> int | None:
        """The configuration for trial ``number``; None when there is none left."""
        ...

    def tell(self, number: int, status: str, values: list[float] | None, epochs: list[dict[str, float]]) -> None:
        """How a trial ended: once for each. ``values`` are the objectives of a complete trial, in the user's
        directions; ``epochs`` is what it measured, epoch by epoch."""
        ...


class Scheduler(Protocol):
    """Stops trials."""

    def report(self, number: int, epoch: int, budget: int, metrics: dict[str, float], method: str = "") -> bool:
        """Whether the trial goes on; asked after each epoch but the last."""
        ...


class InOrder:
    """The searcher that learns nothing: a list of configurations, one after another."""

    def __init__(self, order: Iterable[int]):
        self.left = iter(order)

    def ask(self, number: int) -> int | None:
        return next(self.left, None)

    def tell(self, number: int, status: str, values: list[float] | None, epochs: list[dict[str, float]]) -> None:
        pass


class NeverStop:
    """The scheduler that does nothing."""

    def report(self, number: int, epoch: int, budget: int, metrics: dict[str, float], method: str = "") -> bool:
        return True


class Step(NamedTuple):
    """One epoch that ended: when, how many had ended by then in all trials, whose it was, and what became of it."""

    time: float
    spent: int
    number: int
    config: int
    epoch: int
    status: str


@dataclass
class Trace:
    """What happened, in the order in which it did."""

    seed: int
    steps: list[Step] = field(default_factory=list)

    def ended(self, *statuses: str) -> list[Step]:
        return [step for step in self.steps if step.status in statuses]


def replay(
    table: Table,
    searcher: Searcher,
    scheduler: Scheduler,
    seed: int,
    workers: int = 2,
    max_epochs: float = math.inf,
    max_trials: float = math.inf,
) -> Trace:
    """Search ``table`` as trained with ``seed`` until that many epochs have ended, that many trials were started and
    have ended, or the searcher has no more."""
    trace, events, configs = Trace(seed), [], {}

    def launch(now: float) -> None:
        if len(configs) >= max_trials:
            return
        number = len(configs)
        index = searcher.ask(number)
        if index is not None:
            configs[number] = index
            heappush(events, (now + table.curve(index, seed).seconds[0], number, 1))

    for _ in range(workers):
        launch(0.0)
    while events and len(trace.steps) < max_epochs:
        now, number, epoch = heappop(events)
        curve = table.curve(configs[number], seed)
        status = _status(table, scheduler, seed, number, configs[number], epoch)
        trace.steps.append(Step(now, len(trace.steps) + 1, number, configs[number], epoch, status))
        if status == RUNNING:
            heappush(events, (now + curve.seconds[epoch], number, epoch + 1))
            continue
        values = [curve.metrics[-1][name] for name in OBJECTIVES] if status == COMPLETE else None
        searcher.tell(number, status, values, curve.metrics[:epoch])
        launch(now)
    return trace


def _status(table: Table, scheduler: Scheduler, seed: int, number: int, index: int, epoch: int) -> str:
    """What becomes of a trial after ``epoch``."""
    curve = table.curve(index, seed)
    method = table.points[index]["method"]
    if epoch < table.budget and not scheduler.report(number, epoch, table.budget, curve.metrics[epoch - 1], method):
        return STOPPED
    return RUNNING if epoch < len(curve.metrics) else table.status(index, seed)


def _point(row: dict, axes: Sequence[str]) -> dict:
    """A configuration as the fields that it has: method, and those of ``axes`` that are not null."""
    point = {"method": row["method"]}
    for name in axes:
        if not pd.isna(row[name]):
            point[name] = int(row[name]) if name == "rank" else float(row[name])
    return point
