"""Intervals over images: they hold the truth as often as they say, and measure what trainables.metrics does."""

import numpy as np
import pytest

from analysis.figures import intervals
from analysis.predictions import Confusion, Predictions
from tests.analysis.handmade import search, trial
from trainables import logits


def test_they_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    recall = rng.uniform(0.6, 0.95, 10)
    chances = (1 - recall)[:, None] * rng.dirichlet(np.ones(10), 10) + np.diag(recall)
    names = ("val_accuracy", "val_delta_f1")
    truth = Confusion(1e6 * chances).metrics
    held = dict.fromkeys(names, 0)
    for i in range(200):
        table = rng.multinomial(800, chances.ravel() / 10).reshape(10, 10)
        for name, (low, high) in intervals.bootstrap(Confusion(table), names, 300, i).items():
            held[name] += low <= truth[name] <= high
    assert 0.90 <= held["val_accuracy"] / 200 <= 0.99
    assert 0.86 <= held["val_delta_f1"] / 200 <= 0.99  # the percentile interval's share is about a half


def test_over_subjects_they_hold_the_truth_where_over_images_they_do_not():
    """250 subjects with four images each, all of one class; a subject's ease is normal, of standard deviation 2."""
    rng, k, hits = np.random.default_rng(0), 4, {"subjects": 0, "images": 0}

    def chance(classes: np.ndarray, ease: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-np.linspace(1, 2.2, k)[classes] - ease))

    truth = chance(np.arange(400_000) % k, rng.normal(0, 2, 400_000)).mean()
    subject = np.repeat(np.arange(250), 4)
    label = subject % k
    for i in range(100):
        right = rng.random(1000) < chance(label, rng.normal(0, 2, 250)[subject])
        said = logits.half(np.eye(k)[np.where(right, label, (label + 1) % k)])
        for name, whose in (("subjects", subject), ("images", None)):
            sample = Predictions(said, label, np.zeros(1000, int), 1, subject=whose)
            low, high = intervals.bootstrap(sample, ["val_accuracy"], 300, i)["val_accuracy"]
            hits[name] += low <= truth <= high
    assert hits["subjects"] >= 90 and hits["images"] <= 88


def test_they_are_the_same_at_every_call_within_bounds_and_leave_out_what_they_cannot_know():
    table = Confusion([[9, 1], [0, 10]])
    found = intervals.bootstrap(table, ["val_accuracy", "val_eod_max"])
    assert found == intervals.bootstrap(table, ["val_accuracy", "val_eod_max"]) and list(found) == ["val_accuracy"]
    assert 0 <= found["val_accuracy"][0] < 0.95 < found["val_accuracy"][1] <= 1
    # What comes out alike in every draw would be an interval without width, of which nobody should be that sure.
    assert intervals.bootstrap(Confusion([[5, 0], [0, 5]]), ["val_accuracy"]) == {}


@pytest.mark.parametrize("table", [[[0, 0], [0, 0]], [[1, 2, 3], [4, 5, 6]], [1, 2]])
def test_what_is_no_confusion_table_is_refused(table):
    with pytest.raises(ValueError, match="confusion must be"):
        Confusion(table)


def test_the_figure_draws_the_front_alone_from_end_to_end():
    record = search(
        trial(0, on_front=True, val_accuracy=0.95, val_delta_f1=0.06), trial(1, val_accuracy=0.2), trial(2, "fft")
    )
    page = intervals.figure(record, {0: Confusion([[9, 1], [0, 10]]), 1: Confusion([[1, 9], [9, 1]])})
    ax = page.axes[0]
    assert ax.get_xlabel() == "validation accuracy (more is better)"
    assert [t.get_text() for t in ax.texts] == ["0"]
    rows = intervals.of_front(record, {0: Confusion([[9, 1], [0, 10]])})
    across = ax.collections[0].get_segments()[0]
    assert across[:, 0].tolist() == rows[["val_accuracy_low", "val_accuracy_high"]].iloc[0].tolist()
    with pytest.raises(ValueError, match="kept no predictions of the trials on its front"):
        intervals.figure(record, {})
