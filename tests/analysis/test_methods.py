"""Method by metric as the papers print it; and the papers' own numbers, which stay apart."""

import csv
import math

import pandas as pd
import pytest

from analysis.results import NothingToShow
from analysis.tables import confirmed, methods, published
from tests.analysis.handmade import search, trial
from tests.conftest import SHARED

TWO = ("accuracy", "delta_f1")


def test_percent_with_the_best_in_bold_and_no_deviation_of_one_seed():
    record = search(
        trial(0, "lora", val_accuracy=0.8, val_delta_f1=0.25),
        trial(1, "fairlora", lam=0.1, val_accuracy=0.81239, val_delta_f1=0.2),
        trial(2, "fft", val_accuracy=0.81241, val_delta_f1=math.nan),
    )
    table = methods.table(record, metrics=TWO)
    assert table.header == ("method", "trial", "rank", "λ", "accuracy ↑", "ΔF1 ↓")
    assert table.rows == (
        ("LoRA", "0", "8", "–", "80.00", "25.00"),
        ("FairLoRA", "1", "8", "0.1", "81.24", "20.00"),
        ("FFT", "2", "–", "–", "81.24", "–"),
    )
    assert table.best == {(1, 4), (2, 4), (1, 5)}  # what is printed alike is bold alike
    assert "validation" in table.caption and "one seed" in table.note and "highest validation accuracy" in table.note


def test_seeds_give_mean_and_deviation():
    record = search(trial(0, seed=0, val_accuracy=0.8), trial(1, seed=1, val_accuracy=0.9), seeds=2)
    assert methods.table(record, metrics=("accuracy",)).rows[0][-1] == "85.00 ± 7.07"
    assert "2 seeds" in methods.table(record).note


def test_loss_variance_stays_in_nats_squared():
    table = methods.table(search(trial(0, val_loss_variance=0.12345)))
    assert table.header[-1] == "loss variance (nats²) ↓" and table.rows[0][-1] == "0.1235"


def test_it_may_be_chosen_by_another_metric():
    record = search(trial(0, val_accuracy=0.9, val_delta_f1=0.5), trial(1, val_accuracy=0.8, val_delta_f1=0.1))
    assert methods.table(record).rows[0][1] == "0"
    assert methods.table(record, by="val_delta_f1").rows[0][1] == "1"


def test_a_search_without_a_complete_trial_has_no_table():
    with pytest.raises(NothingToShow, match="no complete configuration has a validation accuracy"):
        methods.table(search(trial(0, status="failed")))


def test_confirmed_numbers_say_test_and_keep_what_they_were_trained_on_apart():
    rows = [
        {"number": n, "trained_on": on, "test_accuracy": a, "test_delta_f1": 0.2}
        for n, on, a in [(2, "train", 0.7), (3, "train", 0.8), (0, "train", 0.6), (2, "trainval", 0.9)]
    ]
    trials = [trial(n, "fft" if n < 2 else "lora", seed=n % 2) for n in range(4)]
    table = confirmed.table(search(*trials, seeds=2, confirmed=rows), TWO)
    assert "test" in table.caption and "validation" not in table.caption
    assert table.header == ("method", "trial", "rank", "λ", "trained on", "accuracy ↑", "ΔF1 ↓")
    assert [row[:2] + row[4:6] for row in table.rows] == [
        ("LoRA", "2", "train", "75.00 ± 7.07"),
        ("LoRA", "2", "train and val", "90.00"),
        ("FFT", "0", "train", "60.00"),
    ]


def test_what_was_not_confirmed_has_no_test_table():
    with pytest.raises(NothingToShow, match="nothing of this search was measured on the test split"):
        confirmed.table(search(trial(0)))


def test_the_papers_numbers_are_complete_and_cited():
    found = published.numbers()
    assert len(found) == 3 * 4 * (4 + 4 + 2 + 4) and not found.duplicated(list(found.columns[:5])).any()
    assert "arXiv 2410.17358" in published.CITATION
    row = found.query("table == 3 and backbone == 'vit_b16' and method == 'fairlora' and metric == 'eod_max'")
    assert row[["mean_percent", "std_percent"]].to_numpy().tolist() == [[26.82, 5.69]]
    table = published.printed(6)
    assert len(table.rows) == 12 and published.CITATION in table.note and "validation" not in table.caption
    assert table.rows[1] == ("clip_b32", "FairLoRA", "86.67 ± 2.56", "27.44 ± 15.30", "24.81 ± 14.07", "71.06 ± 13.78")
    with pytest.raises(KeyError):
        published.printed(5)


def test_the_papers_numbers_are_the_shared_ones():
    source = SHARED / "papers" / "fairlora_tables.csv"
    if not source.is_file():
        pytest.skip("no shared/papers beside the project")
    ours = {"f1_min": "min_f1", "recall_min": "min_recall"}
    with open(source) as file:
        rows = [{**row, "metric": ours.get(row["metric"], row["metric"])} for row in csv.DictReader(file)]
    expected = pd.DataFrame(rows).astype({"table": int, "mean_percent": float, "std_percent": float})
    pd.testing.assert_frame_equal(published.numbers(), expected, check_dtype=False)
