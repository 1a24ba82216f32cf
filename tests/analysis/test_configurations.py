"""Means over seeds, and which configuration stands for its method."""

import math

import pytest

from analysis import configurations
from analysis.results import NothingToShow
from tests.analysis.handmade import search, trial


def test_a_configuration_is_the_mean_of_its_seeds_with_their_deviation():
    record = search(
        trial(0, seed=0, val_accuracy=0.6, val_min_f1=0.1),
        trial(1, seed=1, val_accuracy=0.8, val_min_f1=math.nan),
        trial(2, seed=0, method="fft"),
        trial(3, seed=1, method="fft", status="failed"),
        seeds=2,
    )
    (row,) = configurations.complete(record).to_dict("records")
    assert row["number"] == 0 and row["method"] == "lora" and row["rank"] == 8
    assert row["val_accuracy"] == pytest.approx(0.7) and row["val_accuracy_sd"] == pytest.approx(0.2 / 2**0.5)
    assert math.isnan(row["val_min_f1"])  # one seed's is no mean over seeds


def test_the_chosen_is_the_best_of_each_method_in_the_metrics_direction():
    record = search(
        trial(0, "fft", val_accuracy=0.7, val_delta_f1=0.1),
        trial(1, "fft", val_accuracy=0.8, val_delta_f1=0.2),
        trial(2, "fft", val_accuracy=0.8, val_delta_f1=0.3),  # as good, but later
        trial(3, "fft", val_accuracy=0.9, feasible=False),
        trial(4, "fft", val_accuracy=0.99, status="stopped"),
        trial(5, "lora", val_accuracy=0.5),
    )
    assert configurations.chosen(record)["number"].tolist() == [5, 1]  # in the order of METHODS
    assert configurations.chosen(record, "val_delta_f1")["number"].tolist() == [5, 0]
    assert "highest validation accuracy" in configurations.rule(record)
    assert configurations.rule(record, "val_delta_f1").endswith("configuration with the lowest validation ΔF1")
    two = search(trial(0, seed=0), trial(1, seed=1), seeds=2, constraints=["val_accuracy>=0.6"])
    assert configurations.rule(two).endswith("with the highest mean validation accuracy, within the constraints")
    assert configurations.seeds_in_words(two) == "mean ± standard deviation over 2 seeds"


def test_one_seed_has_no_deviation_and_says_so():
    record = search(trial(0))
    assert configurations.complete(record)["val_accuracy_sd"].isna().all()
    assert configurations.seeds_in_words(record) == "one seed, so no standard deviation"


def test_without_a_complete_trial_there_are_no_rows():
    record = search(trial(0, status="stopped"), trial(1, "fft", status="failed"))
    assert len(configurations.complete(record)) == len(configurations.eligible(record)) == 0
    with pytest.raises(NothingToShow, match="no complete configuration has a validation ΔF1"):
        configurations.chosen(record, "val_delta_f1")


def test_titles_name_what_a_method_has():
    kinds = [("fairlora", {"rank": 16, "lam": 0.1}), ("lora", {"rank": 0}), ("fft", {}), ("fairfft", {"lam": 0.0})]
    rows = [search(trial(0, method, **values)).trials.iloc[0] for method, values in kinds]
    assert [configurations.title(row) for row in rows] == ["FairLoRA r16 λ0.1", "LoRA r0", "FFT", "FairFFT λ0"]
