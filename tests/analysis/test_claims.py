"""What is claimed of configurations: against formulas worked by hand, and where too little is known to claim it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from analysis import claims as module
from analysis.claims import DRAWS, Claims, claims, image_shift
from analysis.labels import claim
from analysis.predictions import Predictions, of_trial
from analysis.results import Search
from tests.analysis.handmade import OBJECTIVES, search, trial
from trainables import logits

SIGMA = 1.4826 / math.sqrt(2)  # of a single training, where none was repeated, in median absolute deviations


def single(*points: tuple[float, float], on_front: tuple[int, ...] = (), **columns) -> Search:
    """A search of single trainings with the objectives ``points``; ``columns`` have a value a trial."""
    return search(
        *(
            trial(
                number,
                val_accuracy=accuracy,
                val_delta_f1=delta,
                on_front=number in on_front,
                **{name: values[number] for name, values in columns.items()},
            )
            for number, (accuracy, delta) in enumerate(points)
        )
    )


def spread_of(values: list[float]) -> float:
    return float(np.median(np.abs(np.array(values) - np.median(values))))


# ------------------------------------------------------------------------------------------------ chances


def test_who_clearly_dominates_is_on_the_front_for_sure_and_who_is_dominated_never():
    crowd = [(0.7 + i / 1000, 0.3 - i / 1000) for i in range(10)]
    rows = claims(single((0.9, 0.1), *crowd, (0.5, 0.5))).rows
    assert rows["chance"].tolist() == [1.0] + [0.0] * 11


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.1])
def test_the_chance_of_two_is_that_of_not_being_dominated(gap):
    """Others that break a constraint make the spread, but no front: B dominates A when it is better in both of two
    independent normal differences."""
    crowd = [(0.7 + i / 100, 0.3 - i / 100) for i in range(-10, 11)]
    points = [(0.7 + gap, 0.3), (0.7, 0.3 - gap / 2), *crowd]
    rows = claims(single(*points, feasible=[True] * 2 + [False] * len(crowd))).rows
    sigma = [SIGMA * spread_of([point[i] for point in points]) * math.sqrt(2) for i in (0, 1)]
    ahead = (rows.loc[0, "val_accuracy_claimed"] - rows.loc[1, "val_accuracy_claimed"]) / sigma[0]
    behind = (rows.loc[0, "val_delta_f1_claimed"] - rows.loc[1, "val_delta_f1_claimed"]) / sigma[1]
    first, second = 1 - norm.cdf(-ahead) * norm.cdf(behind), 1 - norm.cdf(ahead) * norm.cdf(-behind)
    luck = 3.5 * math.sqrt(0.25 / DRAWS)
    assert rows["chance"][:2].tolist() == pytest.approx([first, second], abs=luck)
    assert (rows["chance"][2:] == 0).all()
    assert rows.loc[0, "val_accuracy_claimed"] - rows.loc[1, "val_accuracy_claimed"] == pytest.approx(gap / 2)


def test_one_of_the_configurations_is_always_on_the_front_and_the_better_ones_more_often():
    rng = np.random.default_rng(0)
    points = [(a, 0.3) for a in np.sort(rng.normal(0.7, 0.05, 12))]
    rows = claims(single(*points)).rows
    assert rows["chance"].sum() >= 1 and rows["chance"].between(0, 1).all()
    one = replace(single(*points), objectives=["val_accuracy"], directions=["maximize"])
    assert claims(one).rows["chance"].sum() == pytest.approx(1)  # of one objective, exactly one is the best
    assert np.corrcoef(range(12), claims(one).rows["chance"])[0, 1] > 0.7


def test_what_breaks_a_constraint_has_no_chance_and_is_not_eligible():
    points = [(0.9, 0.1), (0.8, 0.2), (0.7, 0.3), (0.6, 0.4), (0.75, 0.15)]
    for feasible in (
        pd.Series([False, True, True, None, True], dtype=object),
        pd.array([False, True, True, None, True]),
    ):
        of = single(*points)
        of.trials["feasible"] = feasible
        rows = claims(of).rows
        assert rows["feasible"].tolist() == rows["eligible"].tolist() == [False, True, True, True, True]
        assert rows.loc[0, "chance"] == 0 and rows.loc[1, "chance"] > 0.3
    nothing = claims(single(*points, feasible=[False] * 5))
    assert (nothing.rows["chance"] == 0).all() and not nothing.rows["eligible"].any()
    assert nothing.front.empty and nothing.verdict() == [] and nothing.bands() == []
    without = single(*points)
    without = replace(without, trials=without.trials.drop(columns="feasible"))
    assert claims(without).rows["eligible"].all()


# ------------------------------------------------------------------------------------------------ values, intervals


def test_value_and_interval_are_those_of_the_formula():
    """Trials 0 … 4 once, trial 0's configuration three times, trial 1's twice."""
    accuracy = {0: [0.9, 0.8, 0.85], 1: [0.7, 0.8], 2: [0.6], 3: [0.5], 4: [0.65]}
    rows = [trial(n, val_accuracy=values[0], val_delta_f1=0.1 * n) for n, values in accuracy.items()]
    rows += [
        trial(5, val_accuracy=0.8, val_delta_f1=0.0, repeats=0),
        trial(6, val_accuracy=0.85, val_delta_f1=0.0, repeats=0),
    ]
    rows += [trial(7, val_accuracy=0.8, val_delta_f1=0.1, repeats=1)]
    of = claims(search(*rows)).rows
    means = [0.85, 0.75, 0.6, 0.5, 0.65]
    spread = (1.4826 * 0.10) ** 2  # of the distances 0.2, 0.1, 0.05, 0.15, 0 to the median 0.65
    noise = (4 * 0.5 * spread + 0.005 + 0.005) / (4 + 2 + 1)
    own = spread - noise * (1 / 3 + 1 / 2 + 3) / 5
    counts = np.array([3, 2, 1, 1, 1])
    share = own / (own + noise / counts)
    assert of["trainings"].tolist() == counts.tolist()
    assert of["val_accuracy"].tolist() == pytest.approx(means)
    assert of["val_accuracy_claimed"].tolist() == pytest.approx((0.65 + share * (np.array(means) - 0.65)).tolist())
    halves = student.ppf(0.975, 4 + counts - 1) * np.sqrt(noise / counts)
    assert of["val_accuracy_half"].tolist() == pytest.approx(halves.tolist())
    assert not of["with_images"].any()


def test_few_that_were_repeated_know_of_their_luck():
    rows = [trial(0, val_accuracy=0.9, val_delta_f1=0.3), trial(1, val_accuracy=0.8, val_delta_f1=0.1)]
    made = claims(search(*rows, trial(2, val_accuracy=0.8, val_delta_f1=0.3, repeats=0)))
    assert made.known and made.rows["val_accuracy_claimed"].tolist() == pytest.approx([0.85, 0.8])
    assert made.rows["val_accuracy_half"].tolist() == pytest.approx(
        [student.ppf(0.975, 1) * math.sqrt(0.005 / n) for n in (2, 1)]
    )
    assert made.rows["chance"].gt(0.5).all() and made.rows["chance"].lt(1.01).all()


def test_fewer_than_four_are_claimed_as_measured_and_nothing_is_said_of_their_luck():
    made = claims(single((0.9, 0.1), (0.8, 0.2), (0.7, 0.0), on_front=(0, 2)))
    assert not made.known and made.verdict() == [] and made.rows["eligible"].all()
    assert made.rows["val_accuracy_claimed"].tolist() == [0.9, 0.8, 0.7]
    assert made.rows[["val_accuracy_half", "val_delta_f1_half", "chance"]].isna().all(axis=None)
    assert made.front["number"].tolist() == [0, 2]
    assert claims(single((0.9, 0.1), (0.8, 0.2), (0.7, 0.0), (0.6, 0.3))).known


@pytest.mark.parametrize("of", [search(), search(trial(0, status="stopped"), trial(1, status="running"))])
def test_a_search_without_a_complete_trial_claims_nothing(of):
    made = claims(of)
    assert made.rows.empty and made.front.empty and not made.known and made.verdict() == [] and made.bands() == []
    columns = {"val_accuracy_claimed", "val_delta_f1_half", "eligible", "chance", "with_images", "trainings"}
    assert columns <= set(made.rows)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_configuration_without_a_finite_objective_is_left_out(odd):
    made = claims(single((0.9, 0.1), (0.99, odd), (0.7, 0.3), (0.6, 0.2), (0.5, 0.5)))
    assert made.rows["number"].tolist() == [0, 2, 3, 4] and made.rows.index.tolist() == [0, 1, 2, 3]
    assert np.isfinite(made.draws).all() and np.isfinite(made.rows["val_delta_f1_half"]).all()


def test_three_objectives_have_a_value_and_an_interval_each():
    objectives = OBJECTIVES | {"val_loss": "minimize"}
    rows = [trial(i, val_accuracy=0.7 + i / 50, val_delta_f1=0.2 + i / 30, val_loss=1.0 - i / 10) for i in range(6)]
    made = claims(search(*rows, objectives=objectives))
    assert made.draws.shape == (DRAWS, 6, 3)
    assert np.isfinite(made.rows[[f"{name}_half" for name in objectives]]).all(axis=None)
    assert made.rows["val_loss_claimed"].is_monotonic_decreasing


def test_where_nothing_differs_nothing_is_luck():
    made = claims(single(*[(0.5, 0.5)] * 5, on_front=tuple(range(5))))
    assert made.rows["val_accuracy_half"].tolist() == [0.0] * 5 and made.rows["chance"].tolist() == [1.0] * 5
    assert made.bands() == [[0, 1, 2, 3, 4]]


def test_the_same_search_claims_the_same():
    points = [(0.9, 0.1), (0.8, 0.2), (0.7, 0.0), (0.6, 0.3)]
    first, second = claims(single(*points)), claims(single(*points))
    pd.testing.assert_frame_equal(first.rows, second.rows)
    assert (first.draws == second.draws).all()


# ------------------------------------------------------------------------------------------------ images

IMAGES = 400


def kept(folder: Path, *right: np.ndarray, classes: int = 2, **columns) -> Search:
    """A search of single trainings that has kept the logits of each: ``right`` says of each image whether the trial is
    right about it."""
    rng = np.random.default_rng(5)
    label, group = rng.integers(0, classes, len(right[0])), rng.integers(0, 2, len(right[0]))
    logits.keep_images(folder, label, group)
    rows = []
    for number, each in enumerate(right):
        table = 3.0 * np.eye(classes)[np.where(each, label, (label + 1) % classes)]
        logits.save(folder, number, logits.half(table))
        measured = Predictions(logits.half(table), label, group, 2).metrics
        rows.append(trial(number, **measured, **{name: values[number] for name, values in columns.items()}))
    return replace(search(*rows), folder=folder)


def shares(*accuracies: float) -> list[np.ndarray]:
    """The first of the images right, as many as the accuracy says."""
    return [np.arange(IMAGES) < round(IMAGES * accuracy) for accuracy in accuracies]


def test_the_interval_has_the_images_too(tmp_path):
    """Accuracy on n images drawn anew has the variance p (1 - p) / n; it adds to that of the seeds."""
    accuracies = [0.90, 0.89, 0.88, 0.87, 0.86]
    rows = claims(kept(tmp_path, *shares(*accuracies))).rows
    assert rows["with_images"].all()
    seeds = (SIGMA * spread_of(accuracies)) ** 2
    for accuracy, half in zip(accuracies, rows["val_accuracy_half"]):
        images = accuracy * (1 - accuracy) / IMAGES
        freedom = (seeds + images) ** 2 / (seeds**2 / 4)
        assert half == pytest.approx(student.ppf(0.975, freedom) * math.sqrt(seeds + images), rel=0.1)
        assert half > 1.05 * student.ppf(0.975, 4) * math.sqrt(seeds)


def test_the_images_move_the_mean_over_trainings_as_they_move_each(tmp_path):
    of = kept(tmp_path, *shares(0.9, 0.6))
    for numbers in ([0], [1], [0, 1]):
        shift = image_shift(of, numbers)
        draws = [of_trial(of, number).draws(DRAWS) for number in numbers]
        for i, name in enumerate(of.objectives):
            expected = np.mean([each[name] - each[name].mean() for each in draws], axis=0)
            assert shift[:, i] == pytest.approx(expected) and abs(shift[:, i].mean()) < 1e-12
    assert image_shift(of, [0, 7]) is None  # of trial 7 nothing is kept


def test_a_search_without_logits_claims_of_other_seeds_alone():
    older = single((0.9, 0.1), (0.8, 0.2), (0.7, 0.3), (0.6, 0.4), on_front=(0,))
    older = replace(older, settings={**older.settings, "format": 3})
    made = claims(older)
    assert not made.rows["with_images"].any() and np.isfinite(made.rows["val_accuracy_half"]).all()
    assert made.luck == "other seeds" and "with other seeds they" in made.verdict()[0]


def test_a_configuration_with_one_training_that_was_not_kept_is_claimed_without_images(tmp_path):
    of = kept(tmp_path, *shares(0.90, 0.89, 0.88, 0.87, 0.86), on_front=[True] * 2 + [False] * 3)
    assert claims(of).luck == "other seeds and images"
    logits.drop(tmp_path, 1)
    made = claims(replace(of))
    assert made.rows["with_images"].tolist() == [True, False, True, True, True] and made.luck == "other seeds"
    assert made.rows.loc[1, "val_accuracy_half"] < made.rows.loc[0, "val_accuracy_half"]


# ------------------------------------------------------------------------------------------------ told apart


def test_equal_predictions_cannot_be_told_apart_and_far_ones_can(tmp_path):
    made = claims(kept(tmp_path, *shares(0.9, 0.9, 0.3, 0.88, 0.89, 0.87, 0.91)))
    assert not made.told_apart(0, 1) and made.told_apart(0, 2) and made.told_apart(2, 0)


def test_what_images_share_cancels_where_configurations_are_compared(tmp_path):
    """Intervals overlap, but one is right wherever the other is, and on 30 of 400 images more. The crowd differs by so
    little that seeds explain nothing."""
    crowd = [np.arange(IMAGES) < 200 + i % 2 for i in range(12)]
    made = claims(kept(tmp_path, *shares(0.64, 0.50), *crowd))
    low, high = made.rows.loc[1], made.rows.loc[0]
    assert (
        low["val_accuracy_claimed"] + low["val_accuracy_half"]
        > high["val_accuracy_claimed"] - high["val_accuracy_half"]
    )
    assert made.told_apart(0, 1)


def test_neighbours_that_cannot_be_told_apart_share_a_band():
    crowd = [(0.5 + i / 1000, 0.9 - i / 1000) for i in range(20)]
    front = [(0.95, 0.5), (0.949, 0.499), (0.8, 0.3), (0.6, 0.1), (0.5995, 0.0998), (0.5992, 0.0997)]
    made = claims(single(*front, *crowd, on_front=tuple(range(6))))
    assert made.front["number"].tolist() == [0, 1, 2, 3, 4, 5]
    assert made.bands() == [[0, 1], [2], [3, 4, 5]]
    assert made.verdict()[1] == "neighbours that cannot be told apart: trials 0 and 1; trials 3, 4 and 5"
    assert made.sentences()[1] == "Neighbours that cannot be told apart: trials 0 and 1; trials 3, 4 and 5."


def test_the_front_is_listed_best_first_whatever_the_direction():
    points = [(0.7, 0.2), (0.9, 0.4), (0.8, 0.3), (0.8, 0.3), (0.5, 0.9)]
    assert claims(single(*points, on_front=(0, 1, 2, 3))).front["number"].tolist() == [1, 2, 3, 0]
    turned = replace(single(*points, on_front=(0, 1, 2, 3)), directions=["minimize", "maximize"])
    assert claims(turned).front["number"].tolist() == [0, 2, 3, 1]


# ------------------------------------------------------------------------------------------------ in words


def test_the_verdict_counts_those_that_stand():
    crowd = [(0.5 + i / 1000, 0.9 - i / 1000) for i in range(20)]
    luck = "with other seeds they would be on it more often than not"
    clear = claims(single((0.9, 0.4), (0.7, 0.1), *crowd, on_front=(0, 1)))
    assert clear.verdict() == [f"2 of 2 points of the front stand: {luck}"]
    alone = claims(single((0.9, 0.1), *crowd, on_front=(0,)))
    assert alone.verdict() == [f"1 of 1 points of the front stand: {luck}"]


def test_a_front_that_is_luck_alone_leaves_no_choice():
    rng = np.random.default_rng(2)
    points = list(zip(rng.normal(0.7, 0.02, 30), rng.normal(0.3, 0.02, 30)))
    order = np.argsort(points, axis=0)[:, 0]
    members, least = [], math.inf
    for number in reversed(order):  # by accuracy, best first: on the front is who has less ΔF1 than all before
        if points[number][1] < least:
            members, least = [*members, int(number)], points[number][1]
    made = claims(single(*points, on_front=tuple(members)))
    standing = int((made.front["chance"] >= 0.5).sum())
    assert made.front["number"].tolist() == members and standing < len(members) / 2
    assert made.verdict()[0].startswith(f"{standing} of {len(members)} points of the front stand: ")
    assert len(made.bands()) == 1
    apart = [made.told_apart(i, j) for i in made.front.index for j in made.front.index if i < j]
    whole = "no two of its points can be told apart: choose by what else matters"
    listed = f"neighbours that cannot be told apart: trials {', '.join(map(str, members[:-1]))} and {members[-1]}"
    assert made.verdict()[1] == (listed if any(apart) else whole)


def test_no_two_is_said_only_where_it_holds_of_any_two(monkeypatch):
    """The ends of a chain are alike in this case, but one in the middle is far from an end."""
    made = claims(single((0.9, 0.4), (0.8, 0.3), (0.7, 0.2), (0.6, 0.1), on_front=(0, 1, 2, 3)))
    rng = np.random.default_rng(0)
    steps = np.array([[0.0, 0.0], [1.5, 0.0], [3.0, 0.0], [1.5, 0.0]])
    chain = Claims(made.search, made.rows, steps + rng.normal(0, 0.7, (DRAWS, 4, 2)), np.full((4, 2), 1e6))
    assert not chain.told_apart(0, 3) and chain.told_apart(0, 2) and len(chain.bands()) == 1
    assert chain.verdict()[1] == "neighbours that cannot be told apart: trials 0, 1, 2 and 3"
    alike = Claims(made.search, made.rows, steps * 0 + chain.draws - steps, np.full((4, 2), 1e6))
    assert alike.verdict()[1] == "no two of its points can be told apart: choose by what else matters"


def test_a_value_is_written_with_its_interval_where_there_is_one():
    assert claim(0.78412, 0.0191) == "0.784 ± 0.019" and claim(0.78412, math.nan) == "0.7841"
    assert claim(12.3456, 0.5, digits=1) == "12.3 ± 0.5"


# ------------------------------------------------------------------------------------------------ eligible


def test_a_repeated_configuration_makes_single_ones_ineligible_where_the_search_repeats_by_itself():
    points = [(0.95, 0.1), (0.9, 0.2), (0.85, 0.15), (0.6, 0.6)]
    rows = [trial(i, val_accuracy=a, val_delta_f1=d, feasible=i != 3) for i, (a, d) in enumerate(points)]
    again = [
        trial(4, val_accuracy=0.9, val_delta_f1=0.2, repeats=1),
        trial(5, val_accuracy=0.6, repeats=3, feasible=False),
    ]
    assert claims(search(*rows, reseed=0.25)).rows["eligible"].tolist() == [True, True, True, False]
    assert claims(search(*rows, *again, reseed=0.25)).rows["eligible"].tolist() == [False, True, False, False]
    assert claims(search(*rows, *again, reseed=0.0)).rows["eligible"].tolist() == [True, True, True, False]
    assert claims(search(*rows, again[1], reseed=0.25)).rows["eligible"].tolist() == [True, True, True, False]
    unfinished = [again[0] | {"status": "running"}]
    assert claims(search(*rows, *unfinished, reseed=0.25)).rows["eligible"].tolist() == [True, True, True, False]


def test_a_second_training_that_collapses_takes_its_configuration_out():
    rows = [trial(i, val_accuracy=0.7 + i / 50, val_delta_f1=0.2) for i in range(5)]
    made = claims(search(*rows, trial(5, status="collapsed", repeats=4), reseed=0.25))
    assert made.rows["number"].tolist() == [0, 1, 2, 3]


def test_hopeless_configurations_are_claimed_without_drawing_images(tmp_path):
    """So that a search of thousands is claimed in time: below a chance of ``HOPELESS`` over seeds."""
    of = kept(tmp_path, *shares(0.90, 0.895, 0.89, 0.885, 0.88, 0.3))
    rows = claims(of).rows
    assert rows["with_images"].tolist() == [True] * 5 + [False] and rows.loc[5, "chance"] < module.HOPELESS
