"""The metrics against scikit-learn and fairlearn where they agree, then properties, then the rules of the input."""

import math
import subprocess
import sys

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, equal_opportunity_difference, equalized_odds_difference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from trainables.metrics import COUNTS, METRICS, OBJECTIVES, adjusted, cell_counts, evaluate, measure

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
nan = math.nan


# --- against scikit-learn and fairlearn, where all cells have support ---


def random_samples(n_classes, n_groups, seed, n=400):
    rng = np.random.default_rng(seed)
    label, group = rng.integers(0, n_classes, n), rng.integers(0, n_groups, n)
    wrong = rng.random(n) < 0.2 + 0.1 * group  # later groups are served worse
    return label, np.where(wrong, rng.integers(0, n_classes, n), label), rng.random(n), group


@pytest.mark.parametrize(("n_classes", "n_groups"), [(2, 2), (2, 4), (5, 2), (5, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_sklearn_and_metric_frame(n_classes, n_groups, seed):
    label, prediction, loss, group = random_samples(n_classes, n_groups, seed)
    result = evaluate(label, prediction, loss, group, n_classes=n_classes, n_groups=n_groups)
    assert result.metrics["accuracy"] == pytest.approx(accuracy_score(label, prediction))
    assert_array_equal(result.confusion, confusion_matrix(label, prediction))
    for name, score in (("f1", f1_score), ("recall", recall_score), ("precision", precision_score)):
        assert_allclose(result.by_class[name], score(label, prediction, average=None), err_msg=name)

    def macro_f1(y_true, y_pred):
        return f1_score(y_true, y_pred, average="macro")

    for name, score in (("accuracy", accuracy_score), ("macro_f1", macro_f1)):
        frame = MetricFrame(metrics=score, y_true=label, y_pred=prediction, sensitive_features=group)
        assert_allclose(result.by_group[name], frame.by_group.to_numpy(float), err_msg=name)
        short = name.removeprefix("macro_")
        assert result.metrics[f"min_group_{short}"] == pytest.approx(frame.group_min())
        assert result.metrics[f"delta_group_{short}"] == pytest.approx(frame.difference())


@pytest.mark.parametrize(("n_classes", "n_groups"), [(2, 2), (2, 4), (4, 2), (4, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_equalized_odds_agrees_with_fairlearn_one_class_against_the_rest(n_classes, n_groups, seed):
    label, prediction, loss, group = random_samples(n_classes, n_groups, seed)
    metrics = evaluate(label, prediction, loss, group, n_classes=n_classes, n_groups=n_groups).metrics
    classes = [1] if n_classes == 2 else range(n_classes)
    odds = [equalized_odds_difference(label == k, prediction == k, sensitive_features=group) for k in classes]
    assert metrics["equalized_odds"] == pytest.approx(np.mean(odds))
    assert metrics["equalized_odds_max"] == pytest.approx(max(odds))
    if n_groups == 2:  # the rest is the other group, so FairLoRA's EOD is fairlearn's difference
        gaps = [equal_opportunity_difference(label == k, prediction == k, sensitive_features=group) for k in classes]
        assert metrics["eod_max"] == pytest.approx(np.mean(gaps))
        assert metrics["eod_max_cell"] == pytest.approx(max(gaps))


# --- properties ---


@st.composite
def problems(draw, min_size=0):
    """(label, prediction, loss, group) and their K, G: small, so that empty classes, groups and cells are common."""
    n_classes, n_groups = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    index = st.tuples(st.integers(0, n_classes - 1), st.integers(0, n_classes - 1), st.integers(0, n_groups - 1))
    rows = draw(st.lists(st.tuples(index, st.floats(0, 20)), min_size=min_size, max_size=30))
    label, prediction, group = np.array([row[0] for row in rows], dtype=int).reshape(-1, 3).T
    loss = np.array([row[1] for row in rows], dtype=float)
    return (label, prediction, loss, group), {"n_classes": n_classes, "n_groups": n_groups}


def one_vs_rest_gaps(label, prediction, loss, group, n_classes, n_groups):
    """The EOD table by definition, sample by sample: ``[K, G]``."""
    gaps = np.full((n_classes, n_groups), nan)
    for k in range(n_classes):
        for s in range(n_groups):
            inside = [p == k for y, p, g in zip(label, prediction, group) if y == k and g == s]
            outside = [p == k for y, p, g in zip(label, prediction, group) if y == k and g != s]
            if inside and outside:
                gaps[k, s] = abs(sum(inside) / len(inside) - sum(outside) / len(outside))
    return gaps[[1]] if n_classes == 2 else gaps


@given(problems())
def test_eod_is_its_definition(problem):
    arrays, sizes = problem
    result = evaluate(*arrays, **sizes)
    gaps = one_vs_rest_gaps(*arrays, **sizes)
    means = [np.mean(column[~np.isnan(column)]) if (~np.isnan(column)).any() else nan for column in gaps.T]
    assert_allclose(result.by_group["eod"], means, atol=1e-12)
    known = [mean for mean in means if not math.isnan(mean)]
    assert_allclose(result.metrics["eod_max"], max(known, default=nan), atol=1e-12)


def rate(part):
    return sum(part) / len(part) if part else nan


@given(problems())
def test_the_odds_gap_is_its_definition(problem):
    """Sample by sample: a group against all others, true and false positives, one class against the rest."""
    (label, prediction, _, group), sizes = problem
    result = evaluate(*problem[0], **sizes)
    for s, value in enumerate(result.by_group["odds_gap"]):
        gaps = []
        for k in [1] if sizes["n_classes"] == 2 else range(sizes["n_classes"]):
            called = [
                [rate([p == k for y, p, g in zip(label, prediction, group) if (y == k) == truth and (g == s) == inside])
                 for inside in (True, False)]
                for truth in (True, False)
            ]  # fmt: skip
            gaps.append(max((abs(a - b) for a, b in called), key=lambda gap: (math.isnan(gap), gap)))
        known = [gap for gap in gaps if not math.isnan(gap)]
        assert_allclose(value, np.mean(known) if known else nan, atol=1e-12)


@given(problems(), st.lists(st.integers(0, 50), min_size=20, max_size=20))
def test_adjusted_accuracy_is_that_of_samples_weighted_like_the_training_split(problem, numbers):
    (label, prediction, _, group), sizes = problem
    training = np.reshape(numbers, (5, 4))[: sizes["n_classes"], : sizes["n_groups"]]
    here = cell_counts(label, group, **sizes)
    result = evaluate(*problem[0], **sizes)
    value = adjusted(result, training).metrics["adjusted_accuracy"]
    weights = np.array([training[y, g] / here[y, g] for y, g in zip(label, group)], float)
    right = (label == prediction).astype(float)
    assert_allclose(value, (weights * right).sum() / weights.sum() if weights.sum() else nan, atol=1e-12)
    assert_allclose(adjusted(result, 3 * training).metrics["adjusted_accuracy"], value, atol=1e-12)  # shares, not sizes
    # Weighted like the split itself it is the plain accuracy.
    own = adjusted(result, here).metrics
    assert_allclose(own["adjusted_accuracy"], own["accuracy"], atol=1e-12)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_many_tables_at_once_are_measured_as_one_by_one(n_classes, n_groups, seed):
    """Sparse tables, so that empty classes, groups and cells are common; some are empty altogether."""
    rng = np.random.default_rng(seed)
    shape = (3, 2, n_groups, n_classes, n_classes)
    tables = rng.poisson(rng.choice([0, 0.3, 3], size=(3, 2, 1, 1, 1)), shape)
    loss, training = rng.random((3, 2, n_classes)), rng.integers(0, 3, (n_classes, n_groups))
    together = adjusted(measure(tables, loss), training)
    for i in np.ndindex(3, 2):
        each = adjusted(measure(tables[i], loss[i]), training)
        for name, value in each.metrics.items():
            assert_allclose(together.metrics[name][i], value, rtol=1e-12, err_msg=name)
        for kind in ("by_class", "by_group", "by_cell"):
            for name, values in getattr(each, kind).items():
                assert_allclose(getattr(together, kind)[name][i], values, rtol=1e-12, err_msg=name)


@given(problems(), st.randoms(use_true_random=False))
def test_order_of_samples_changes_nothing(problem, random):
    arrays, sizes = problem
    order = random.sample(range(len(arrays[0])), len(arrays[0]))
    before, after = evaluate(*arrays, **sizes), evaluate(*(values[order] for values in arrays), **sizes)
    assert after.metrics == pytest.approx(before.metrics, nan_ok=True)
    assert_array_equal(after.confusion, before.confusion)


@given(problems(), st.randoms(use_true_random=False))
def test_names_of_groups_change_no_reduction(problem, random):
    (label, prediction, loss, group), sizes = problem
    new_name = np.array(random.sample(range(sizes["n_groups"]), sizes["n_groups"]))
    before = evaluate(label, prediction, loss, group, **sizes)
    after = evaluate(label, prediction, loss, new_name[group], **sizes)
    assert_array_equal(list(after.metrics.values()), list(before.metrics.values()))
    for name in ("eod", "odds_gap"):
        assert_array_equal(after.by_group[name][new_name], before.by_group[name])


@given(problems(min_size=1))
def test_perfect_predictions_leave_no_gap(problem):
    (label, _, loss, group), sizes = problem
    metrics = evaluate(label, label, loss, group, **sizes).metrics
    for name in ("accuracy", "min_f1", "macro_f1", "min_recall", "min_group_f1", "worst_cell_accuracy"):
        assert metrics[name] == 1, name
    pairs = {"delta_f1": len(set(label)), "delta_group_accuracy": len(set(group)), "delta_group_f1": len(set(group))}
    for name, n_supported in pairs.items():  # a lone class or group has no gap to measure
        assert metrics[name] == 0 if n_supported > 1 else math.isnan(metrics[name]), name
    for name in ("eod_max", "eod_max_cell", "equalized_odds", "equalized_odds_max"):
        assert metrics[name] == 0 or math.isnan(metrics[name]), name


@settings(max_examples=200)
@given(problems(min_size=1))
def test_values_stay_in_range_and_order(problem):
    arrays, sizes = problem
    result = evaluate(*arrays, **sizes)
    metrics = result.metrics
    for name in METRICS.keys() - {"loss", "loss_variance", *COUNTS}:
        assert 0 <= metrics[name] <= 1 or math.isnan(metrics[name]), name
    assert metrics["min_f1"] <= metrics["median_f1"] and metrics["min_recall"] <= metrics["median_recall"]
    assert metrics["worst_cell_accuracy"] <= metrics["min_group_accuracy"] <= metrics["accuracy"] + 1e-12
    assert not metrics["eod_max"] > metrics["eod_max_cell"] + 1e-12
    if sizes["n_classes"] == 2:  # the rest lies between the extremes
        assert not (result.by_group["odds_gap"] > metrics["equalized_odds"] + 1e-12).any()
    assert not (result.by_group["odds_gap"] < 0).any() and not (result.by_group["odds_gap"] > 1).any()
    assert not metrics["equalized_odds"] > metrics["equalized_odds_max"] + 1e-12
    assert metrics["min_cell_count"] <= min(metrics["min_class_count"], metrics["min_group_count"])
    for table in (result.by_class, result.by_group, result.by_cell):
        assert table["count"].sum() == len(arrays[0])


# --- the rules of the input, the tables of names ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0, 12]}, "`0 <= label < n_classes` must hold, but got label=12 with n_classes=10"),
        ({"prediction": [-1, 0]}, "`0 <= prediction < n_classes` must hold, but got prediction=-1 with n_classes=10"),
        ({"group": [0, 2]}, "`0 <= group < n_groups` must hold, but got group=2 with n_groups=2"),
        ({"label": [-1, 10]}, "`0 <= label < n_classes` must hold, but got label=-1 with n_classes=10"),
        ({"group": [1, -2]}, "`0 <= group < n_groups` must hold, but got group=-2 with n_groups=2"),
        ({"label": [0.0, 1.0]}, "`label` must hold integers, but got dtype float64"),
        ({"loss": [1.0]}, "must share one shape [n], but got [(2,), (2,), (1,), (2,)]"),
        ({"n_groups": 0}, "`n_classes >= 1` and `n_groups >= 1` must hold, but got n_classes=10 and n_groups=0"),
        ({"n_classes": 0}, "`n_classes >= 1` and `n_groups >= 1` must hold, but got n_classes=0 and n_groups=2"),
        ({"positive": 1}, "`positive` must be None unless n_classes=2, but got positive=1 with n_classes=10"),
        ({"n_classes": 2, "positive": 2}, "`0 <= positive < 2` must hold, but got positive=2"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_an_error_states_the_rule_then_the_value(change, message):
    good = {"label": [0, 1], "prediction": [0, 1], "loss": [1.0, 1.0], "group": [0, 1], "n_classes": 10, "n_groups": 2}
    evaluate(**good)
    with pytest.raises(ValueError) as error:
        evaluate(**good | change)
    assert message in str(error.value)


@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_one_shape_of_all_must_also_have_one_dimension(shape):
    zeros = np.zeros(shape, int)
    with pytest.raises(ValueError, match=r"must share one shape \[n\], but got \[\("):
        evaluate(zeros, zeros, zeros, zeros, n_classes=10, n_groups=2)


def test_a_lone_class_and_a_lone_group_are_measured():
    zeros = np.zeros(3, int)
    metrics = evaluate(zeros, zeros, zeros, zeros, n_classes=1, n_groups=1).metrics
    assert metrics["accuracy"] == metrics["min_f1"] == metrics["worst_cell_accuracy"] == 1 and metrics["loss"] == 0
    gaps = [name for name in METRICS if name.startswith(("delta", "eod", "equalized"))]
    assert all(math.isnan(metrics[name]) for name in gaps)  # nothing to compare with is not perfectly fair


def test_narrow_integers_do_not_overflow():
    # As uint8, (1 * 100 + 99) * 100 + 99 would wrap to another cell.
    wide = np.arange(100).repeat(2), np.roll(np.arange(100).repeat(2), 1), np.zeros(200), np.tile([0, 1], 100)
    narrow = [values.astype(np.uint8) if i != 2 else values for i, values in enumerate(wide)]
    expected, result = (evaluate(*arrays, n_classes=100, n_groups=2) for arrays in (wide, narrow))
    assert_array_equal(result.confusion, expected.confusion)
    assert result.metrics["accuracy"] == 0.5


def test_objectives_are_the_metrics_that_a_model_can_move():
    assert {name.removeprefix("val_") for name in OBJECTIVES} == METRICS.keys() - set(COUNTS)
    assert OBJECTIVES["val_accuracy"] == OBJECTIVES["val_worst_cell_accuracy"] == "maximize"
    assert OBJECTIVES["val_delta_f1"] == OBJECTIVES["val_eod_max"] == OBJECTIVES["val_loss"] == "minimize"


@pytest.mark.parametrize("name", METRICS)
def test_directions_follow_the_names_and_formulas_fit_a_help_line(name):
    better_small = ("delta", "eod", "equalized", "loss", "empty")
    assert METRICS[name].direction == ("minimize" if name.startswith(better_small) else "maximize")
    assert METRICS[name].formula and "\n" not in METRICS[name].formula
    assert "%" not in METRICS[name].formula  # argparse would expand it


def test_needs_numpy_alone():
    heavy = "torch pandas sklearn scipy ray mlflow optuna"
    code = f"import sys, trainables.metrics; print(*set('{heavy}'.split()) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
