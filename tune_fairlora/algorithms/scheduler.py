"""Which trials are not worth their next epochs: asynchronous successive halving (ASHA) with several objectives.

At a few epochs of its budget, the rungs, a trial is compared with all of its family that reached the same rung of the
same budget before it, and goes on if it is among the best 1/reduction_factor of them. Families are compared at full
length alone, by the front: adapters learn faster than whole models, and an early comparison would say no more than
that. Nobody waits: the first to arrive are judged leniently, and a trial that was kept is not judged again before its
next rung.

Sources: Li et al. 2020, "A system for massively parallel hyperparameter tuning" (ASHA; here the stopping variant, with
a share that is rounded up); Schmucker et al. 2021, "Multi-objective asynchronous successive halving" (non-dominated
rank first, then a spread over the front); Deb et al. 2002 (NSGA-II) for the rank. Ours are the floor and the spread by
hypervolume.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from itertools import islice
from math import inf, isfinite, nan

import numpy as np

from analysis.pareto import MEASURES, as_minimization, hypervolume, ranks
from trainables.config import METHODS, ConfigError, lookup
from trainables.metrics import OBJECTIVES

RECALL = "val_mean_recall"
# After one epoch the learning rate has hardly warmed up, and full fine-tuning looks worse than it is; 4 is ASHA's own.
# On recorded curves (tests/benchmarks/search_quality.py) both came closest to the whole grid's front.
GRACE_PERIOD, REDUCTION_FACTOR = 2, 4
# The spread counts in whole steps: sums and products of integers below 2**53 are exact in any order, so that neither
# the order of the objectives nor a rounding error can decide. 1.1 times the steps, cubed, is 1.3e15; 2**53 is 9.0e15.
STEPS, REFERENCE = 100_000, 110_000


@dataclass(frozen=True)
class Decision:
    """Whether a trial goes on, and why, in words for the log."""

    keep: bool
    text: str


class MultiObjectiveAsha:
    """Decides at each rung whether a trial goes on.

    The floor comes first, because a model that guesses fails every class alike and looks fair: a trial is unsound while
    its mean recall is under ``guess + floor * (the rung's median - guess)``. It is stopped, and it is not ranked. The
    sound are ordered by non-dominated rank, within a rank by hypervolume, and the best ceil(n / reduction_factor) go
    on, where n counts the unsound too: what the floor takes out makes room for the sound. Until ``reduction_factor``
    trials have arrived, all are kept.

    So a sound trial that dominates all others is never stopped, and no sound trial is while one that it dominates
    would be kept. An unsound trial is stopped, whatever it dominates.

    A decision depends on nothing but the trials that had arrived by then, itself included. So the state is just their
    numbers, and deciding on a trial again gives the same answer, whoever came later.
    """

    def __init__(
        self,
        objectives: tuple[str, ...],
        *,
        guess: float,
        grace_period: int = GRACE_PERIOD,
        reduction_factor: int = REDUCTION_FACTOR,
        floor: float = 0.5,
    ) -> None:
        """
        Args:
            objectives: One to three names of ``OBJECTIVES``, each once; their order is of no account.
            guess: The mean recall of a uniform guess, 1 / classes.
            grace_period: The first rung, in epochs. The next ones are ``reduction_factor`` times as far each.
            floor: From 0, no floor, to 1, the rung's median. Recall under a guess's is always under a floor.

        Raises: ConfigError on an argument that breaks one of these rules.
        """
        for name in objectives:
            lookup(OBJECTIVES, name, "objective")
        if not 1 <= len(objectives) <= max(MEASURES) or len(set(objectives)) < len(objectives):
            raise ConfigError(f"objectives must be one to {max(MEASURES)}, each named once, but got {list(objectives)}")
        for rule, holds, value in (
            ("0 < guess < 1", 0 < guess < 1, f"{guess=}"),
            ("grace_period >= 1", grace_period >= 1, f"{grace_period=}"),
            ("reduction_factor >= 2", reduction_factor >= 2, f"{reduction_factor=}"),
            ("0 <= floor <= 1", 0 <= floor <= 1, f"{floor=}"),
        ):
            if not holds:
                raise ConfigError(f"`{rule}` must hold, but got {value}")
        self.objectives, self.directions = tuple(objectives), [OBJECTIVES[name] for name in objectives]
        self.guess, self.grace_period, self.reduction_factor, self.floor = guess, grace_period, reduction_factor, floor
        # (family, budget, epoch) -> trial number -> costs, to be minimised, and recall; in the order of arrival.
        self.state: dict[tuple[str, int, int], dict[int, list[float]]] = {}

    def rungs(self, budget: int) -> tuple[int, ...]:
        """The epochs at which a trial of ``budget`` epochs is judged. The last is none: nothing is left to save."""
        epochs, epoch = [], self.grace_period
        while epoch < budget:
            epochs.append(epoch)
            epoch *= self.reduction_factor
        return tuple(epochs)

    def report(
        self, number: int, epoch: int, budget: int, metrics: dict[str, float], family: str = ""
    ) -> Decision | None:
        """Record what trial ``number`` measured after ``epoch`` of ``budget`` epochs, and decide on it.

        Args:
            metrics: In the user's directions. Read are the objectives and ``val_mean_recall``.
            family: Whom the trial is compared with: those of the same name alone (``family_of``).

        Returns: None where ``epoch`` is no rung, and where a number that it takes is missing or not finite: that trial
            is not recorded, and its end will say what became of it. A trial that is retried from an older checkpoint
            may report a rung a second time: only the first counts, and its decision is given again.
        """
        self.replay(number, epoch, budget, metrics, family)
        rung = self.state.get((family, budget, epoch), {})
        if number not in rung:
            return None
        rows = np.array([*rung.values()][: [*rung].index(number) + 1])  # up to the trial, which is the last
        costs, recalls, n, least = rows[:, :-1], rows[:, -1], len(rows), self.reduction_factor
        if n < least:
            return Decision(True, f"kept at epoch {epoch}: {n} of the {least} trials that a comparison takes")
        # Taken down from the median, so that no rounding error lifts a floor over it and stops a rung of equal trials.
        median = float(np.median(recalls))
        lowest = max(self.guess, median - (1 - self.floor) * (median - self.guess)) if self.floor else -inf
        sound = recalls >= lowest
        if not sound[-1]:
            why = f"{RECALL} {recalls[-1]:.4f} is under the floor {lowest:.4f}"
            return Decision(False, f"stopped at epoch {epoch}: {why}")
        best = -(-n // least)
        reached = place(costs[sound], best)
        verb = "kept" if reached <= best else "stopped"
        return Decision(reached <= best, f"{verb} at epoch {epoch}: place {reached} of {n}, keeps best {best}")

    def replay(self, number: int, epoch: int, budget: int, metrics: dict[str, float], family: str = "") -> None:
        """``report`` without the decision: all logged epochs in their order restore the state of a resumed search.

        Only the exact epoch counts: a trial that comes by later has trained for longer than those of the rung.
        """
        measured = [metrics.get(name, nan) for name in (*self.objectives, RECALL)]
        if epoch in self.rungs(budget) and all(map(isfinite, measured)):
            costs = as_minimization([measured[:-1]], self.directions)[0]
            self.state.setdefault((family, budget, epoch), {}).setdefault(number, [*costs, measured[-1]])


def family_of(method: str) -> str:
    """The methods that learn at one pace: those that train adapters, and those that train every weight."""
    return "adapters" if METHODS[method].lora else "full"


def place(costs: np.ndarray, best: int) -> int:
    """The place of the last of ``costs`` [n, m] among all, from 1, where the ``best`` first are wanted.

    The members of one front share its first place if all of them are wanted, or none. If only some are, they take the
    wanted places in the order of ``by_hypervolume``, and the others share the place after them.
    """
    rank = ranks(costs)
    better, front = int((rank < rank[-1]).sum()), rank == rank[-1]
    if better >= best or better + front.sum() <= best:
        return better + 1
    low, high = costs.min(axis=0), costs.max(axis=0)
    members = ((costs - low) / np.where(high > low, high - low, 1.0))[front]  # 0 where an objective is constant
    wanted, last = list(islice(by_hypervolume(members), best - better)), len(members) - 1
    return better + 1 + wanted.index(last) if last in wanted else best + 1


def by_hypervolume(points: np.ndarray) -> Iterator[int]:
    """Rows of ``points`` [n, m], a front in [0, 1] with m <= 3, best first; of equals the lower row first.

    Next is always the point that raises the hypervolume of those taken most, from the reference 1.1. A gain only
    shrinks as others are taken, so an old one is a bound, and a point whose gain is up to date and still the largest
    needs no look at the rest (Minoux 1978, "Accelerated greedy algorithms").
    """
    points, reference = np.rint(points * STEPS), np.full(points.shape[1], REFERENCE)
    boxes = (REFERENCE - points).prod(axis=1)
    taken: list[int] = []
    heap = [(-box, row, 0) for row, box in enumerate(boxes)]  # the 0: how many were taken when the gain was that
    heapify(heap)
    while heap:
        _, row, then = heap[0]
        if then == len(taken):
            taken.append(row)
            heappop(heap)
            yield row
        else:
            shared = hypervolume(np.maximum(points[taken], points[row]), reference)
            heapreplace(heap, (shared - boxes[row], row, len(taken)))
