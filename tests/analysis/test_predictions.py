"""Draws of a trial's metrics on other images: those of each drawn set, measured one by one."""

import numpy as np
import pytest

from analysis.predictions import OF_CONFUSION, Confusion, Predictions, of_trial
from tests.analysis.handmade import search, trial
from trainables import logits
from trainables.metrics import OBJECTIVES


def predictions(n: int = 120, classes: int = 4, groups: int = 3, seed: int = 0, **options) -> Predictions:
    rng = np.random.default_rng(seed)
    label, group = rng.integers(0, classes, n), rng.integers(0, groups, n)
    table = rng.normal(size=(n, classes)) + 2 * np.eye(classes)[label]
    return Predictions(logits.half(table), label, group, groups, **options)


@pytest.mark.parametrize(("classes", "positive"), [(4, None), (2, 0), (2, 1)])
def test_every_metric_of_a_draw_is_that_of_the_images_drawn(classes, positive):
    """The images of the draws are written out, as the same stream draws them, and evaluated apart."""
    sample = predictions(n=9, classes=classes, positive=positive)  # some draws lack a class, a group or a cell
    draws = sample.draws(250)
    rng = np.random.default_rng(0)
    counts = np.concatenate([rng.multinomial(9, np.full(9, 1 / 9), size) for size in (200, 50)])
    assert list(draws) == list(OBJECTIVES) == list(sample.metrics)
    for i in (0, 1, 199, 200, 249):
        rows = np.repeat(np.arange(9), counts[i])
        each = logits.evaluate_logits(sample.logits[rows], sample.label[rows], sample.group[rows], 3, positive).metrics
        for name, values in draws.items():
            assert values[i] == pytest.approx(each[name.removeprefix("val_")], rel=1e-12, nan_ok=True), name


def test_the_same_seed_draws_the_same():
    sample = predictions()
    first, second, other = sample.draws(50), sample.draws(50), sample.draws(50, seed=1)
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)
    assert (first["val_loss"] != other["val_loss"]).any()


def test_a_confusion_table_has_what_needs_neither_groups_nor_losses():
    whole = predictions(groups=1)
    table = np.zeros((4, 4), int)
    np.add.at(table, (whole.label, whole.logits.argmax(axis=1)), 1)
    sample = Confusion(table)
    assert {name.removeprefix("val_") for name in sample.metrics} <= set(OF_CONFUSION)
    assert {"val_accuracy", "val_delta_f1", "val_median_recall"} <= set(sample.metrics) == set(sample.draws(3))
    assert sample.metrics == {name: whole.metrics[name] for name in sample.metrics}


def test_a_search_gives_logits_else_the_confusion_table_else_nothing(tmp_path):
    sample = predictions()
    of = search(trial(0), trial(1), groups=["a", "b", "c"])
    object.__setattr__(of, "folder", tmp_path)
    assert of_trial(of, 0) is None and isinstance(of_trial(of, 0, [[1, 0], [0, 1]]), Confusion)
    logits.save(tmp_path, 0, sample.logits)
    assert of_trial(of, 0) is None  # nobody knows whose rows these are
    logits.keep_images(tmp_path, sample.label, sample.group)
    assert of_trial(of, 0, [[1, 0], [0, 1]]).metrics == pytest.approx(sample.metrics, rel=0, abs=0, nan_ok=True)
    assert of_trial(of, 1) is None
