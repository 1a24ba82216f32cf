"""Each rule chooses the trial that a reader of the table would, and says why with the table's numbers."""

import pandas as pd
import pytest

from analysis.pick import pick
from analysis.results import Search
from trainables.config import ConfigError

POINTS = [  # accuracy, ΔF1: a front of four (0 … 3), one dominated, one stopped, one that breaks a constraint
    (0.90, 0.60),
    (0.88, 0.20),
    (0.80, 0.15),
    (0.60, 0.14),
    (0.79, 0.16),
    (0.99, 0.01),
    (0.95, 0.05),
]
# Claimed of the complete ones, halfway to the medians (0.84, 0.155): (0.87, 0.3775), (0.86, 0.1775), (0.82, 0.1525),
# (0.72, 0.1475), (0.815, 0.1575), and of the last (0.895, 0.1025).


def search(points=POINTS, seeds: int = 1, reseed: float = 0.0, **columns) -> Search:
    trials = pd.DataFrame(points, columns=["val_accuracy", "val_delta_f1"])
    trials["number"], trials["status"], trials["feasible"] = range(len(trials)), "complete", True
    trials["config_id"], trials["seed"] = (trials["number"] // seeds).map("c{}".format), trials["number"] % seeds
    trials["method"], trials["on_front"] = "lora", False
    trials["val_min_recall"] = [0.5] * len(trials)
    if points is POINTS:
        trials.loc[5, "status"], trials.loc[6, "feasible"] = "stopped", False
        trials["feasible"] = trials["feasible"].astype(object)
        trials.loc[5, "feasible"] = None
    for name, values in columns.items():
        trials[name] = values
    shuffled = trials.sample(frac=1, random_state=0)
    objectives, directions = ["val_accuracy", "val_delta_f1"], ["maximize", "minimize"]
    return Search("s", objectives, directions, shuffled, pd.DataFrame(), seeds, {"reseed": reseed})


@pytest.mark.parametrize(
    ("rule", "number", "why"),
    [
        ("knee", 1, "the knee of the front, the deepest point below the plane through its extremes: val_accuracy 0.86"),
        ("accuracy", 0, "has the best val_accuracy (0.8700, more is better) of the 5 complete configurations; val_d"),
        ("fairness", 3, "has the best val_delta_f1 (0.1475, less is better) of the 5 complete configurations; "),
        ("val_accuracy>=0.818 then val_delta_f1", 2, "0.1525, less is better) of the 3 complete configurations with"),
        (" val_delta_f1 <= 0.16 then val_accuracy ", 2, "val_delta_f1<=0.16; val_delta_f1 is 0.1525"),
        ("val_min_recall<=0.5 then val_accuracy", 0, "of the 5 complete configurations"),  # the bound itself keeps it
        ("val_min_recall>=0.5 then val_delta_f1", 3, "of the 5 complete configurations"),
        ("val_accuracy>=0.865 then val_accuracy", 0, "of the 1 complete configurations"),
    ],
)  # fmt: skip
def test_each_rule_takes_its_point_and_tells_the_numbers(rule, number, why):
    choice = pick(search(), rule)
    assert choice.number == number and choice.why.startswith(f"trial {number} ")
    assert why in choice.why and "\n" not in choice.why


FAR = [(0.5 - i / 1000, 0.9 + i / 1000) for i in range(20)]  # dominated, and alike: beside them others differ by a lot


@pytest.mark.parametrize(
    ("n", "why"),
    [
        (1, "trial 0 is the only point of the front: val_accuracy "),
        (2, " has the larger gain in standard errors of the front's points: val_accuracy "),
    ],
)
def test_a_front_of_one_or_two_has_no_knee(n, why):
    assert why in pick(search([*POINTS[:n], *FAR]), "knee").why
    assert "is the knee" in pick(search([*POINTS[: n + 2], *FAR]), "knee").why
    assert why in pick(search([*POINTS[:n], *POINTS[:n], *FAR]), "knee").why  # equal points are one


def test_of_few_trained_once_the_knee_is_taken_and_nothing_said_of_errors():
    only = pick(search(POINTS[:1]), "knee").why
    assert only.startswith("trial 0 is the only point of the front: val_accuracy 0.9000")
    two = pick(search([POINTS[1], POINTS[0]]), "knee").why
    assert two.startswith("trial 0 is the first of the front's two points, and nothing is known of their luck: val_acc")
    assert "trial 1 is the knee" in pick(search(POINTS[:3]), "knee").why


@pytest.mark.parametrize(
    ("other", "number"), [((0.95, 0.28), 0), ((0.99, 0.25), 1), ((0.85, 0.1), 1), ((0.8, 0.15), 0)]
)
def test_of_two_points_the_one_is_taken_that_gains_more_standard_errors(other, number):
    """Both objectives have the same errors here, so that plain differences decide."""
    alike = [(0.5 + i / 100, 0.5 + i / 100) for i in range(20)]
    assert pick(search([(0.90, 0.20), other, *alike]), "knee").number == number


def test_where_no_two_points_can_be_told_apart_there_is_no_choice_to_make():
    points = [(0.80, 0.30), (0.79, 0.26), (0.77, 0.25), (0.70, 0.40), (0.85, 0.50), (0.60, 0.20)]
    of = search(points, on_front=[True] * 3 + [False] * 3)
    choice = pick(of, "knee")
    assert "but there is no choice to make: no two of them can be told apart: val_accuracy" in choice.why
    assert "no choice" not in pick(search(), "knee").why


def test_one_training_is_not_picked_beside_configurations_that_were_trained_again():
    points = [(0.95, 0.10), (0.90, 0.20), (0.85, 0.15), (0.60, 0.60), (0.88, 0.22), (0.86, 0.14)]
    columns = {"config_id": list("abcdbc"), "seed": [0, 0, 0, 0, 7, 7], "repeats": [None] * 4 + [1, 2]}
    for rule in ("accuracy", "knee", "val_delta_f1<=1 then val_accuracy"):
        assert pick(search(points, **columns), rule).number == 0  # no search that trains again by itself
    again = search(points, reseed=0.25, **columns)
    assert pick(again, "accuracy").number == 1 and pick(again, "fairness").number == 2
    assert "of the 2 complete configurations" in pick(again, "accuracy").why
    assert pick(again, "val_delta_f1<=1 then val_accuracy").number == 1 and pick(again, "knee").number in (1, 2)


def test_among_equals_the_objectives_decide_and_then_the_number():
    tied = search([(0.8, 0.3), (0.8, 0.2), (0.8, 0.2), (0.7, 0.2)])
    assert pick(tied, "accuracy").number == pick(tied, "fairness").number == 1
    assert pick(tied, "val_accuracy>=0 then val_min_recall").number == 1  # all 0.5


def test_with_several_seeds_their_mean_counts_and_the_first_is_named():
    points = [(0.99, 0.3), (0.5, 0.3), (0.8, 0.2), (0.82, 0.2), (0.97, 0.1), (0.9, 0.1)]
    status = ["complete"] * 5 + ["failed"]
    choice = pick(search(points, 2, status=status), "accuracy")
    assert choice.number == 2 and "(0.8100, more" in choice.why and "of the 2 complete" in choice.why
    whole = pick(search(points, 2), "accuracy")
    assert whole.number == 4 and "of the 3 complete" in whole.why
    with pytest.raises(ConfigError, match=r"trial 4 comes closest with 0\.9350$"):
        pick(search(points, 2), "val_accuracy>=0.95 then val_delta_f1")


def test_a_metric_without_a_value_in_one_seed_has_no_mean():
    points = [(0.8, 0.2), (0.8, 0.2), (0.7, 0.3), (0.7, 0.3)]
    holes = search(points, 2, val_min_recall=[float("nan"), 0.9, 0.4, 0.4])
    assert pick(holes, "val_accuracy>=0 then val_min_recall").number == 2


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("val_accuracy>=0.95 then val_delta_f1", "no complete trial keeps val_accuracy>=0.95: trial 0 comes closest"),
        ("val_delta_f1<=0.1 then val_accuracy", "keeps val_delta_f1<=0.1: trial 3 comes closest with 0.1475"),
        ("best", 'a rule to pick by is knee, accuracy, fairness, or like "val_accuracy>=0.9 then val_delta_f1"'),
        ("val_accuracy>0.5 then val_delta_f1", "a rule to pick by takes \"metric>=number\" or"),
        ("val_accuracy>=0.5", "a rule to pick by is knee"),
        ("val_beauty>=0.5 then val_delta_f1", "unknown metric of a rule to pick by 'val_beauty'"),
        ("val_accuracy>=0.5 then acuracy", "unknown metric of a rule to pick by 'acuracy', did you mean val_accuracy?"),
        ("val_accuracy>=x then val_delta_f1", "a rule to pick by must end in a number, but got"),
        ("val_accuracy>=nan then val_delta_f1", "a rule to pick by must end in a number, but got"),
        ("val_accuracy>=inf then val_delta_f1", "a rule to pick by must end in a number, but got"),
        ("val_eod_max<=0.5 then val_delta_f1", "the search s must have measured val_eod_max, but has not"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_kept_is_one_line(rule, message):
    with pytest.raises(ConfigError) as caught:
        pick(search(), rule)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_metric_that_no_configuration_has_is_told_as_such():
    nothing = search(POINTS[:2], val_min_recall=[float("nan")] * 2)
    with pytest.raises(ConfigError, match=r"keeps val_min_recall>=0\.5: none has a value of val_min_recall$"):
        pick(nothing, "val_min_recall>=0.5 then val_accuracy")
    with pytest.raises(ConfigError, match=r"no complete trial with val_accuracy>=0\.5 has a value of val_min_recall$"):
        pick(nothing, "val_accuracy>=0.5 then val_min_recall")


def test_a_search_that_has_nothing_to_pick_says_so():
    with pytest.raises(ConfigError, match="the search s has no complete trial to pick from"):
        pick(search(POINTS[:2], status=["stopped", "failed"]), "knee")
    gains = search(POINTS[:2])
    gains = Search("s", ["val_accuracy", "val_min_recall"], ["maximize", "maximize"], gains.trials, None)
    with pytest.raises(ConfigError, match='none: name a metric, as in "val_accuracy>=0 then val_min_recall"'):
        pick(gains, "fairness")
