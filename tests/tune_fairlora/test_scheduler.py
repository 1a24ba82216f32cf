"""Which trials are stopped: the rule against its definition written naively, and what must hold of any such rule."""

import math
from fractions import Fraction
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.config import ConfigError
from tune_fairlora.algorithms.scheduler import Decision, MultiObjectiveAsha, by_hypervolume

SIGN = {"val_accuracy": -1, "val_delta_f1": 1, "val_loss": 1}
NAMES = tuple(SIGN)
GUESS = 0.125  # with recalls in sixteenths, every floor below is exact
BUDGET = 9
FEW = settings(max_examples=60, deadline=None)


def asha(objectives=NAMES[:2], **options) -> MultiObjectiveAsha:
    return MultiObjectiveAsha(objectives, **{"guess": GUESS, "grace_period": 1, "reduction_factor": 3, **options})


def measured(costs, recall, names=NAMES) -> dict[str, float]:
    """Metrics whose objectives, turned to be minimised, are ``costs``."""
    return {name: SIGN[name] * float(cost) for name, cost in zip(names, costs)} | {"val_mean_recall": float(recall)}


def decisions(scheduler, trials) -> list[Decision]:
    return [scheduler.report(i, 1, BUDGET, measured(costs, recall)) for i, (costs, recall) in enumerate(trials)]


def last(trials, **options) -> Decision:
    return decisions(asha(NAMES[: len(trials[0][0])], **options), trials)[-1]


def dominates(p, q) -> bool:
    return all(a <= b for a, b in zip(p, q)) and any(a < b for a, b in zip(p, q))


# The rule again, by its definition: every trial of the rung gets its own position, in exact arithmetic.


def naive_fronts(costs):
    left, fronts = list(range(len(costs))), []
    while left:
        fronts.append([i for i in left if not any(dominates(costs[j], costs[i]) for j in left)])
        left = [i for i in left if i not in fronts[-1]]
    return fronts


def naive_grid(costs):
    """Whole steps of 1/100000 of each objective's range."""
    columns = [[Fraction(value) for value in column] for column in zip(*costs)]
    ranges = [(min(column), max(column) - min(column) or Fraction(1)) for column in columns]
    return [tuple(round((value - low) / width * 100_000) for value, (low, width) in zip(row, ranges)) for row in costs]


def naive_volume(points):
    """Slab by slab along the last objective, up to 1.1."""
    if not points:
        return 0
    if len(points[0]) == 1:
        return 110_000 - min(points)[0]
    levels = [*sorted({p[-1] for p in points}), 110_000]
    return sum((high - low) * naive_volume([p[:-1] for p in points if p[-1] <= low]) for low, high in pairwise(levels))


def naive_hypervolume(points):
    taken = []
    while len(taken) < len(points):
        left = [i for i in range(len(points)) if i not in taken]
        taken.append(max(left, key=lambda i: naive_volume([points[j] for j in [*taken, i]])))  # max: first of equals
    return taken


def naive_decision(trials, reduction_factor, floor) -> Decision:
    """On the last of ``trials``, all at the first epoch."""
    n, best = len(trials), math.ceil(len(trials) / reduction_factor)
    if n < reduction_factor:
        return Decision(True, f"kept at epoch 1: {n} of the {reduction_factor} trials that a comparison takes")
    median = float(np.median([recall for _, recall in trials]))
    lowest = max(GUESS, GUESS + floor * (median - GUESS)) if floor else 0
    if trials[-1][1] < lowest:
        why = f"val_mean_recall {trials[-1][1]:.4f} is under the floor {lowest:.4f}"
        return Decision(False, f"stopped at epoch 1: {why}")
    costs = [costs for costs, recall in trials if recall >= lowest]
    me, better, grid = len(costs) - 1, 0, naive_grid(costs)
    for members in naive_fronts(costs):
        if me in members:
            position = better + 1 + naive_hypervolume([grid[i] for i in members]).index(members.index(me))
            split = better < best < better + len(members)
            place = min(position, best + 1) if split else better + 1  # what nothing tells apart shares a place
            keep = position <= best
            return Decision(
                keep, f"{'kept' if keep else 'stopped'} at epoch 1: place {place} of {n}, keeps best {best}"
            )
        better += len(members)


def naive_decisions(trials, **options) -> list[Decision]:
    return [naive_decision(trials[: i + 1], **options) for i in range(len(trials))]


@st.composite
def rungs(draw, objectives=(1, 3), max_size=14):
    """Trials (costs, recall) with many ties; half of the rungs trade their objectives off and have long fronts."""
    m = draw(st.integers(*objectives))
    values, recalls = st.integers(0, draw(st.sampled_from([0, 1, 3, 8]))), st.integers(0, 16).map(lambda i: i / 16)
    rows = draw(st.lists(st.tuples(st.tuples(*[values] * m), recalls), min_size=1, max_size=max_size))
    if m > 1 and draw(st.booleans()):
        rows = [((*costs[:-1], 20 - sum(costs[:-1]) + costs[-1] // 4), recall) for costs, recall in rows]
    return rows


OPTIONS = st.fixed_dictionaries(
    {
        "reduction_factor": st.integers(2, 4),
        "floor": st.sampled_from([0, 0.25, 0.5, 1]),
    }
)


@given(rungs(), OPTIONS)
@settings(max_examples=250, deadline=None)
def test_every_decision_is_that_of_the_definition(trials, options):
    assert decisions(asha(NAMES[: len(trials[0][0])], **options), trials) == naive_decisions(trials, **options)


@pytest.mark.parametrize("m", [2, 3])
def test_long_fronts_and_unlike_scales_too(m):
    rng = np.random.default_rng(m)
    costs = rng.dirichlet(np.ones(m), size=45) * (1 + 0.3 * rng.random((45, 1))) * [1, 1e4, 1e-3][:m] + 5
    trials = [(tuple(row), recall) for row, recall in zip(costs.tolist(), rng.integers(4, 16, size=45) / 16)]
    options = {"reduction_factor": 2, "floor": 0.5}
    found = decisions(asha(NAMES[:m], **options), trials)
    assert found == naive_decisions(trials, **options)
    assert {decision.keep for decision in found} == {True, False}


# Syne Tune's rule (MOASHA, 2024) read sorted indices as ranks and stopped such trials more often than not.
@given(rungs(), OPTIONS, st.data())
@FEW
def test_a_trial_that_dominates_all_is_never_stopped(trials, options, data):
    best = [min(column) for column in zip(*(costs for costs, _ in trials))]
    better = data.draw(st.integers(0, len(best) - 1))  # in this objective alone: elsewhere it may tie with the best
    best[better] -= 1
    sound = max(GUESS, *(recall for _, recall in trials))
    assert last([*trials, (tuple(best), sound)], **options).keep


@given(rungs(max_size=8), OPTIONS)
@FEW
def test_no_trial_is_stopped_where_one_that_it_dominates_would_be_kept(trials, options):
    trials = [(costs, 0.5) for costs, _ in trials]
    kept = [last([*trials[:i], *trials[i + 1 :], trials[i]], **options).keep for i in range(len(trials))]
    for i, (p, _) in enumerate(trials):
        assert kept[i] or not any(kept[j] and dominates(p, q) for j, (q, _) in enumerate(trials))


# The same three numbers in any order: sums and volumes tie up to rounding, which must not decide.
TIED = st.lists(st.permutations([0.1, 0.3, 0.7]) | st.permutations([0.2, 0.2, 0.7]), min_size=3, max_size=14)


@given(rungs((2, 3)) | TIED.map(lambda rows: [(tuple(row), 0.5) for row in rows]), OPTIONS)
@FEW
def test_the_order_of_the_objectives_changes_nothing(trials, options):
    names = NAMES[: len(trials[0][0])]
    expected, *others = (decisions(asha(order, **options), trials) for order in permutations(names))
    assert all(found == expected for found in others)


def test_nor_does_it_on_points_that_tie_up_to_rounding():
    rng = np.random.default_rng(0)
    for _ in range(20):
        triples = rng.random((3, 3)).round(3)
        rows = [tuple(rng.permutation(triples[i]).tolist()) for i in rng.integers(3, size=16)]
        found = [decisions(asha(order), [(row, 0.5) for row in rows]) for order in permutations(NAMES)]
        assert all(other == found[0] for other in found)


@pytest.mark.parametrize(
    "points, order",
    [
        ([(0, 1), (0.4, 0.4), (1, 0)], [1, 0, 2]),
        # (0.1, 0.5) covers 0.6 and (0.5, 0.2) 0.54; then 0.18 more and (0, 1) 0.05 more, (1, 0) 0.05.
        ([(0, 1), (0.5, 0.2), (1, 0), (0.1, 0.5)], [3, 1, 2, 0]),
        ([(0.5, 0.5), (0.5, 0.5), (0, 1), (0.5, 0.5), (1, 0)], [0, 2, 4, 1, 3]),
        ([(0.0,), (0.0,)], [0, 1]),
    ],
)
def test_the_spread_by_hand(points, order):
    assert list(by_hypervolume(np.array(points, float))) == order


def test_what_is_said():
    scheduler = asha(grace_period=2)
    said = [
        scheduler.report(i, 2, 20, measured(costs, recall)).text
        for i, (costs, recall) in enumerate(
            [((4, 4), 0.5), ((3, 3), 0.5), ((5, 5), 0.5), ((1, 1), 0.5), ((0, 0), 0.25), ((4, 3), 0.5), ((2, 2), 0.5)]
        )
    ]
    assert said == [
        "kept at epoch 2: 1 of the 3 trials that a comparison takes",
        "kept at epoch 2: 2 of the 3 trials that a comparison takes",
        "stopped at epoch 2: place 3 of 3, keeps best 1",
        "kept at epoch 2: place 1 of 4, keeps best 2",
        "stopped at epoch 2: val_mean_recall 0.2500 is under the floor 0.3125",
        "stopped at epoch 2: place 3 of 6, keeps best 2",
        "kept at epoch 2: place 2 of 7, keeps best 3",
    ]


def test_a_collapsed_model_is_stopped_and_pushes_no_sound_one_out():
    """It guesses: accuracy and mean recall 1/8, and a perfect ΔF1 of 0. No trial dominates it."""
    fair, collapsed, better = ((-0.8, 0.3), 0.8125), ((-0.125, 0.0), 0.125), ((-0.85, 0.3), 0.8125)
    assert last([fair, better, collapsed]) == Decision(
        False, "stopped at epoch 1: val_mean_recall 0.1250 is under the floor 0.4688"
    )
    # It came while two were too few to tell. It fills one of three places and takes none of those that go on.
    assert last([fair, collapsed, better]).keep
    assert not last([fair, collapsed, better], floor=0).keep
    assert last([fair, better, collapsed], floor=0).text == "stopped at epoch 1: place 2 of 3, keeps best 1"
    # Three collapsed and six sound: the best three of the sound go on.
    sound = [((i, i), 0.75) for i in range(6)]
    kept = [last([*[collapsed] * 3, *sound[:i], *sound[i + 1 :], sound[i]]).keep for i in range(6)]
    assert kept == [True] * 3 + [False] * 3


def test_the_floor_is_inclusive_and_never_below_a_guess_and_takes_three_to_know():
    at = [((i, i), recall) for i, recall in enumerate((0.625, 0.625, 0.375))]
    assert "place 3" in last(at).text
    assert "under the floor 0.3750" in last([*at[:2], ((0, 0), 0.3749)]).text
    assert "under the floor 0.1250" in last([((i, i), 0.0625) for i in range(3)]).text
    assert last([((0, 0), 0.0)]).keep and last([((0, 0), 0.9), ((1, 1), 0.0)]).keep


@pytest.mark.parametrize("classes, recall", [(73, 0.6897629306908964), (189, 0.7239902540931332), (10, 0.3)])
@pytest.mark.parametrize("floor", [0.3, 0.9, 1])
def test_rounding_puts_no_floor_over_a_rung_of_equals(classes, recall, floor):
    """1 / 73 + (0.6897629306908964 - 1 / 73) is 0.6897629306908966."""
    found = decisions(asha(guess=1 / classes, floor=floor), [((0, 0), recall)] * 5)
    assert not any("floor" in decision.text for decision in found)


def test_rungs_lie_below_the_budget():
    assert asha().rungs(9) == (1, 3)
    assert asha().rungs(10) == (1, 3, 9)
    assert asha().rungs(1) == ()
    assert asha(grace_period=2, reduction_factor=2).rungs(9) == (2, 4, 8)


def test_by_default_the_first_rung_is_the_second_epoch_and_a_quarter_goes_on():
    scheduler = MultiObjectiveAsha(NAMES[:2], guess=GUESS)
    assert scheduler.rungs(33) == (2, 8, 32)
    said = [scheduler.report(i, 2, 33, measured((i, i), 0.5)).text for i in range(5)]
    assert "3 of the 4" in said[2] and "keeps best 1" in said[3] and "keeps best 2" in said[4]


def test_a_rung_of_hundreds_of_trials_forgets_none():
    rng = np.random.default_rng(0)
    trials = [((value,), recall) for value, recall in zip(rng.permutation(200), rng.integers(4, 16, 200) / 16)]
    options = {"reduction_factor": 3, "floor": 0.5}
    scheduler = asha(NAMES[:1], **options)
    found = decisions(scheduler, trials)
    assert found == naive_decisions(trials, **options)
    assert decisions(scheduler, trials) == found  # each as it was when the trial arrived


def test_a_rung_is_an_exact_epoch_of_one_budget():
    scheduler = asha()
    for number in range(4):
        for epoch in (0, 2, 4, 9, 10):
            assert scheduler.report(number, epoch, 9, measured((0, 0), 0.5)) is None
        assert "1 of the 3" in asha().report(number, 1, 9, measured((0, 0), 0.5)).text
        assert f"{number + 1} of" in scheduler.report(number, 1, 9, measured((number, 0), 0.5)).text
    assert "1 of the 3" in scheduler.report(9, 3, 9, measured((5, 5), 0.5)).text
    assert "1 of the 3" in scheduler.report(9, 1, 27, measured((5, 5), 0.5)).text
    assert "place 5 of 5" in scheduler.report(9, 1, 9, measured((5, 5), 0.5)).text


def test_a_second_report_of_a_rung_gives_the_first_answer_and_records_nothing():
    scheduler = asha()
    trials = [((i, i), 0.5) for i in (5, 4, 6, 3, 2, 1, 7)]
    first = decisions(scheduler, trials)
    assert decisions(scheduler, [((0, 0), 0.5)] * len(trials)) == first  # better by now, but it was judged on the first
    assert "of 8," in scheduler.report(7, 1, BUDGET, measured((9, 9), 0.5)).text
    assert scheduler.report(0, 1, BUDGET, measured((math.nan, 0), 0.5)) == first[0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["val_accuracy", "val_delta_f1", "val_mean_recall"])
def test_a_number_that_is_not_finite_is_not_recorded(name, wrong):
    scheduler, good = asha(), measured((0, 0), 0.5)
    assert scheduler.report(0, 1, BUDGET, {**good, name: wrong}) is None
    assert scheduler.report(0, 1, BUDGET, {k: v for k, v in good.items() if k != name}) is None
    scheduler.replay(0, 1, BUDGET, {**good, name: wrong})
    assert scheduler.report(1, 1, BUDGET, {**good, "val_loss": wrong}).text.startswith("kept at epoch 1: 1 of")
    assert scheduler.report(0, 1, BUDGET, good).text.startswith("kept at epoch 1: 2 of")


@given(rungs((2, 2)), OPTIONS, st.data())
@FEW
def test_a_replay_restores_the_state(trials, options, data):
    """Of a search that was interrupted after any report, over two rungs and two budgets."""
    logged = [
        (number, epoch, budget, measured(costs, recall))
        for number, (costs, recall) in enumerate(trials)
        for budget in [data.draw(st.sampled_from([6, 20]))]
        for epoch in range(1, 5)
    ]
    cut = data.draw(st.integers(0, len(logged)))
    whole, resumed = asha(**options), asha(**options)
    expected = [whole.report(*entry) for entry in logged]
    assert [resumed.replay(*entry) for entry in logged[:cut]] == [None] * cut
    assert [resumed.report(*entry) for entry in logged[cut:]] == expected[cut:]
    assert [resumed.report(*entry) for entry in logged] == expected


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"reduction_factor": 1}, "`reduction_factor >= 2` must hold, but got reduction_factor=1"),
        ({"grace_period": 0}, "`grace_period >= 1` must hold, but got grace_period=0"),
        ({"guess": 0}, "`0 < guess < 1` must hold, but got guess=0"),
        ({"guess": 1.0}, "`0 < guess < 1` must hold, but got guess=1.0"),
        ({"guess": math.nan}, "`0 < guess < 1` must hold, but got guess=nan"),
        ({"floor": -0.1}, "`0 <= floor <= 1` must hold, but got floor=-0.1"),
        ({"floor": 1.1}, "`0 <= floor <= 1` must hold, but got floor=1.1"),
        ({"objectives": ()}, "objectives must be one to 3, each named once, but got []"),
        ({"objectives": ("val_loss",) * 2}, "each named once, but got ['val_loss', 'val_loss']"),
        ({"objectives": ("val_loss", "speed")}, "unknown objective 'speed'"),
        ({"objectives": (*NAMES, "val_min_f1")}, "objectives must be one to 3, each named once, but got"),
    ],
)
def test_bad_arguments_are_a_users_mistake(changed, message):
    with pytest.raises(ConfigError) as error:
        asha(**changed)
    assert message in str(error.value)
