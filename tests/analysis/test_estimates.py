"""Estimates of configurations: no luck on average, intervals that hold, and the cases where there is nothing to say."""

import numpy as np
import pytest

from analysis.estimates import Estimates, estimate, membership, seed_draws, standing
from analysis.pareto import front


def of(trainings: list[np.ndarray]) -> Estimates:
    """From the trainings ``[seeds, m]`` of each configuration."""
    return estimate(np.concatenate(trainings), np.repeat(np.arange(len(trainings)), [len(v) for v in trainings]))


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
        made = of(trainings)
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
    made = of(trainings)
    centre = np.median([values.mean() for values in trainings])
    drawn = 3.0 - made.mean[-2:, 0]
    assert centre < made.mean[-2, 0] < made.mean[-1, 0] < 3.0 and drawn[0] > 1.5 * drawn[1]
    assert made.error[-2, 0] == pytest.approx(made.error[-1, 0] * 3**0.5)
    assert made.freedom.tolist() == [4.0] * 21 + [6.0] and made.half[-1, 0] < made.half[-2, 0]


def test_equal_seeds_keep_their_order_and_the_front():
    rng = np.random.default_rng(2)
    _, trainings = world(rng, 30, np.full(30, 2))
    means, made = np.array([values.mean(axis=0) for values in trainings]), of(trainings)
    assert (np.argsort(means, axis=0) == np.argsort(made.mean, axis=0)).all()
    assert (front(means) == front(made.mean)).all()


def test_fewer_than_four_are_worth_their_means_and_only_repeats_say_how_noisy_they_are():
    alone = of([np.array([[0.7]]), np.array([[0.5]]), np.array([[0.8]])])
    assert alone.mean[:, 0].tolist() == [0.7, 0.5, 0.8] and np.isnan(alone.error).all()
    repeated = of([np.array([[0.7], [0.8], [0.9]]), np.array([[0.5]]), np.array([[0.2], [0.4]])])
    assert repeated.mean[:, 0] == pytest.approx([0.8, 0.5, 0.3])
    noise = (0.02 + 0.02) / 3  # squares by their degrees of freedom: no guess is among them
    assert repeated.error[:, 0] == pytest.approx(np.sqrt([noise / 3, noise, noise / 2]))
    assert repeated.freedom.tolist() == [3.0] * 3


def test_where_nothing_differs_nothing_is_changed():
    alone = of([np.array([[0.7, 0.2]])])
    assert alone.mean.tolist() == [[0.7, 0.2]] and np.isnan(alone.error).all()
    same = of([np.array([[0.7, 0.2]])] * 5)
    assert same.mean.tolist() == [[0.7, 0.2]] * 5 and same.half.tolist() == [[0.0, 0.0]] * 5


def test_a_few_bad_configurations_do_not_make_every_difference_look_real():
    rng = np.random.default_rng(3)
    good = [rng.normal(0.75, 0.01, (1, 1)) for _ in range(15)]
    noise = of(good).noise[0]
    assert of([*good, np.array([[0.2]]), np.array([[0.1]])]).noise[0] < 2 * noise


def test_where_most_are_equal_the_others_keep_a_worth_of_their_own():
    """The recall of the worst class is 0 in most configurations of a hard task: their median deviation, too."""
    rest = [np.array([[0.1 + 0.2]])] * 4 + [np.array([[0.3]])] * 4  # equal but for rounding
    made = of([*rest, np.array([[0.55], [0.65]]), np.array([[0.8]])])
    assert 0.3 < made.mean[-2, 0] < 0.6 and made.mean[-2, 0] < made.mean[-1, 0] < 0.8
    assert made.mean[:8, 0] == pytest.approx(0.3) and (made.half > 0).all()


def test_membership_is_the_share_of_draws_on_the_front():
    costs = np.array([[0.0, 1.0], [1.0, 0.0], [0.02, 1.02], [5.0, 5.0]])
    chance = membership(seed_draws(costs, np.full((4, 2), 0.05), draws=2000))
    assert chance[1] == 1.0 and chance[3] == 0.0 and 0.2 < chance[2] < chance[0] < 1.0
    assert (chance == membership(seed_draws(costs, np.full((4, 2), 0.05), draws=2000))).all()


def test_one_lucky_training_does_not_stand_beside_means_of_several():
    costs = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [3.0, 3.0]])
    able = np.array([True, True, True, True])
    assert standing(costs, able, np.zeros(4, bool)).tolist() == [True, False, False, False]
    repeated = np.array([False, True, True, True])
    assert standing(costs, able, repeated).tolist() == [False, True, True, False]
    assert standing(costs, np.array([True, False, False, False]), repeated).tolist() == [True, False, False, False]
    assert not standing(costs, np.zeros(4, bool), repeated).any()


def test_of_a_few_only_repetitions_tell_the_noise():
    """Two configurations of three trainings each: their deviations, pooled, with four degrees of freedom."""
    made = of([np.array([[0.5], [0.6], [0.7]]), np.array([[0.1], [0.1], [0.1]])])
    assert made.noise == pytest.approx([np.sqrt(0.02 / 4)]) and made.freedom.tolist() == [4.0, 4.0]
    assert made.mean[:, 0] == pytest.approx([0.6, 0.1]) and made.error[:, 0] == pytest.approx([np.sqrt(0.005 / 3)] * 2)
