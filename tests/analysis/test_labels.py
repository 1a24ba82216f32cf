"""Every metric has a name, a direction and a unit that fit its row in METRICS."""

import pytest

from analysis import labels
from trainables.config import METHODS
from trainables.metrics import COUNTS, METRICS


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in COUNTS])
def test_labels_say_split_direction_and_unit(metric):
    word = {"maximize": "more is better", "minimize": "less is better"}[METRICS[metric].direction]
    assert labels.axis(f"val_{metric}").startswith("validation ") and word in labels.axis(f"val_{metric}")
    assert labels.axis(f"test_{metric}").startswith("test ")
    unit = "nats²" if "nats squared" in METRICS[metric].formula else "nats" if "nats" in METRICS[metric].formula else ""
    assert (f"({unit}" in labels.heading(metric)) == bool(unit)
    assert labels.heading(metric).endswith("↑" if METRICS[metric].direction == "maximize" else "↓")


def test_names_are_those_of_the_papers():
    names = {"val_delta_f1": "ΔF1", "test_eod_max": "EOD max", "val_delta_group_accuracy": "Δgroup accuracy"}
    names |= {"val_worst_cell_accuracy": "worst group accuracy", "test_min_group_accuracy": "worst attribute accuracy"}
    assert {metric: labels.name(metric) for metric in names} == names
    assert labels.axis("val_loss_variance") == "validation loss variance (nats², less is better)"


def test_what_is_no_metric_has_no_direction():
    with pytest.raises(KeyError):
        labels.direction("val_beauty")


def test_every_method_has_a_style_of_its_own_and_a_partner_without_the_penalty():
    styles = labels.METHOD_STYLES
    assert list(styles) == list(METHODS)
    for field in ("name", "color", "marker", "dashes", "hatch"):
        assert len({getattr(style, field) for style in styles.values()}) == len(styles), field
    for method, style in styles.items():
        assert (style.plain is not None) == METHODS[method].fair
        assert style.plain is None or METHODS[style.plain].lora == METHODS[method].lora


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (8, "8"), ("qkv", "qkv"), (None, "–"), (float("nan"), "–"), (True, "True")],
)
def test_numbers_have_four_decimals_and_what_is_none_a_dash(value, text):
    assert labels.number(value) == text and labels.number(8.0, ".3g") == "8"
