"""Constraints: their form, their sense, and what they do to the front."""

import math

import pytest

from analysis.bounds import constraints, feasible
from tests.processes import refusal
from tests.records import begun, run


def test_a_violation_is_by_how_much_it_is_broken():
    low, high = constraints(["val_accuracy>=0.9", "val_loss <= 1.5"])
    assert low.violation({"val_accuracy": 0.7}) == pytest.approx(0.2) and low.violation({"val_accuracy": 0.9}) == 0
    assert high.violation({"val_loss": 2.0}) == 0.5 and high.violation({"val_loss": 1.0}) == -0.5
    assert low.violation({"val_accuracy": math.nan}) == math.inf == low.violation({})
    assert str(low) == "val_accuracy>=0.9"
    assert feasible([low, high], {"val_accuracy": 0.95, "val_loss": 1.0})
    assert not feasible([low, high], {"val_accuracy": 0.95, "val_loss": 1.6})
    assert feasible([low, high], {"val_accuracy": 0.9, "val_loss": 1.5})  # what reaches a bound keeps it


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["val_accuracy"], 'takes "metric>=number"'),
        (["val_accuracy=0.9"], "takes"),
        (["val_accuracy>0.9"], "takes"),
        (["val_accurcy>=0.9"], "val_accuracy"),
        (["test_accuracy>=0.9"], "metric of a constraint"),
        (["val_min_class_count>=3"], "metric of a constraint"),
        (["val_accuracy>=high"], "must end in a number"),
        (["val_accuracy>=nan"], "must end in a number"),
        (["val_accuracy>=90"], "val_accuracy>=90 can never hold"),
        (["val_accuracy>=1.01"], "val_accuracy>=1.01 can never hold"),
        (["val_loss<=-1"], "can never hold"),
        (["val_delta_f1<=-0.01"], "can never hold"),
        (["val_accuracy>=0.9", "val_accuracy<=0.8"], "val_accuracy>=0.9 and val_accuracy<=0.8 can never hold"),
    ],
)
def test_what_makes_no_sense_is_refused(texts, words):
    assert words in refusal(constraints, texts)


@pytest.mark.parametrize(
    "texts",
    [
        ["val_accuracy>=1"],
        ["val_delta_f1<=0"],
        ["val_loss<=0"],
        ["val_loss>=3"],
        ["val_loss_variance>=3"],
        ["val_accuracy>=0.8", "val_accuracy<=0.8"],
    ],
)
def test_a_bound_that_a_model_could_just_keep_is_taken(texts):
    assert [str(constraint) for constraint in constraints(texts)] == texts


def test_what_breaks_a_constraint_is_kept_complete_and_off_the_front(tmp_path):
    record = begun(tmp_path, constraints=["val_accuracy>=0.6"])
    assert run(record, 0, [0.1, 0.5], delta=0.0) == "complete"  # the fairest, but not accurate enough
    run(record, 1, [0.1, 0.7], delta=0.3)
    assert record.front() == [1] and not record.feasible([0]) and record.feasible([1])
    assert record.hypervolume() == pytest.approx(0.7 * 0.7)
    record.close()


def test_the_mean_over_the_seeds_has_to_keep_a_constraint(tmp_path):
    record = begun(tmp_path, constraints=["val_accuracy>=0.6"], seeds=2)
    for number, accuracy in enumerate([0.5, 0.8, 0.5, 0.6]):
        run(record, number, [0.1, accuracy], seed=number % 2)
    assert record.front_points() == [[0, 1]]
    record.close()
