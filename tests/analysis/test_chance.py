"""Gaps of an evenly right model: against figures found in another way, and in words."""

import numpy as np
import pytest

from analysis.chance import GAPS, Range, by_chance, smallest
from analysis.results import NothingToShow
from analysis.tables import chance
from tests.analysis.handmade import search, trial
from trainables.metrics import evaluate


def counts(classes: int, each: int) -> np.ndarray:
    return np.full((classes, 1), each)


def test_the_range_of_delta_f1_is_that_of_another_simulation():
    """Ten classes of 20 images at .90, simulated apart, by other code: mean .140, 5 % .081, 95 % .211."""
    found = by_chance(counts(10, 20), 0.90, ["delta_f1"])["delta_f1"]
    assert found.mean == pytest.approx(0.140, abs=0.006)
    assert (found.low, found.high) == (pytest.approx(0.081, abs=0.01), pytest.approx(0.211, abs=0.012))


def test_geode_and_aircraft_show_what_was_simulated_for_them():
    assert by_chance(counts(40, 124), 0.975, ["delta_f1"])["delta_f1"].mean == pytest.approx(0.041, abs=0.003)
    assert by_chance(counts(100, 33), 0.82, ["delta_f1"])["delta_f1"].mean == pytest.approx(0.25, abs=0.02)


def test_draws_are_measured_as_any_predictions():
    """An independent draw, image by image."""
    images, rng = np.array([[30, 10], [20, 15], [25, 5]]), np.random.default_rng(5)
    label = np.repeat(np.repeat(np.arange(3), 2), images.ravel())
    group = np.repeat(np.tile(np.arange(2), 3), images.ravel())
    drawn = []
    for _ in range(600):
        wrong = (label + rng.integers(1, 3, len(label))) % 3
        guess = np.where(rng.random(len(label)) < 0.85, label, wrong)
        drawn.append(evaluate(label, guess, np.zeros(len(label)), group, n_classes=3, n_groups=2).metrics)
    for name, found in by_chance(images, 0.85).items():
        values = np.array([each[name] for each in drawn])
        error = values.std() / 600**0.5
        assert found.mean == pytest.approx(values.mean(), abs=5 * error), name


def test_what_a_split_does_not_determine_is_left_out_and_a_perfect_model_has_no_gap():
    assert set(by_chance(counts(4, 10), 0.9)) == {"delta_f1"}  # one group has no gaps between groups
    found = by_chance(np.full((3, 2), 9), 1.0)
    assert set(found) == set(GAPS) and all(str(each) == "0.000 (0.000–0.000)" for each in found.values())
    assert smallest(np.array([[3, 0], [4, 5]])) == {"class": 3, "group": 5, "class in a group": 3}
    assert smallest(counts(2, 7)) == {"class": 7}


def test_a_value_is_placed():
    found = Range(0.1, 0.05, 0.2)
    assert [found.of(value) for value in (0.04, 0.05, 0.2, 0.21)] == ["below it", "inside it", "inside it", "above it"]


def test_the_table_names_what_is_outside():
    of = search(trial(0, on_front=True, val_accuracy=0.9, val_delta_f1=0.5, val_delta_group_accuracy=0.0), trial(1))
    shown = chance.table(of, {0: np.full((10, 2), 10)})
    row = dict(zip(shown.header, shown.rows[0]))
    assert row["trial"] == "0" and row["ΔF1 ↓"].startswith("0.500: chance 0.1") and row["ΔF1 ↓"].endswith("above it")
    assert "200 images" in shown.note and "20 in the smallest class" in shown.note
    with pytest.raises(NothingToShow, match="chance is computed from"):
        chance.table(of, {})
