"""What each method was given, and the expected best of equally many: against all draws, one by one."""

from itertools import combinations

import numpy as np
import pytest

from analysis.results import NothingToShow
from analysis.tables import equal_effort
from tests.analysis.handmade import search, trial


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_the_expected_best_is_the_mean_over_all_draws(n):
    costs, worst = [0.3, 0.1, 0.2, 0.2], 0.9
    draws = [min(draw) for draw in combinations([*costs, worst, worst], n)]
    assert equal_effort.expected_best(costs, 6, n, worst) == pytest.approx(np.mean(draws))


def test_it_is_the_mean_of_one_and_the_best_of_all():
    assert equal_effort.expected_best([3, 1, 2], 3, 1, 9) == pytest.approx(2)
    assert equal_effort.expected_best([3, 1, 2], 3, 3, 9) == 1
    assert equal_effort.expected_best([1], 4, 2, 9) == pytest.approx((1 * 3 + 9 * 3) / 6)  # of six draws three have it


def test_a_method_that_was_given_more_has_no_more_luck():
    """FairLoRA: 0.80, 0.70, 0.60 and one that was stopped, in place of which the worst complete one of all, 0.50,
    stands. LoRA: 0.74, twice trained, and 0.50. FFT never came to an end; a running trial is nobody's effort yet."""
    record = search(
        trial(0, "lora", lr=1e-3, val_accuracy=0.75, val_delta_f1=0.1),
        trial(1, "lora", lr=2e-3, val_accuracy=0.50, val_delta_f1=0.3),
        *(trial(2 + i, "fairlora", lam=10.0**-i, val_accuracy=0.8 - 0.1 * i, val_delta_f1=0.2) for i in range(3)),
        trial(5, "fairlora", lam=100.0, status="stopped", val_accuracy=0.99),
        trial(6, "fft", status="collapsed"),
        trial(7, "fairlora", lam=5.0, status="running"),
        trial(8, "lora", lr=1e-3, repeats=0, val_accuracy=0.73, val_delta_f1=0.1),
    )
    table = equal_effort.table(record)
    assert table.header == (
        "method", "tried", "complete", "trainings", "accuracy, best", "best of 2", "ΔF1, best", "best of 2"
    )  # fmt: skip
    best = (0.8 * 3 + 0.7 * 2 + 0.6) / 6
    assert table.rows == (
        ("LoRA", "2", "2", "3", "0.7400", "0.7400", "0.1000", "0.1000"),
        ("FairLoRA", "4", "3", "4", "0.8000", f"{best:.4f}", "0.2000", "0.2000"),
    )
    assert table.best == {(0, 5), (0, 7)}
    assert "validation" in table.caption and "Best of 2" in table.note


def test_what_breaks_a_constraint_is_as_good_as_the_worst():
    record = search(
        trial(0, "lora", lr=1e-3, val_accuracy=0.9, feasible=False),
        trial(1, "lora", lr=2e-3, val_accuracy=0.8),
        trial(2, "fft", lr=1e-3, val_accuracy=0.6),
    )
    assert [row[1:6] for row in equal_effort.table(record).rows] == [
        ("2", "2", "2", "0.8000", "0.7000"),
        ("1", "1", "1", "0.6000", "0.6000"),
    ]


def test_no_complete_configuration_is_said():
    with pytest.raises(NothingToShow, match="no method has a complete configuration"):
        equal_effort.table(search(trial(0, status="stopped")))
