"""Estimates of configurations: no luck on average, intervals that hold, and the cases where there is nothing to say."""

import numpy as np
import pytest

from analysis.estimates import estimate, membership
from analysis.pareto import front


def world(rng: np.random.Generator, configurations: int, seeds: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """True means ``[c, 2]`` (costs), and trainings with as much noise as there is between configurations."""
    true = rng.normal([-0.75, 0.3], [0.02, 0.04], (configurations, 2))
    return true, [mean + rng.normal(0, [0.02, 0.04], (n, 2)) for mean, n in zip(true, seeds)]


@pytest.mark.parametrize("again", [0, 4])
def test_the_front_of_estimates_is_worth_what_it_says_and_the_intervals_hold(again):
    rng, optimism, plain, held = np.random.default_rng(0), [], [], []
    for _ in range(300):
        true, trainings = world(rng, 16, np.ones(16, int))
        members = np.flatnonzero(front([values.mean(axis=0) for values in trainings]))
        plain.append((true - [values.mean(axis=0) for values in trainings])[members].mean(axis=0))
        for i in members[:again]:
            trainings[i] = np.vstack([trainings[i], true[i] + rng.normal(0, [0.02, 0.04])])
        made = estimate(trainings)
        members = np.flatnonzero(front(made.mean))
        optimism.append((true - made.mean)[members].mean(axis=0))
        held.append((np.abs(true - made.mean) <= made.half)[members].mean(axis=0))
    luck, rest = np.mean(plain, axis=0), np.mean(optimism, axis=0)
    assert (luck > [0.006, 0.015]).all()  # what a front of means claims too much
    assert (np.abs(rest) < luck / 4).all()
    assert (np.mean(held, axis=0) >= 0.93).all()


def test_more_seeds_are_drawn_less():
    rng = np.random.default_rng(1)
    trainings = [rng.normal(0, 1, (1, 1)) for _ in range(20)] + [np.full((1, 1), 3.0), np.array([[2.5], [3.0], [3.5]])]
    made = estimate(trainings)
    centre = np.median([values.mean() for values in trainings])
    drawn = 3.0 - made.mean[-2:, 0]
    assert centre < made.mean[-2, 0] < made.mean[-1, 0] < 3.0 and drawn[0] > 1.5 * drawn[1]
    assert made.error[-2, 0] == pytest.approx(made.error[-1, 0] * 3**0.5)
    assert made.freedom.tolist() == [4.0] * 21 + [6.0] and made.half[-1, 0] < made.half[-2, 0]


def test_equal_seeds_keep_their_order_and_the_front():
    rng = np.random.default_rng(2)
    _, trainings = world(rng, 30, np.full(30, 2))
    means, made = np.array([values.mean(axis=0) for values in trainings]), estimate(trainings)
    assert (np.argsort(means, axis=0) == np.argsort(made.mean, axis=0)).all()
    assert (front(means) == front(made.mean)).all()


def test_where_nothing_differs_nothing_is_changed():
    alone = estimate([np.array([[0.7, 0.2]])])
    assert alone.mean.tolist() == [[0.7, 0.2]] and alone.error.tolist() == [[0.0, 0.0]]
    same = estimate([np.array([[0.7, 0.2]])] * 5)
    assert same.mean.tolist() == [[0.7, 0.2]] * 5 and same.half.tolist() == [[0.0, 0.0]] * 5


def test_a_few_bad_configurations_do_not_make_every_difference_look_real():
    rng = np.random.default_rng(3)
    good = [rng.normal(0.75, 0.01, (1, 1)) for _ in range(15)]
    noise = estimate(good).noise[0]
    assert estimate([*good, np.array([[0.2]]), np.array([[0.1]])]).noise[0] < 2 * noise


def test_membership_is_the_share_of_draws_on_the_front():
    costs = np.array([[0.0, 1.0], [1.0, 0.0], [0.02, 1.02], [5.0, 5.0]])
    chance = membership(costs, np.full((4, 2), 0.05), draws=2000)
    assert chance[1] == 1.0 and chance[3] == 0.0 and 0.2 < chance[2] < chance[0] < 1.0
    assert (chance == membership(costs, np.full((4, 2), 0.05), draws=2000)).all()
