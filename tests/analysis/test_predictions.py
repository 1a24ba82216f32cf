"""Draws of a trial's metrics on other images: those of each drawn set, measured one by one."""

import dataclasses

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


def test_a_draw_of_subjects_takes_all_their_images():
    """The images of the draws are written out; two images are nobody's, each a subject of its own."""
    subject = np.array([4, 7, 4, -1, 7, 2, -1, 4, 2])
    members = [[5, 8], [0, 2, 7], [1, 4], [3], [6]]
    sample = dataclasses.replace(predictions(n=9), subject=subject)
    draws, counts = sample.draws(20), np.random.default_rng(0).multinomial(5, np.full(5, 1 / 5), 20)
    for i in range(20):
        rows = [row for one, times in zip(members, counts[i]) for row in one * times]
        each = logits.evaluate_logits(sample.logits[rows], sample.label[rows], sample.group[rows], 3).metrics
        for name, values in draws.items():
            assert values[i] == pytest.approx(each[name.removeprefix("val_")], rel=1e-12, nan_ok=True), name


@pytest.mark.parametrize(
    "subject", [np.arange(120), np.full(120, -1), np.zeros(120, int)], ids=["own", "nobody", "one"]
)
def test_where_subjects_say_nothing_the_draws_are_those_of_images(subject):
    """Each image its own subject, none known, or one alone, of whom nothing could be drawn: equal to the bit."""
    sample = predictions()
    first, second = sample.draws(30), dataclasses.replace(sample, subject=subject).draws(30)
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)


def test_images_that_repeat_their_subject_are_worth_no_more_than_their_subjects():
    """In closed form: m images of each of s subjects, right or wrong together, give a variance of p (1 - p) / s;
    images on their own would claim p (1 - p) / (s m)."""
    s, m, p = 50, 8, 0.8
    subject, label = np.repeat(np.arange(s), m), np.tile([0, 1], s * m // 2)
    said = np.where(subject < p * s, label, 1 - label)
    sample = Predictions(logits.half(np.eye(2)[said]), label, np.zeros(s * m, int), 1, subject=subject)
    of_images = dataclasses.replace(sample, subject=None)
    variance = {kind: one.draws(4000)["val_accuracy"].var() for kind, one in (("s", sample), ("i", of_images))}
    assert variance["s"] == pytest.approx(p * (1 - p) / s, rel=0.08)  # of 4,000 draws: a standard error of 2.2 %
    assert variance["i"] == pytest.approx(p * (1 - p) / (s * m), rel=0.08)


def test_two_trials_of_a_search_meet_the_same_subjects():
    """One is right where the other is wrong, so that in every draw they are right once together."""
    subject = np.random.default_rng(3).integers(0, 30, 120)
    label = np.random.default_rng(4).integers(0, 2, 120)
    right = np.random.default_rng(5).random(120) < 0.6
    says = [np.eye(2)[np.where(right == side, label, 1 - label)] for side in (True, False)]
    one, other = (Predictions(logits.half(x), label, np.zeros(120, int), 1, subject=subject) for x in says)
    assert one.draws(300)["val_accuracy"] + other.draws(300)["val_accuracy"] == pytest.approx(np.ones(300))


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
    assert of_trial(of, 0).subject is None


def test_a_search_that_has_kept_subjects_draws_them(tmp_path):
    sample, subject = predictions(), np.arange(120) // 4
    of = search(trial(0), groups=["a", "b", "c"])
    object.__setattr__(of, "folder", tmp_path)
    logits.save(tmp_path, 0, sample.logits)
    logits.keep_images(tmp_path, sample.label, sample.group, subject)
    expected = dataclasses.replace(sample, subject=subject).draws(20)
    assert (of_trial(of, 0).draws(20)["val_loss"] == expected["val_loss"]).all()
