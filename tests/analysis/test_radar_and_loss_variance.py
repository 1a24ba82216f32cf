"""The radar's scale is what it says, and bars show values from zero."""

import math

import pandas as pd
import pytest

from analysis.figures import loss_variance, radar
from tests.analysis.handmade import search, trial


@pytest.fixture
def record():
    return search(
        trial(0, "lora", val_accuracy=0.7, val_delta_f1=0.3, val_loss_variance=0.4, val_eod_max=math.nan),
        trial(1, "fft", val_accuracy=0.8, val_delta_f1=0.2, val_loss_variance=0.1),
        trial(2, "fairfft", val_accuracy=0.75, val_delta_f1=0.4, val_loss_variance=0.2),
    )


def test_each_metric_runs_from_the_worst_to_the_best_and_outside_is_better():
    rows = pd.DataFrame(
        {
            "val_accuracy": [0.7, 0.8, 0.75],
            "val_delta_f1": [0.3, 0.2, 0.4],
            "val_min_f1": 0.5,
            "val_eod_max": [0.1, math.nan, 0.2],
        }
    )
    scaled = radar.scaled(rows)
    assert list(scaled) == ["val_accuracy", "val_min_f1", "val_delta_f1"]  # a polygon has no gap for a NaN
    assert scaled["val_accuracy"].tolist() == pytest.approx([0, 1, 0.5])
    assert scaled["val_delta_f1"].tolist() == pytest.approx([0.5, 1, 0])
    assert scaled["val_min_f1"].tolist() == [1, 1, 1]


def test_the_radar_says_how_it_is_scaled(record):
    page = radar.figure(record)
    ax = page.axes[0]
    spokes = [label.get_text() for label in ax.get_xticklabels()]
    assert "ΔF1\n0.4 → 0.2" in spokes and "accuracy\n0.7 → 0.8" in spokes
    assert not any(spoke.startswith("EOD max") for spoke in spokes)
    assert "validation" in page.get_suptitle() and "worst (centre) to the best (rim)" in page.get_suptitle()
    assert [t.get_text() for t in page.legends[0].get_texts()] == ["LoRA r8", "FFT", "FairFFT λ1"]
    with pytest.raises(ValueError, match="a radar compares methods"):
        radar.figure(search(trial(0)))


def test_bars_stand_on_zero_with_their_values(record):
    ax = loss_variance.figure(record).axes[0]
    assert [bar.get_height() for bar in ax.patches] == [0.4, 0.1, 0.2] and ax.get_ylim()[0] == 0
    assert [t.get_text() for t in ax.texts] == ["0.4", "0.1", "0.2"]
    assert ax.get_ylabel() == "validation loss variance (nats², less is better)"
    with pytest.raises(ValueError, match="no complete configuration has"):
        loss_variance.figure(search(trial(0, status="failed")))
