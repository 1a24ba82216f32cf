"""The metrics against hand-worked tables, cells without support, and losses that are not finite."""

import math
from fractions import Fraction as F

import numpy as np
import pytest
from fairlearn.metrics import equalized_odds_difference
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import f1_score

from trainables.metrics import METRICS, adjusted, cell_counts, evaluate

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
nan, inf = math.nan, math.inf


def samples(table):
    """A count table ``C[g][y][yhat]`` written out as (label, prediction, group), one entry a sample."""
    table = np.array(table)
    group, label, prediction = (np.repeat(index.ravel(), table.ravel()) for index in np.indices(table.shape))
    return label, prediction, group


def evaluate_table(table, loss=None, **kwargs):
    label, prediction, group = samples(table)
    loss = np.zeros(len(label)) if loss is None else np.asarray(loss)[label]
    return evaluate(label, prediction, loss, group, n_classes=len(table[0]), n_groups=len(table), **kwargs)


def fractions(values):
    return np.array(values, dtype=object).astype(float)


# --- worked by hand ---

THREE_CLASSES = [
    [[3, 1, 0], [0, 2, 0], [1, 1, 2]],  # group 0: rows are true classes, columns predicted ones
    [[1, 1, 0], [0, 3, 1], [0, 0, 4]],  # group 1
]
# group:        0     1     2       Positives are class 1, of which 6/8, 1/2 and 4/4 are found; of the negatives,
#                                   1/4, 0/4 and 3/4 are called positive.
BINARY = [[[3, 1], [2, 6]], [[4, 0], [1, 1]], [[1, 3], [0, 4]]]


def test_metrics_of_a_three_class_table():
    # Class losses 1, 2, 4 with 6, 6, 8 samples. Mean 50/20; the classes' mean is 7/3, their variance (16 + 1 + 25)/27.
    result = evaluate_table(THREE_CLASSES, loss=[1.0, 2.0, 4.0])
    expected = {
        "accuracy": F(15, 20),
        "loss": F(5, 2),
        "min_f1": F(5, 7),
        "median_f1": F(8, 11),
        "delta_f1": F(3, 35),
        "macro_f1": F(863, 1155),
        "min_recall": F(2, 3),
        "median_recall": F(3, 4),
        "mean_recall": F(3, 4),
        "loss_variance": F(14, 9),
        "min_group_accuracy": F(7, 10),
        "delta_group_accuracy": F(1, 10),
        "min_group_f1": F(25, 36),
        "delta_group_f1": F(2, 27),
        "worst_cell_accuracy": F(1, 2),
        "eod_max": F(1, 3),
        "eod_max_cell": F(1, 2),
        "equalized_odds": F(1, 3),
        "equalized_odds_max": F(1, 2),
        "min_class_count": 6,
        "min_group_count": 10,
        "min_cell_count": 2,
        "empty_cells": 0,
    }
    expected["adjusted_accuracy"] = nan  # of no training split
    expected = {name: float(value) for name, value in expected.items()}
    assert result.metrics == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert list(result.metrics) == list(METRICS)
    assert {type(value) for value in result.metrics.values()} == {float}


def test_tables_of_a_three_class_table():
    result = evaluate_table(THREE_CLASSES, loss=[1.0, 2.0, 4.0])
    assert_array_equal(result.confusion, [[4, 2, 0], [0, 5, 1], [1, 1, 6]])
    assert_array_equal(result.by_class["count"], [6, 6, 8])
    assert_array_equal(result.by_class["predicted"], [5, 8, 7])
    assert_allclose(result.by_class["recall"], fractions([F(4, 6), F(5, 6), F(6, 8)]))
    assert_allclose(result.by_class["precision"], fractions([F(4, 5), F(5, 8), F(6, 7)]))
    assert_allclose(result.by_class["f1"], fractions([F(8, 11), F(5, 7), F(4, 5)]))
    assert_allclose(result.by_class["loss"], [1, 2, 4])
    assert_array_equal(result.by_group["count"], [10, 10])
    assert_allclose(result.by_group["accuracy"], [0.7, 0.8])
    assert_allclose(result.by_group["macro_f1"], fractions([F(25, 36), F(83, 108)]))
    assert_allclose(result.by_group["eod"], fractions([F(1, 3), F(1, 3)]))
    # Of classes 0, 1, 2 the TPR gaps are 1/4, 1/4, 1/2; the FPR gaps 1/6 - 0, 2/8 - 1/6, 1/6 - 0 are smaller.
    assert_allclose(result.by_group["odds_gap"], fractions([F(1, 3), F(1, 3)]))
    assert_array_equal(result.by_cell["count"], [[4, 2], [2, 4], [4, 4]])
    assert_allclose(result.by_cell["accuracy"], [[3 / 4, 1 / 2], [1, 3 / 4], [1 / 2, 1]])


def test_binary_eod_compares_a_group_with_all_samples_of_the_others():
    # |6/8 - 5/6|, |1/2 - 10/12|, |4/4 - 7/10|: the rest is pooled. The mean of their rates would give 3/8 for s=1.
    result = evaluate_table(BINARY, positive=1)
    assert_allclose(result.by_group["eod"], fractions([F(1, 12), F(1, 3), F(3, 10)]))
    assert result.metrics["eod_max"] == pytest.approx(1 / 3)
    assert result.metrics["eod_max_cell"] == pytest.approx(1 / 3)


def test_the_odds_gap_of_each_group_is_the_larger_of_two_gaps_to_the_rest():
    # TPR: 1/12, 1/3, 3/10, as above. FPR: |1/4 - 3/8|, |0/4 - 4/8|, |3/4 - 1/8|: the larger each time.
    result = evaluate_table(BINARY)
    assert_allclose(result.by_group["odds_gap"], [1 / 8, 1 / 2, 5 / 8])
    assert result.metrics["equalized_odds"] == 3 / 4  # between two groups, not between one and the rest
    # Every negative right: only the TPR gaps are left.
    perfect = evaluate_table([[[4, 0], [2, 6]], [[4, 0], [1, 1]], [[4, 0], [0, 4]]])
    assert_allclose(perfect.by_group["odds_gap"], [1 / 12, 1 / 3, 3 / 10])


def test_the_worst_group_is_a_cell_and_the_worst_attribute_a_column():
    # Cells of class 0: 3/4, 4/4, 1/4, of class 1: 6/8, 1/2, 4/4. Groups: 9/12, 5/6, 5/8.
    metrics = evaluate_table(BINARY).metrics
    assert metrics["worst_cell_accuracy"] == 1 / 4 and metrics["min_group_accuracy"] == 5 / 8
    # Where all images have one attribute, its cells are the classes.
    metrics = evaluate_table([[[3, 1], [4, 6]]]).metrics
    assert metrics["worst_cell_accuracy"] == metrics["min_recall"] == 3 / 5
    assert metrics["min_group_accuracy"] == metrics["accuracy"] == 9 / 14


def test_adjusted_accuracy_weighs_cells_as_the_training_split_does():
    # (2 * 3/4 + 6 * 1/4 + 8 * 6/8 + 4 * 4/4) / 20; nothing was trained on in group 1.
    result = adjusted(evaluate_table(BINARY), np.array([[2, 0, 6], [8, 0, 4]]))
    assert result.metrics["adjusted_accuracy"] == pytest.approx(13 / 20)
    assert type(result.metrics["adjusted_accuracy"]) is float and list(result.metrics) == list(METRICS)
    assert result.metrics["accuracy"] == 19 / 26


def test_binary_positive_class_decides_eod_and_nothing_else():
    one, zero, default = (evaluate_table(BINARY, positive=p) for p in (1, 0, None))
    # Class 0 is found in 3/4, 4/4 and 1/4: |3/4 - 5/8|, |1 - 4/8|, |1/4 - 7/8|.
    assert_allclose(zero.by_group["eod"], [1 / 8, 1 / 2, 5 / 8])
    assert zero.metrics["eod_max"] == zero.metrics["eod_max_cell"] == pytest.approx(5 / 8)
    assert_array_equal(list(default.metrics.values()), list(one.metrics.values()))
    others = [name for name in METRICS if not name.startswith("eod")]
    for name in others:
        assert zero.metrics[name] == pytest.approx(one.metrics[name], rel=1e-12, nan_ok=True), name
    assert_allclose(zero.by_group["odds_gap"], one.by_group["odds_gap"])  # the two rates change places


def test_binary_equalized_odds_takes_the_larger_gap():
    # TPR gap 1 - 1/2; FPR gap 3/4 - 0.
    metrics = evaluate_table(BINARY).metrics
    assert metrics["equalized_odds"] == metrics["equalized_odds_max"] == 3 / 4
    # Every negative right: only the TPR gap is left.
    assert evaluate_table([[[4, 0], [2, 6]], [[4, 0], [1, 1]], [[4, 0], [0, 4]]]).metrics["equalized_odds"] == 1 / 2


def test_loss_is_averaged_inside_each_class_first():
    # Class means 2 and 5: variance 9/4. Over samples the mean is 13/4.
    label = np.array([0, 0, 0, 1])
    result = evaluate(label, label, [0.0, 1.0, 5.0, 5.0], np.zeros(4, int), n_classes=2, n_groups=1)
    assert_allclose(result.by_class["loss"], [2, 5])
    assert result.metrics["loss"] == 11 / 4
    assert result.metrics["loss_variance"] == 9 / 4


# --- without support: NaN and count 0, never 0 ---


def test_absent_class_leaves_every_reduction():
    # Class 2 never occurs and is predicted once. scikit-learn counts it as F1 0.
    label, prediction, zero = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]), np.zeros(4, int)
    result = evaluate(label, prediction, np.array([1.0, 1, 3, 3]), zero, n_classes=3, n_groups=1)
    assert_allclose(result.by_class["f1"], [2 / 3, 1, nan])
    assert_allclose(result.by_class["recall"], [1 / 2, 1, nan])
    assert_allclose(result.by_class["precision"], [1, 1, 0])  # its one prediction is wrong: measured, not missing
    assert_allclose(result.by_class["loss"], [1, 3, nan])
    assert_array_equal(result.by_class["count"], [2, 2, 0])
    assert result.metrics["min_f1"] == pytest.approx(2 / 3)
    assert result.metrics["macro_f1"] == pytest.approx(5 / 6)
    assert result.metrics["min_recall"] == 1 / 2
    assert result.metrics["loss_variance"] == 1
    assert result.metrics["min_class_count"] == 2
    assert result.metrics["empty_cells"] == 1
    assert f1_score(label, prediction, labels=[0, 1, 2], average="macro", zero_division=0) == pytest.approx(5 / 9)


def test_class_never_predicted_has_f1_zero():
    result = evaluate_table([[[3, 0], [2, 0]]])
    assert_allclose(result.by_class["f1"], [6 / 8, 0])
    assert_allclose(result.by_class["precision"], [3 / 5, nan])
    assert result.metrics["min_f1"] == 0
    assert result.metrics["delta_f1"] == 6 / 8


def test_group_f1_leaves_out_classes_absent_from_that_group():
    # Group 1 has no class 0, yet predicts it once: class 1 there has 2 * 3 / (4 + 3).
    result = evaluate_table([[[2, 0], [0, 2]], [[0, 0], [1, 3]]])
    assert_allclose(result.by_group["macro_f1"], [1, 6 / 7])
    assert result.metrics["delta_group_f1"] == pytest.approx(1 / 7)
    assert_allclose(result.by_cell["accuracy"], [[1, nan], [1, 3 / 4]])
    assert result.metrics["empty_cells"] == 1
    assert result.metrics["min_cell_count"] == 2


def test_empty_group_leaves_every_reduction():
    result = evaluate_table([*BINARY, [[0, 0], [0, 0]]])
    for table in ("accuracy", "macro_f1", "eod", "odds_gap"):
        assert math.isnan(result.by_group[table][3])
    assert_array_equal(result.by_group["count"], [12, 6, 8, 0])
    expected = evaluate_table(BINARY).metrics | {"empty_cells": 2.0}
    assert result.metrics == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_adjusted_accuracy_leaves_out_the_cells_that_one_split_lacks():
    # Class 0 of group 1 has 50 training images and none here: 10 * 1 + 10 * 1 + 20 * 3/4, over 40 and not over 90.
    result = evaluate_table([[[2, 0], [0, 2]], [[0, 0], [1, 3]]])
    assert adjusted(result, np.array([[10, 50], [10, 20]])).metrics["adjusted_accuracy"] == 7 / 8
    assert adjusted(result, np.array([[10, 50], [10, 0]])).metrics["adjusted_accuracy"] == 1
    for training in ([[0, 50], [0, 0]], [[0, 0], [0, 0]]):  # no cell has images in both
        assert math.isnan(adjusted(result, np.array(training)).metrics["adjusted_accuracy"])


def test_images_are_counted_by_class_and_group():
    counts = cell_counts(np.array([2, 0, 2, 2]), np.array([0, 1, 1, 0]), n_classes=3, n_groups=2)
    assert_array_equal(counts, [[0, 1], [0, 0], [2, 1]])
    assert_array_equal(cell_counts(np.array([], int), np.array([], int), 2, 1), [[0], [0]])


def test_a_half_known_odds_gap_is_nan():
    # Group 2 has no positives, so that half of its gap is unknown.
    result = evaluate_table([[[2, 0], [0, 3]], [[2, 0], [0, 4]], [[4, 1], [0, 0]]])
    assert_allclose(result.by_group["odds_gap"], [1 / 7, 1 / 7, nan])  # FPR |0/2 - 1/7|
    assert math.isnan(evaluate_table([[[3, 1], [2, 6]]]).by_group["odds_gap"][0])  # one group has no rest


def test_one_group_without_positives_is_left_out():
    label, prediction, group = samples([[[2, 0], [0, 3]], [[2, 0], [0, 4]], [[5, 0], [0, 0]]])  # a perfect classifier
    metrics = evaluate(label, prediction, np.zeros(16), group, n_classes=2, n_groups=3).metrics
    assert metrics["eod_max"] == metrics["equalized_odds"] == 0
    assert equalized_odds_difference(label, prediction, sensitive_features=group) == 1.0  # it puts TPR 0 there


def test_gaps_of_a_single_supported_group_are_nan():
    # With positives in group 0 alone the TPR gap is unknown, so the FPR gap of 1/2 must not stand for both.
    metrics = evaluate_table([[[2, 0], [0, 3]], [[1, 1], [0, 0]]]).metrics
    assert all(
        math.isnan(metrics[name]) for name in ("eod_max", "eod_max_cell", "equalized_odds", "equalized_odds_max")
    )
    # In multi-class, such a class leaves the mean: classes 0 and 1 are perfect, class 2 lives in group 0 alone.
    metrics = evaluate_table([[[2, 0, 0], [0, 2, 0], [0, 0, 2]], [[2, 0, 0], [0, 2, 0], [0, 0, 0]]]).metrics
    assert metrics["eod_max"] == metrics["eod_max_cell"] == metrics["equalized_odds_max"] == 0


def test_multiclass_eod_averages_over_the_classes_that_both_sides_have():
    # Class 0: 1/2 and 1 and 1 -> |1/2 - 1|, |1 - 2/3|, |1 - 2/3|. Class 1: in groups 0 and 1 only, 0 and 1 -> 1, 1.
    # Class 2: in group 0 alone -> nowhere.
    result = evaluate_table(
        [
            [[1, 1, 0], [2, 0, 0], [0, 0, 5]],
            [[1, 0, 0], [0, 3, 0], [0, 0, 0]],
            [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
        ]
    )
    assert_allclose(result.by_group["eod"], [(1 / 2 + 1) / 2, (1 / 3 + 1) / 2, 1 / 3])
    assert result.metrics["eod_max"] == 3 / 4
    assert result.metrics["eod_max_cell"] == 1


def test_multiclass_odds_mean_and_max_differ_from_eod():
    # Group 0 is perfect; group 1 calls both its class-0 samples class 2, of its 4 others none.
    # TPR gaps 1, 0, 0; FPR gaps 0, 0, 2/4.
    metrics = evaluate_table([[[2, 0, 0], [0, 2, 0], [0, 0, 2]], [[0, 0, 2], [0, 2, 0], [0, 0, 2]]]).metrics
    assert metrics["eod_max"] == pytest.approx(1 / 3)
    assert metrics["equalized_odds"] == pytest.approx(1 / 2)
    assert metrics["equalized_odds_max"] == 1


@pytest.mark.parametrize("n_classes", [1, 2, 5])
def test_empty_input_is_nan_throughout(n_classes):
    result = evaluate([], [], [], [], n_classes=n_classes, n_groups=3)
    assert list(result.metrics) == list(METRICS)
    assert all(math.isnan(value) for value in result.metrics.values())
    assert_array_equal(result.confusion, np.zeros((n_classes, n_classes)))
    assert_array_equal(result.by_cell["count"], np.zeros((n_classes, 3)))
    for table in (result.by_class, result.by_group, result.by_cell):
        assert all(np.isnan(values).all() for name, values in table.items() if name not in ("count", "predicted"))


# --- losses that are not finite ---


@pytest.mark.parametrize(
    ("bad", "mean", "variance"), [([nan], nan, nan), ([inf], inf, nan), ([inf, -inf], nan, nan)], ids=str
)
def test_bad_loss_shows_in_the_loss_metrics_and_nowhere_else(bad, mean, variance):
    label, prediction, group = samples(THREE_CLASSES)
    clean = np.linspace(0.1, 2, len(label))
    loss = clean.copy()
    loss[np.flatnonzero(label == 1)[: len(bad)]] = bad
    with_bad = evaluate(label, prediction, loss, group, n_classes=3, n_groups=2)
    without = evaluate(label, prediction, clean, group, n_classes=3, n_groups=2)
    assert_array_equal([with_bad.metrics[name] for name in ("loss", "loss_variance")], [mean, variance])
    assert_array_equal(with_bad.by_class["loss"][[0, 2]], without.by_class["loss"][[0, 2]])
    assert_array_equal(with_bad.by_class["loss"][1], mean)
    for name in METRICS.keys() - {"loss", "loss_variance"}:
        assert_array_equal(with_bad.metrics[name], without.metrics[name], name)
