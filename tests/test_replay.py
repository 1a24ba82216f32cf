"""The replayer keeps time and order, loses no trial, and what is fed to it cannot leave the grid.

Curves are drawn: what they measure is arithmetic, so that every expectation can be computed by hand.
"""

import math
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from analysis.pareto import front
from search_spaces import SPACES
from tests.benchmarks import search_quality
from tests.benchmarks.replay import (
    COLLAPSED,
    COMPLETE,
    FAILED,
    OBJECTIVES,
    RUNNING,
    STOPPED,
    InOrder,
    NeverStop,
    Table,
    replay,
)
from tests.benchmarks.search_quality import Score
from tests.benchmarks.searchers import CONTENDERS, GridSpace, RayAsha, SyneRule

SHIPPED = Path(__file__).parent / "benchmarks" / "data" / "digits.parquet"


def drawn(seconds, accuracy, epochs=3, seeds=(0,), points=None) -> Table:
    """Configuration i takes seconds[i] an epoch and has accuracy[i] after each; ΔF1 is 0.3."""
    points = points or [{"method": "fft", "lr": 0.001 * (i + 1)} for i in range(len(seconds))]
    rows = [
        {
            "config_id": f"{i:04d}",
            "rank": None,
            "lam": None,
            **points[i],
            "seed": seed,
            "epoch": epoch,
            "seconds": seconds[i],
            "val_accuracy": accuracy[i],
            "val_delta_f1": 0.3,
            "val_mean_recall": accuracy[i],
            "val_min_class_count": 100,
        }
        for i in range(len(seconds))
        for seed in seeds
        for epoch in range(1, (epochs if math.isfinite(accuracy[i]) else 1) + 1)
    ]
    return Table(pd.DataFrame(rows))


def small_grid() -> Table:
    """All four methods, 24 configurations, two seeds: the better, the higher the rank and the nearer λ to 1."""
    points = [{"method": "lora", "rank": r, "lr": lr} for r in (0, 4, 8) for lr in (0.001, 0.005)]
    points += [{"method": "fairlora", "rank": r, "lam": x, "lr": 0.005} for r in (4, 8) for x in (0.1, 1.0, 10.0)]
    points += [{"method": "fft", "lr": lr} for lr in (0.0003, 0.001, 0.003)]
    points += [{"method": "fairfft", "lam": x, "lr": lr} for x in (0.1, 1.0, 10.0) for lr in (0.0003, 0.001, 0.003)]
    accuracy = [0.5 + 0.02 * p.get("rank", 5) - 0.1 * abs(math.log10(p.get("lam", 1))) for p in points]
    return drawn([1.0 + 0.1 * i for i in range(len(points))], accuracy, epochs=4, seeds=(0, 1), points=points)


class Recorder:
    """A searcher that writes down what is asked of it."""

    def __init__(self, searcher):
        self.searcher, self.asked, self.told = searcher, {}, []

    def ask(self, number):
        index = self.searcher.ask(number)
        if index is not None:
            assert number not in self.asked
            self.asked[number] = index
        return index

    def tell(self, number, status, values, epochs):
        self.told.append((number, status, values, len(epochs)))
        self.searcher.tell(number, status, values, epochs)


class StopAt:
    def __init__(self, number, epoch):
        self.at = number, epoch

    def report(self, number, epoch, budget, metrics, method):
        return (number, epoch) != self.at


def test_two_workers_by_hand():
    table = drawn([2.0, 3.0, 1.0], [0.5, 0.6, 0.7], epochs=2)
    trace = replay(table, InOrder(range(3)), NeverStop(), seed=0, workers=2)
    assert [(s.time, s.number, s.epoch, s.status) for s in trace.steps] == [
        (2.0, 0, 1, RUNNING),
        (3.0, 1, 1, RUNNING),
        (4.0, 0, 2, COMPLETE),  # its worker starts trial 2
        (5.0, 2, 1, RUNNING),
        (6.0, 1, 2, COMPLETE),  # at the same moment, the lower number first
        (6.0, 2, 2, COMPLETE),
    ]
    assert [s.spent for s in trace.steps] == [1, 2, 3, 4, 5, 6]


def test_stopping_frees_the_worker():
    table = drawn([2.0, 3.0, 1.0], [0.5, 0.6, 0.7], epochs=2)
    searcher = Recorder(InOrder(range(3)))
    trace = replay(table, searcher, StopAt(0, 1), seed=0, workers=2)
    assert [(s.time, s.number, s.epoch, s.status) for s in trace.steps] == [
        (2.0, 0, 1, STOPPED),
        (3.0, 1, 1, RUNNING),
        (3.0, 2, 1, RUNNING),
        (4.0, 2, 2, COMPLETE),
        (6.0, 1, 2, COMPLETE),
    ]
    assert searcher.told == [(0, STOPPED, None, 1), (2, COMPLETE, [0.7, 0.3], 2), (1, COMPLETE, [0.6, 0.3], 2)]


def test_the_budget_of_epochs_and_of_trials_ends_it():
    table = drawn([1.0] * 4, [0.5] * 4)
    assert len(replay(table, InOrder(range(4)), NeverStop(), seed=0, workers=2, max_epochs=7).steps) == 7
    trace = replay(table, InOrder(range(4)), NeverStop(), seed=0, workers=2, max_trials=3)
    assert {s.number for s in trace.steps} == {0, 1, 2} and len(trace.ended(COMPLETE)) == 3


def test_a_trial_that_guesses_is_collapsed_and_one_that_diverged_failed():
    table = drawn([1.0] * 3, [0.11, math.nan, 0.5])
    searcher = Recorder(InOrder(range(3)))
    replay(table, searcher, NeverStop(), seed=0, workers=1)
    assert searcher.told == [(0, COLLAPSED, None, 3), (1, FAILED, None, 1), (2, COMPLETE, [0.5, 0.3], 3)]


def test_a_configuration_outside_of_the_grid_is_an_error():
    with pytest.raises(KeyError):
        replay(drawn([1.0], [0.5]), InOrder([7]), NeverStop(), seed=0)
    with pytest.raises(KeyError):
        GridSpace(small_grid().points).index({"method": "fft", "lr:fft+fairfft": 9})


def test_a_growing_table_keeps_its_whole_seeds():
    table = small_grid()
    del table.curves[3, 1]
    rows = [
        {
            "config_id": str(i),
            "seed": s,
            "epoch": e,
            "seconds": 1.0,
            **table.points[i],
            **table.curve(i, s).metrics[e - 1],
        }
        for i, s in table.curves
        for e in range(1, 5)
    ]
    assert Table(pd.DataFrame(rows)).seeds == [0]


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_tries_each_configuration_once_and_ends(name):
    table = small_grid()
    inner, scheduler = CONTENDERS[name](table, 3, SPACES["digits"])
    searcher = Recorder(inner)
    trace = replay(table, searcher, scheduler, seed=0, workers=3)
    assert sorted(searcher.asked.values()) == list(range(len(table)))
    assert sorted(number for number, *_ in searcher.told) == list(range(len(table)))
    for number, status, values, epochs in searcher.told:
        assert status == STOPPED or (status, epochs) == (COMPLETE, 4)
        assert (values is None) == (status == STOPPED)
        assert [s.epoch for s in trace.steps if s.number == number] == list(range(1, epochs + 1))
    if scheduler.__class__ is NeverStop:
        assert len(trace.steps) == table.epochs and trace.steps[-1].time <= sum(
            sum(table.curve(i, 0).seconds) for i in range(len(table))
        )


@pytest.mark.parametrize("name", ["TPE", "Ray OptunaSearch", "NSGA-II"])
def test_a_seed_decides_everything(name):
    table = small_grid()
    traces = [replay(table, *CONTENDERS[name](table, seed, None), seed=0, max_trials=15).steps for seed in (1, 1, 2)]
    assert traces[0] == traces[1] != traces[2]


def test_a_grid_search_keeps_the_order_of_the_grid():
    table = small_grid()
    searcher = Recorder(CONTENDERS["grid search"](table, 0, None)[0])
    replay(table, searcher, NeverStop(), seed=1, workers=2)
    assert list(searcher.asked.values()) == list(range(len(table)))


def test_the_first_points_are_the_tools_own_nearest():
    table = small_grid()
    points = [table.points[i] for i in GridSpace(table.points).starts(SPACES["digits"])]
    assert points == [
        {"method": "lora", "rank": 8, "lr": 0.005},
        {"method": "fairlora", "rank": 8, "lam": 1.0, "lr": 0.005},
        {"method": "fft", "lr": 0.001},
        {"method": "fairfft", "lam": 1.0, "lr": 0.001},
        {"method": "lora", "rank": 0, "lr": 0.005},
    ]


def test_rays_own_scheduler_stops_under_its_quantile():
    asha = RayAsha("val_accuracy", budget=8, reduction_factor=2)
    kept = [asha.report(i, 1, 8, {"val_accuracy": value}) for i, value in enumerate((0.5, 0.4, 0.6, 0.45))]
    assert kept == [True, False, True, False]  # each against the median of those before it


def test_synes_rule_looks_at_the_arrival_of_the_worst():
    def kept(accuracies):
        rule = SyneRule(budget=9)
        return [rule.report(i, 1, 9, {"val_accuracy": a, "val_delta_f1": 0.3}) for i, a in enumerate(accuracies)]

    # A chain: the worst of n arrived at place k (from 0), and the newest is stopped where k / n is over 1/3.
    assert kept([0.1, 0.2, 0.3, 0.4]) == [True, True, True, True]  # the first is the worst, always
    assert kept([0.4, 0.1, 0.2, 0.9]) == [True, False, True, True]
    assert kept([0.5, 0.6, 0.1, 0.9]) == [True, True, False, False]  # the best of all is stopped


def test_a_front_is_worth_what_it_is_on_other_seeds():
    table = small_grid()
    score = Score(table, 0)
    trace = replay(table, InOrder(range(len(table))), NeverStop(), seed=0, workers=2)
    curve = score.curves(trace, table.epochs)[0]
    assert curve[0] == 0 and curve[-1] == pytest.approx(1)
    # All have ΔF1 0.3 and both seeds are alike: the front is the most accurate one, 0.7 of the square under it.
    best = max(table.curve(i, 1).metrics[-1]["val_accuracy"] for i in range(len(table)))
    assert score.whole[0] == pytest.approx(0.7 * best)


def test_the_reports_are_whole(tmp_path):
    points = small_grid().points
    rows = [
        {"config_id": f"{i:02d}", "rank": None, "lam": None, **point, "seed": seed, "epoch": epoch, "seconds": 1.0}
        | {"val_accuracy": 0.9 - 0.01 * i - 0.1 / epoch, "val_delta_f1": 0.6 - 0.02 * i, "val_mean_recall": 0.5}
        | {"val_min_class_count": 100}
        for i, point in enumerate(points)
        for seed in (0, 1)
        for epoch in (1, 2, 3, 4)
    ]
    pd.DataFrame(rows).to_parquet(path := tmp_path / "small.parquet")
    work = partial(search_quality.run, data="digits", path=path, workers=2)
    runs = pd.DataFrame([work((name, None, r), part=2) for name in ("random", "ours") for r in range(2)])
    table = search_quality.summary(runs, "other seeds", 96) + search_quality.counts(runs)
    assert "| random |" in table and "| ours |" in table and "nan" not in table
    search_quality.draw(runs, 96, "small", tmp_path / "small.png")
    assert (tmp_path / "small.png").stat().st_size > 10_000
    names = [f"grace_period={g} reduction_factor=3 floor=0.5" for g in (1, 2)]
    runs = pd.DataFrame([work((n, {"grace_period": g}, r), part=4) for g, n in enumerate(names, 1) for r in range(2)])
    assert names[0] in search_quality.study_table(runs[runs["name"] == names[0]].reset_index(drop=True))
    assert search_quality.floor_table(Table.read(path)).count("\n") == 4
    assert search_quality.kept_table(Table.read(path), 2, 2).endswith("| 0.0 | 0.0 | 0.0 |")


def test_the_shipped_table_replays_to_its_own_front():
    if not SHIPPED.is_file():
        pytest.skip("tests/benchmarks/data/digits.parquet is not there: tests/benchmarks/grid_curves.py trains it")
    table, frame = Table.read(SHIPPED), pd.read_parquet(SHIPPED)
    for seed in table.seeds:
        trace = replay(table, InOrder(range(len(table))), NeverStop(), seed)
        done = trace.ended(COMPLETE, COLLAPSED, FAILED)
        assert sorted(step.config for step in done) == list(range(len(table)))
        last = frame[(frame["seed"] == seed) & (frame["epoch"] == frame["epoch"].max())]
        values = last[[*OBJECTIVES]].to_numpy(float)
        wanted = {tuple(v) for v in values[front(values * [-1, 1])]}
        costs = table.costs([seed])
        assert {(-a, b) for a, b in costs[front(costs)].tolist()} == wanted
