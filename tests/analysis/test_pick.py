"""Each rule chooses the trial that a reader of the table would, and says why with the table's numbers."""

import pandas as pd
import pytest

from analysis.pick import pick
from analysis.results import Search
from trainables.config import ConfigError

POINTS = [  # accuracy, ΔF1: a front of four (0 … 3), one dominated, one stopped, one that breaks a constraint
    (0.90, 0.40),
    (0.88, 0.20),
    (0.80, 0.15),
    (0.60, 0.14),
    (0.79, 0.16),
    (0.99, 0.01),
    (0.95, 0.05),
]


def search(points=POINTS, seeds: int = 1, **columns) -> Search:
    trials = pd.DataFrame(points, columns=["val_accuracy", "val_delta_f1"])
    trials["number"], trials["status"], trials["feasible"] = range(len(trials)), "complete", True
    trials["val_min_recall"] = [0.5] * len(trials)
    if points is POINTS:
        trials.loc[5, "status"], trials.loc[6, "feasible"] = "stopped", False
        trials["feasible"] = trials["feasible"].astype(object)
        trials.loc[5, "feasible"] = None
    for name, values in columns.items():
        trials[name] = values
    shuffled = trials.sample(frac=1, random_state=0)
    return Search("s", ["val_accuracy", "val_delta_f1"], ["maximize", "minimize"], shuffled, None, seeds)


@pytest.mark.parametrize(
    ("rule", "number", "why"),
    [
        ("knee", 1, "the knee of the front, the deepest point below the plane through its extremes: val_accuracy 0.8"),
        ("accuracy", 0, "has the best val_accuracy (0.9000, more is better) of the 5 complete configurations; val_d"),
        ("fairness", 3, "has the best val_delta_f1 (0.1400, less is better) of the 5 complete configurations; "),
        ("val_accuracy>=0.8 then val_delta_f1", 2, "0.1500, less is better) of the 3 complete configurations with"),
        (" val_delta_f1 <= 0.16 then val_accuracy ", 2, "val_delta_f1<=0.16; val_delta_f1 is 0.1500"),
        ("val_delta_f1<=0.16 then val_accuracy", 2, "of the 3 complete configurations"),  # the bound itself keeps it
        ("val_accuracy>=0.9 then val_accuracy", 0, "of the 1 complete configurations"),
    ],
)  # fmt: skip
def test_each_rule_takes_its_point_and_tells_the_numbers(rule, number, why):
    choice = pick(search(), rule)
    assert choice.number == number and choice.why.startswith(f"trial {number} ")
    assert why in choice.why and "\n" not in choice.why


@pytest.mark.parametrize(
    ("n", "why"), [(1, "1 point(s), so no knee; trial 0 is one: val_accuracy 0.9000"), (2, "2 poi")]
)
def test_a_front_of_one_or_two_has_no_knee(n, why):
    assert why in pick(search(POINTS[:n]), "knee").why
    assert "is the knee" in pick(search(POINTS[: n + 2]), "knee").why
    assert "no knee" in pick(search([*POINTS[:n], *POINTS[:n]]), "knee").why  # equal points are one


def test_among_equals_the_objectives_decide_and_then_the_number():
    tied = search([(0.8, 0.3), (0.8, 0.2), (0.8, 0.2), (0.7, 0.2)])
    assert pick(tied, "accuracy").number == pick(tied, "fairness").number == 1
    assert pick(tied, "val_accuracy>=0 then val_min_recall").number == 1  # all 0.5


def test_with_several_seeds_their_mean_counts_and_the_first_is_named():
    points = [(0.99, 0.3), (0.5, 0.3), (0.8, 0.2), (0.82, 0.2), (0.97, 0.1), (0.9, 0.1)]
    status = ["complete"] * 5 + ["failed"]
    choice = pick(search(points, 2, status=status), "accuracy")
    assert choice.number == 2 and "(0.8100, more" in choice.why and choice.why.endswith("(means over 2 seeds)")
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
        ("val_delta_f1<=0.1 then val_accuracy", "keeps val_delta_f1<=0.1: trial 3 comes closest with 0.1400"),
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
