"""Importance: what moves an objective is found, what does not is not, noise is called noise, few trials are refused."""

import numpy as np
import pytest

from analysis.figures import importance
from tests.analysis.handmade import search, trial


def search_of(n: int = 30, noise: float = 0.01):
    """Accuracy follows the learning rate alone, ΔF1 λ alone (constant where there is none)."""
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        method = ("fft", "fairfft", "lora")[i % 3]
        lr, lam, decay = 10 ** rng.uniform(-4, -2), 10 ** rng.uniform(-2, 1), 10 ** rng.uniform(-4, -1)
        values = {"lr": lr, "weight_decay": decay, **({"lam": lam} if method == "fairfft" else {})}
        values |= {"rank": (4, 8)[i % 2]} if method == "lora" else {}
        accuracy = 0.8 + 0.05 * np.log10(lr / 1e-3) + noise * rng.normal()
        delta = 0.5 + (0.1 * np.log10(lam) if method == "fairfft" else 0) + noise * rng.normal()
        rows.append(trial(i, method, val_accuracy=accuracy, val_delta_f1=delta, **values))
    return search(*rows)


@pytest.fixture(scope="module")
def measured():
    return importance.measure(search_of(36)).set_index(["objective", "hyperparameter"])


def test_what_moves_an_objective_comes_first(measured):
    accuracy = measured.loc["val_accuracy"]
    assert accuracy["importance"].idxmax() == "lr" and accuracy.loc["lr", "low"] > 0.3
    assert abs(accuracy.loc["weight_decay", "importance"]) < 0.1 and accuracy.loc["lr", "r2"] > 0.6
    assert measured.loc["val_delta_f1"]["importance"].idxmax() == "lam"


def test_a_hyperparameter_is_measured_among_those_that_have_it(measured):
    counts = measured.loc["val_accuracy"]["configurations"].to_dict()
    assert counts == {"method": 36, "lr": 36, "weight_decay": 36, "lam": 12, "rank": 12}


def test_the_same_record_gives_the_same_numbers():
    record = search_of(12)
    one, two = importance.measure(record), importance.measure(search_of(12))
    assert one.equals(two)
    few = one[one["hyperparameter"] == "lam"]  # four configurations have it
    assert few["importance"].isna().all() and few["configurations"].tolist() == [4, 4]
    assert any(row[3] == "too few" for row in importance.table(record).rows)


def test_noise_is_called_noise():
    rng = np.random.default_rng(3)
    rows = [trial(i, "fft", lr=10 ** rng.uniform(-4, -2), val_accuracy=rng.uniform()) for i in range(30)]
    record = search(*rows)
    measured = importance.measure(record)
    assert (measured[measured["objective"] == "val_accuracy"]["r2"] < 0.1).all()
    assert measured[measured["objective"] == "val_delta_f1"]["importance"].isna().all()  # the same in every trial
    ax = importance.figure(record).axes[0]
    assert {patch.get_facecolor() for patch in ax.patches} == {(0.8, 0.8, 0.8, 1.0)}


def test_too_few_complete_trials_are_refused():
    rows = [trial(i, "fft", lr=0.01 * (i + 1), status="complete" if i < 9 else "stopped") for i in range(20)]
    with pytest.raises(ValueError, match="needs 10 complete configurations, but the search has 9"):
        importance.measure(search(*rows))
