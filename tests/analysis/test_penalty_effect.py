"""With the penalty less without: equal configurations where there are any, and the best of each where not."""

import math

import pytest

from analysis.figures import penalty_effect
from analysis.results import NothingToShow
from analysis.table import to_markdown
from tests.analysis.handmade import search, trial


def test_configurations_that_differ_in_the_penalty_alone_are_paired():
    record = search(
        trial(0, "lora", rank=8, val_accuracy=0.7, val_delta_f1=0.3),
        trial(1, "fairlora", rank=8, lam=0.1, val_accuracy=0.72, val_delta_f1=0.2),
        trial(2, "fairlora", rank=8, lam=1.0, groups="sensitive", val_accuracy=0.65, val_delta_f1=0.1),
        trial(3, "fairlora", rank=4, lam=1.0, val_accuracy=0.99),  # another rank
        trial(4, "fairlora", rank=8, lam=1.0, lr=0.5, val_accuracy=0.99),  # another learning rate
        trial(5, "fairlora", rank=8, lam=10.0, status="stopped"),
    )
    compared = penalty_effect.pairs(record)
    assert compared[["fair", "plain"]].to_numpy().tolist() == [[1, 0], [2, 0]]
    assert compared["val_accuracy"].tolist() == pytest.approx([0.02, -0.05])
    assert compared["val_delta_f1"].tolist() == pytest.approx([-0.1, -0.2])
    assert set(compared["kind"]) == {penalty_effect.EQUAL} and compared["val_accuracy_sd"].isna().all()


def test_without_such_pairs_the_best_stands_against_the_best_and_says_so():
    record = search(
        trial(0, "fft", lr=1e-4, val_accuracy=0.6),
        trial(1, "fft", lr=2e-4, val_accuracy=0.7),
        trial(2, "fairfft", lr=3e-4, lam=1.0, val_accuracy=0.8),
        trial(3, "fairfft", lr=4e-4, lam=0.1, val_accuracy=0.75),
    )
    (row,) = penalty_effect.pairs(record).to_dict("records")
    assert (row["fair"], row["plain"], row["kind"]) == (2, 1, penalty_effect.BEST)
    assert row["val_accuracy"] == pytest.approx(0.1) and row["title"] == "FairFFT λ1 less FFT"
    assert "best against best" in to_markdown(penalty_effect.table(record))


def test_seeds_are_compared_one_by_one():
    accuracies = {0: 0.70, 1: 0.80, 2: 0.71, 3: 0.83}
    kinds = {0: "fft", 1: "fft", 2: "fairfft", 3: "fairfft"}
    record = search(*(trial(n, kinds[n], seed=n % 2, val_accuracy=a) for n, a in accuracies.items()), seeds=2)
    (row,) = penalty_effect.pairs(record).to_dict("records")
    assert row["val_accuracy"] == pytest.approx(0.02)
    assert row["val_accuracy_sd"] == pytest.approx(math.sqrt(2) * 0.01)  # of 0.01 and 0.03, not of the methods' spread


def test_the_table_marks_what_is_better_and_the_figure_which_side_is():
    record = search(
        trial(0, "lora", val_accuracy=0.7, val_delta_f1=0.3),
        trial(1, "fairlora", val_accuracy=0.6, val_delta_f1=0.2),
    )
    table = penalty_effect.table(record)
    assert table.rows[0][3:5] == ("−0.1000", "−0.1000")
    assert (0, 4) in table.best and (0, 3) not in table.best
    labels = [ax.get_xlabel() for ax in penalty_effect.figure(record).axes[:2]]
    assert labels == [
        "validation accuracy,\nfair less plain (right is better)",
        "validation ΔF1,\nfair less plain (left is better)",
    ]


def test_nothing_to_compare_is_said():
    for show in (penalty_effect.figure, penalty_effect.table):
        with pytest.raises(NothingToShow, match="no complete configuration with the penalty stands beside one"):
            show(search(trial(0, "lora"), trial(1, "fairfft")))
