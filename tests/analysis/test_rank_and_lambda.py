"""Objectives against rank and λ, and where the front lies."""

import numpy as np
import pytest

from analysis.figures import rank_and_lambda
from analysis.results import NothingToShow
from analysis.tables import front_share
from tests.analysis.handmade import search, trial


@pytest.fixture
def record():
    return search(
        trial(0, "lora", rank=8, val_accuracy=0.7),
        trial(1, "lora", rank=8, val_accuracy=0.8, val_delta_f1=0.3, on_front=True),
        trial(2, "lora", rank=0, val_accuracy=0.6),
        trial(3, "fairlora", rank=64, lam=0.1, val_accuracy=0.75, on_front=True),
        trial(4, "fairlora", rank=64, lam=0.5, val_accuracy=0.72),
        trial(5, "fft", val_accuracy=0.9),
        trial(6, "fairfft", lam=1.0, val_accuracy=0.85),
        trial(7, "fairfft", lam=0.0, val_accuracy=0.86),
        trial(8, "lora", rank=2, status="stopped", val_accuracy=0.99),
    )


def test_one_configuration_a_rank_and_method_is_chosen(record):
    rows = rank_and_lambda.points(record, "rank")
    assert rows["number"].tolist() == [2, 0, 1, 3, 4]
    assert rows[rows["chosen"]]["number"].tolist() == [2, 1, 3]
    assert rank_and_lambda.others(record, "rank")["number"].tolist() == [5, 7]


def test_lambda_is_taken_by_decades(record):
    assert rank_and_lambda.decade(record.trials["lam"].dropna()).tolist() == [-1, -1, 0, -np.inf]
    tens = rank_and_lambda.decade(
        search(*(trial(i, "fairfft", lam=10.0**e) for i, e in enumerate(range(-6, 7)))).trials["lam"]
    )
    assert tens.tolist() == list(range(-6, 7))
    rows = rank_and_lambda.points(record, "lam")
    assert rows[rows["chosen"]]["number"].tolist() == [7, 3, 6]


def test_the_rank_figure_shows_lines_levels_and_all_dots(record):
    page = rank_and_lambda.figure(record, "rank")
    ax = page.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "8", "64"]
    assert ax.get_ylabel() == "validation accuracy (more is better)"
    assert page.axes[1].get_ylabel() == "validation ΔF1 (less is better)"
    assert sum(len(dots.get_offsets()) for dots in ax.collections) == 5
    lines = {line.get_label(): line for line in ax.lines}
    lora = ax.containers[0].lines[0]
    assert lora.get_xdata().tolist() == [0, 1] and lora.get_ydata().tolist() == [0.6, 0.8]
    assert lines["FFT"].get_ydata() == [0.9, 0.9]
    assert [t.get_text() for t in page.legends[0].get_texts()] == ["FFT", "FairFFT", "LoRA", "FairLoRA"]


def test_what_no_configuration_has_cannot_be_drawn_against():
    with pytest.raises(ValueError, match="no complete configuration has a rank"):
        rank_and_lambda.figure(search(trial(0, "fft")), "rank")
    with pytest.raises(ValueError, match="no complete configuration has a λ"):
        rank_and_lambda.figure(search(trial(0, "fairfft", status="stopped")), "lam")


def test_seeds_give_bars(record):
    rows = [trial(i, "lora", rank=8, seed=i, val_accuracy=a) for i, a in enumerate((0.7, 0.8))]
    ax = rank_and_lambda.figure(search(*rows, seeds=2), "rank").axes[0]
    (bar,) = ax.containers[0].lines[2][0].get_segments()
    assert bar[:, 1].tolist() == pytest.approx([0.75 - 0.1 / 2**0.5, 0.75 + 0.1 / 2**0.5])


def test_places_count_complete_and_front_by_value(record):
    assert front_share.counts(record, "method").to_numpy().tolist() == [
        ["lora", 3, 1],
        ["fairlora", 2, 1],
        ["fft", 1, 0],
        ["fairfft", 2, 0],
    ]
    assert front_share.counts(record, "rank").to_numpy().tolist() == [[0, 1, 0], [8, 2, 1], [64, 2, 1]]
    assert front_share.counts(record, "lam").to_numpy().tolist() == pytest.approx(
        np.array([[0, 1, 0], [0.1, 2, 1], [1, 1, 0]])
    )
    rows = front_share.table(record).rows
    assert ("λ", "0.1 to 1", "2", "1", "50 %") in rows and ("λ", "0", "1", "0", "0 %") in rows


def test_places_of_nothing_are_empty():
    with pytest.raises(NothingToShow, match="no configuration is complete"):
        front_share.table(search(trial(0, status="failed")))
