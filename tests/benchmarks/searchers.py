"""The contenders of `search_quality.py`: searchers and schedulers behind the protocols of `replay.py`.

    from tests.benchmarks.searchers import CONTENDERS
    searcher, scheduler = CONTENDERS["ours"](table, seed, SPACES["digits"])

All draw from the table's grid, described to all in one way: method first, then what exists under it. A point that is
proposed twice would be the same run again; with continuous hyperparameters it would be a close one. So the sampler is
told that the trial failed, which teaches it nothing, and gets the closest untried point instead.

`SyneRule` was compared with Syne Tune 0.16.0's own `MOASHA`, installed apart: in 600 random streams of trials (with and
without ties, long fronts, reduction factors 2 to 4) it decided the same 27,292 times of 27,292 at rungs.
"""

import math
import random
from collections.abc import Callable, Sequence
from itertools import count, repeat
from types import SimpleNamespace

import numpy as np
import optuna
from optuna.trial import TrialState

from analysis.pareto import as_minimization, front
from search_spaces.space import Space
from tests.benchmarks.replay import DIRECTIONS, FAILED, OBJECTIVES, STOPPED, InOrder, NeverStop, Table
from tune_fairlora.algorithms.scheduler import MultiObjectiveAsha, family_of
from tune_fairlora.algorithms.searcher import make_sampler

STATES = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}  # stopped and collapsed trials are PRUNED


class GridSpace:
    """Exactly the table's configurations. A rank is a choice, as in the project's spaces, learning rate and λ are
    places in an order. Methods of equal values share a parameter, so that they learn from each other."""

    def __init__(self, points: Sequence[dict]):
        self.points, self.methods = points, tuple(dict.fromkeys(point["method"] for point in points))
        self.axes = {method: _axes([p for p in points if p["method"] == method]) for method in self.methods}
        self.places = [{n: v.index(point[n]) for n, v in self.axes[point["method"]].items()} for point in points]
        self.params = [self._params(point["method"], i) for i, point in enumerate(points)]
        self.numbers = {frozenset(params.items()): i for i, params in enumerate(self.params)}

    def _params(self, method: str, index: int) -> dict:
        """A configuration as Optuna's parameters."""
        own = self.places[index] | {n: v for n, v in self.points[index].items() if n == "rank"}
        return {"method": method, **{self._parameter(name, method): value for name, value in own.items()}}

    def _parameter(self, name: str, method: str) -> str:
        values = self.axes[method][name]
        return f"{name}:{'+'.join(m for m in self.methods if self.axes[m].get(name) == values)}"

    def define(self, trial) -> None:
        """Draw a point, in the form that OptunaSearch documents as define-by-run."""
        method = trial.suggest_categorical("method", self.methods)
        for name, values in self.axes[method].items():
            if name == "rank":
                trial.suggest_categorical(self._parameter(name, method), values)
            else:
                trial.suggest_int(self._parameter(name, method), 0, len(values) - 1)

    def index(self, params: dict) -> int:
        """The configuration that Optuna's parameters name. Raises KeyError for one outside of the grid."""
        return self.numbers[frozenset(params.items())]

    def nearest(self, index: int, among: Sequence[int], chance: random.Random) -> int:
        """One of the closest of ``among``: of the same method where it has any left, then in steps along the axes."""
        method, places = self.points[index]["method"], self.places[index]
        steps = [sum(abs(at - places.get(name, at)) for name, at in self.places[i].items()) for i in among]
        apart = [(self.points[i]["method"] != method, n) for i, n in zip(among, steps)]
        return chance.choice([i for i, distance, least in zip(among, apart, repeat(min(apart))) if distance == least])

    def starts(self, space: Space) -> list[int]:
        """The points that the tool tries first in ``space``, each as the grid's nearest one."""
        found = []
        for params in space.starts():
            wanted = {name.partition(":")[0]: value for name, value in params.items()}
            peers = [i for i, point in enumerate(self.points) if point["method"] == wanted["method"]]
            found.append(min(peers, key=lambda i: sum(_apart(self.points[i][n], wanted[n]) for n in self.places[i])))
        return list(dict.fromkeys(found))


def _axes(points: Sequence[dict]) -> dict[str, tuple]:
    """Field -> values of one method's points, which must be all combinations of them."""
    axes = {name: tuple(sorted({point[name] for point in points})) for name in points[0] if name != "method"}
    if math.prod(map(len, axes.values())) != len(points):
        raise ValueError(f"a method's points must be all combinations of {axes}, but are {len(points)}")
    return axes


def _apart(a: float, b: float) -> float:
    """On a logarithmic scale; 0, the rank of the head alone, is far from all but itself."""
    return 0.0 if a == b else abs(math.log(a / b)) if a and b else math.inf


class Untried:
    """What the sampling contenders share: no configuration twice."""

    def __init__(self, space: GridSpace, seed: int):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.untried, self.chance = space, list(range(len(space.points))), random.Random(seed)

    def ask(self, number: int) -> int | None:
        if not self.untried:
            return None
        index = self.draw(number)
        if index not in self.untried:
            self.refuse(number)
            self.study.enqueue_trial(self.space.params[self.space.nearest(index, self.untried, self.chance)])
            index = self.draw(number)
        self.untried.remove(index)
        return index


class Study(Untried):
    """An Optuna study with one of the project's samplers, told as the tool tells it: full fidelity is COMPLETE, stopped
    or collapsed PRUNED, anything else FAIL."""

    def __init__(self, space: GridSpace, sampler: str, seed: int, tool: Space | None = None):
        super().__init__(space, seed)
        self.study = optuna.create_study(directions=DIRECTIONS, sampler=make_sampler(sampler, seed))
        self.open: dict[int, optuna.Trial] = {}
        for index in space.starts(tool) if tool else ():
            self.study.enqueue_trial(space.params[index])

    def draw(self, number: int) -> int:
        self.open[number] = self.study.ask()
        self.space.define(self.open[number])
        return self.space.index(self.open[number].params)

    def refuse(self, number: int) -> None:
        self.study.tell(self.open.pop(number), state=TrialState.FAIL)

    def tell(self, number: int, status: str, values: list[float] | None, epochs: list[dict[str, float]]) -> None:
        # A study of several objectives takes no intermediate values, so these are but a note.
        self.open[number].set_user_attr("epochs", [[metrics[name] for name in OBJECTIVES] for metrics in epochs])
        self.study.tell(self.open.pop(number), values, state=STATES.get(status, TrialState.PRUNED))


class RayOptuna(Untried):
    """Ray's own `OptunaSearch` as documented for several objectives, with its default sampler, told by the calls that
    Ray makes: every result, and the last one again at the end, whether the trial ended by itself or was stopped."""

    def __init__(self, space: GridSpace, seed: int):
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(space, seed)
        modes = [direction[:3] for direction in DIRECTIONS]
        self.search = OptunaSearch(space.define, metric=list(OBJECTIVES), mode=modes, seed=seed)
        self.study = self.search._ot_study
        self.ids, self.names, self.short = count(), {}, set()  # a name is Ray's id and Optuna's number

    def draw(self, number: int) -> int:
        self.names[number] = str(next(self.ids))
        return self.space.index(self.search.suggest(self.names[number]))

    def refuse(self, number: int) -> None:
        self.search.on_trial_complete(self.names[number], error=True)

    def tell(self, number: int, status: str, values: list[float] | None, epochs: list[dict[str, float]]) -> None:
        name, failed = self.names[number], status == FAILED
        self.short |= {name} if status == STOPPED else set()
        for metrics in epochs:
            self.search.on_trial_result(name, metrics)
        self.search.on_trial_complete(name, None if failed else epochs[-1], error=failed)

    def half_trained(self) -> float:
        """The share of its own front, `best_trials`, that was stopped early."""
        return np.mean([str(trial.number) in self.short for trial in self.study.best_trials])


class RayAsha:
    """Ray's own `ASHAScheduler` on one metric that grows; it asks nothing of Ray but a trial's id."""

    def __init__(self, metric: str, budget: int, reduction_factor: float = 4):
        from ray.tune.schedulers import ASHAScheduler

        self.asha = ASHAScheduler(metric=metric, mode="max", max_t=budget, reduction_factor=reduction_factor)

    def report(self, number: int, epoch: int, budget: int, metrics: dict[str, float], method: str = "") -> bool:
        trial, result = SimpleNamespace(trial_id=str(number)), {"training_iteration": epoch, **metrics}
        if epoch == 1:
            self.asha.on_trial_add(None, trial)
        return self.asha.on_trial_result(None, trial, result) == "CONTINUE"


class SyneRule:
    """What Syne Tune's MOASHA decides, in words of our own.

    Fronts are peeled off one by one; in a front, points come farthest-first from the best in the first objective. The
    routine for that gives places, which are used as if they were the order; and the order of all is used as if it were
    places. So what is compared with the share that is wanted is when that trial arrived which the order ends with: if
    it came late, the newest trial is stopped. Objectives keep their units; the first to reach a rung goes on.
    """

    def __init__(self, budget: int, grace_period: int = 1, reduction_factor: int = 3):
        self.share, self.rungs, epoch = 1 / reduction_factor, {}, grace_period
        while epoch <= budget:
            self.rungs[epoch], epoch = [], epoch * reduction_factor

    def report(self, number: int, epoch: int, budget: int, metrics: dict[str, float], method: str = "") -> bool:
        if epoch not in self.rungs:
            return True
        self.rungs[epoch].append([metrics[name] for name in OBJECTIVES])
        costs, left = as_minimization(self.rungs[epoch], DIRECTIONS), np.arange(len(self.rungs[epoch]))
        while left.size:
            members = front(costs[left])
            last, left = left[members][self.places(costs[left[members]])[-1]], left[~members]
        return len(costs) == 1 or last / len(costs) <= self.share

    def places(self, points: np.ndarray) -> np.ndarray:
        """For each of a front's points its place, farthest first."""
        places, row, distance = np.empty(len(points), int), int(points[:, 0].argmin()), np.full(len(points), np.inf)
        for place in range(len(points)):
            places[row] = place
            distance = np.minimum(distance, np.linalg.norm(points - points[row], axis=1))
            distance[row] = -1.0
            row = int(distance.argmax())
        return places


class Ours:
    """The project's scheduler."""

    def __init__(self, guess: float, families: bool = True, **options):
        self.families = families
        self.asha = MultiObjectiveAsha(OBJECTIVES, guess=guess, **options)

    def report(self, number: int, epoch: int, budget: int, metrics: dict[str, float], method: str = "") -> bool:
        decision = self.asha.report(number, epoch, budget, metrics, family_of(method) if self.families else "")
        return decision is None or decision.keep


def study(table: Table, seed: int, sampler: str = "tpe", space: Space | None = None) -> Study:
    return Study(GridSpace(table.points), sampler, seed, space)


# Name -> (table, seed, the tool's space of the same data) -> searcher and scheduler.
CONTENDERS: dict[str, Callable[[Table, int, Space], tuple]] = {
    "grid search": lambda t, s, _: (InOrder(range(len(t))), NeverStop()),
    "random": lambda t, s, _: (InOrder(random.Random(s).sample(range(len(t)), len(t))), NeverStop()),
    "NSGA-II": lambda t, s, _: (study(t, s, "nsga2"), NeverStop()),
    "TPE": lambda t, s, _: (study(t, s), NeverStop()),
    "Ray OptunaSearch": lambda t, s, _: (RayOptuna(GridSpace(t.points), s), NeverStop()),
    "OptunaSearch + ASHA": lambda t, s, _: (RayOptuna(GridSpace(t.points), s), RayAsha("val_accuracy", t.budget)),
    "TPE + ASHA": lambda t, s, _: (study(t, s), RayAsha("val_accuracy", t.budget, 3)),
    "TPE + Syne's MOASHA": lambda t, s, _: (study(t, s), SyneRule(t.budget)),
    "ours, no first points": lambda t, s, _: (study(t, s), Ours(t.guess)),
    "ours, none stopped": lambda t, s, space: (study(t, s, space=space), NeverStop()),
    "ours, one family": lambda t, s, space: (study(t, s, space=space), Ours(t.guess, families=False)),
    "ours": lambda t, s, space: (study(t, s, space=space), Ours(t.guess)),
}
