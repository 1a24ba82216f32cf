"""Hypervolume over trials and epochs: against the measure of every prefix, and against what must not count."""

import numpy as np
import pandas as pd
import pytest

from analysis.figures import convergence
from analysis.pareto import as_minimization, hypervolume
from tests.analysis.handmade import search, trial


def claimed(costs: np.ndarray) -> np.ndarray:
    """Single trainings stand halfway to the median, but for those of three or fewer configurations."""
    return (costs + np.median(costs, axis=0)) / 2 if len(costs) > 3 else costs


def test_it_is_the_hypervolume_of_what_every_prefix_claims():
    values = np.random.default_rng(0).uniform(0, 1, (30, 2))
    values[5] = values[3]
    status = ["complete" if i % 3 else "stopped" for i in range(30)]
    rows = [
        trial(i, status=s, epochs_trained=8 if s == "complete" else 2, val_accuracy=a, val_delta_f1=d)
        for i, (s, (a, d)) in enumerate(zip(status, values))
    ]
    record = search(*rows)
    growth = convergence.growth(record)
    costs = as_minimization(values, ["maximize", "minimize"])
    for n in range(30):
        done = [i for i in range(n + 1) if status[i] == "complete"]
        assert growth["hypervolume"][n] == pytest.approx(hypervolume(claimed(costs[done]), [0.0, 1.0]))
        assert growth["epochs"][n] == sum(8 if status[i] == "complete" else 2 for i in range(n + 1))
    assert (np.diff(growth["hypervolume"]) < 0).any()  # luck that is seen through makes it smaller
    assert growth["grew"].tolist() == (np.diff(growth["hypervolume"], prepend=0) > 0).tolist()


def test_the_order_of_ends_may_be_another_and_running_trials_are_not_there():
    record = search(
        trial(0, val_accuracy=0.9, val_delta_f1=0.5),
        trial(1, val_accuracy=0.5, val_delta_f1=0.5),
        trial(2, status="running", val_accuracy=0.99, val_delta_f1=0.0),
    )
    order = pd.DataFrame({"number": [1, 0], "epochs": [9, 16]})
    growth = convergence.growth(record, order)
    assert growth["number"].tolist() == [1, 0] and growth["epochs"].tolist() == [9, 16]
    assert growth["hypervolume"].tolist() == pytest.approx([0.25, 0.45])
    assert convergence.growth(record)["number"].tolist() == [0, 1]


def test_what_breaks_a_constraint_and_what_lacks_a_seed_adds_nothing():
    record = search(trial(0, val_accuracy=0.9, val_delta_f1=0.1, feasible=False))
    assert convergence.growth(record)["hypervolume"].tolist() == [0.0]
    rows = [trial(i, seed=i % 2, val_accuracy=a, val_delta_f1=0.5) for i, a in enumerate((0.4, 0.6, 0.9))]
    growth = convergence.growth(search(*rows, seeds=2))  # the third trial waits for its second seed
    assert growth["hypervolume"].tolist() == pytest.approx([0.0, 0.25, 0.25])


def test_a_lucky_training_that_is_trained_again_makes_the_front_smaller():
    rows = [
        trial(0, val_accuracy=0.9, val_delta_f1=0.5),
        trial(1, lr=0.002, val_accuracy=0.6, val_delta_f1=0.5),
        trial(2, val_accuracy=0.7, val_delta_f1=0.5, repeats=0),
        trial(3, lr=0.003, val_accuracy=0.85, val_delta_f1=0.5),  # one training does not stand beside a mean of two
    ]
    growth = convergence.growth(search(*rows[:3], reseed=0.25))
    assert growth["hypervolume"].tolist() == pytest.approx([0.45, 0.45, 0.40])
    assert growth["grew"].tolist() == [True, False, False]
    with_it, plain = (convergence.growth(search(*rows, reseed=share))["hypervolume"][3] for share in (0.25, 0.0))
    assert (with_it, plain) == pytest.approx((0.8 * 0.5, 0.85 * 0.5))


def test_a_loss_is_measured_from_a_uniform_guess():
    record = search(trial(0, val_loss=0.0), objectives={"val_accuracy": "maximize", "val_loss": "minimize"})
    assert convergence.reference_of(record) == pytest.approx([0.0, np.log(10)])
    assert convergence.growth(record)["hypervolume"].tolist() == pytest.approx([0.5 * np.log(10)])


def test_the_figure_says_validation_and_which_order():
    record = search(trial(0, val_accuracy=0.9), trial(1, "fft", val_accuracy=0.95))
    left = convergence.figure(record).axes[0]
    assert left.get_xlabel() == "trials ended, in the order of their start"
    assert left.get_ylabel() == "validation hypervolume (more is better)"
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["LoRA", "FFT"]
    assert (
        convergence.figure(record, pd.DataFrame({"number": [0, 1], "epochs": [8, 16]})).axes[0].get_xlabel()
        == "trials ended, as they ended"
    )
    assert convergence.figure(search(trial(0, status="failed"))).axes[0].get_ylim() == (0.0, 1.0)
