"""Fronts and volumes against closed forms, against the definitions written naively, and against Optuna."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from analysis.pareto import as_minimization, front, hypervolume, knee, ranks, reference_point
from tests.processes import patience
from trainables.metrics import OBJECTIVES

INF, NAN = np.inf, np.nan
SPHERE_DIRECTIONS = np.random.default_rng(7).normal(size=(60, 3))


def rows(values, max_columns, max_size):
    """[n, m] arrays with few distinct values, hence many ties and duplicates; n may be 0."""
    return st.integers(1, max_columns).flatmap(
        lambda m: st.lists(st.lists(st.sampled_from(values), min_size=m, max_size=m), max_size=max_size).map(
            lambda lists: np.array(lists, dtype=float).reshape(-1, m)
        )
    )


# The property tests bound these by 4 in each objective, so 4, 5 and inf are outside; small integers make sums exact.
MEASURABLE = rows([0, -1, 1, 2, 3, 4, 5, INF, NAN], max_columns=3, max_size=7)
ORDERED = rows([0.0, -0.0, 1, 2, 3, INF, -INF, NAN], max_columns=4, max_size=9)


def bound(points):
    return np.full(points.shape[1], 4.0)


def dominates(p, q):
    return all(a <= b for a, b in zip(p, q)) and any(a < b for a, b in zip(p, q))


def naive_ranks(points):
    """The length of the longest chain of points, each dominating the next, that ends here."""

    def rank(q):
        return max((1 + rank(p) for p in points if dominates(p, q)), default=0)

    return [-1 if any(np.isnan(q)) else rank(q) for q in points]


def inclusion_exclusion(points, reference):
    """Measure of a union of boxes: the sum over its non-empty subsets, signed, of the boxes they have in common."""
    points = [p for p in points if all(a < r for a, r in zip(p, reference))]
    subsets = (s for k in range(1, len(points) + 1) for s in combinations(points, k))
    return sum((-1) ** (len(s) + 1) * np.prod(reference - np.max(s, axis=0)) for s in subsets)


def cell_count(points, low, high):
    """Number of unit cells of the grid [low, high)^m whose lower corner some point weakly dominates."""
    cells = np.stack(np.meshgrid(*[np.arange(low, high)] * points.shape[1]), axis=-1).reshape(-1, points.shape[1])
    return sum(any((p <= cell).all() for p in points) for cell in cells)


# --- signs


def test_only_maximized_columns_flip_and_the_input_stays():
    values = np.array([[0.75, 0.5], [0.0, NAN]])
    flipped = as_minimization(values, ["maximize", "minimize"])
    np.testing.assert_array_equal(flipped, [[-0.75, 0.5], [0.0, NAN]])
    assert not np.signbit(flipped[1, 0])
    np.testing.assert_array_equal(values, [[0.75, 0.5], [0.0, NAN]])


def test_empty_values_keep_the_width_of_the_directions():
    assert as_minimization([], ["maximize", "minimize"]).shape == (0, 2)


def test_integers_and_none_become_floats():
    np.testing.assert_array_equal(as_minimization([[1, None]], ["maximize", "minimize"]), [[-1.0, NAN]])


@pytest.mark.parametrize(
    ("values", "directions", "message"),
    [
        ([[1.0]], ["max"], r"must be one of \['maximize', 'minimize'\], but got 'max'"),
        ([[1.0, 2.0]], ["minimize"], "values must have 1 columns, but got 2"),
        ([[1.0]], ["minimize", "maximize"], "values must have 2 columns, but got 1"),
        ([1.0], ["minimize"], r"values must have shape \[n, m\] .* got shape \(1,\)"),
    ],
)
def test_signs_reject(values, directions, message):
    with pytest.raises(ValueError, match=message):
        as_minimization(values, directions)


# --- ranks and fronts


@pytest.mark.parametrize("function", [ranks, front, knee])
@pytest.mark.parametrize("points", [1.0, [1.0, 2.0], np.empty((3, 0)), np.empty((3, 2, 1))])
def test_points_are_rows_and_columns(function, points):
    with pytest.raises(ValueError, match=r"points must have shape \[n, m\] with m >= 1, but got shape"):
        function(points)


def test_ranks_of_nested_staircases():
    stairs = np.array([[0, 2], [1, 1], [2, 0]])
    np.testing.assert_array_equal(ranks(np.concatenate([stairs + 2, stairs, stairs + 1])), [2] * 3 + [0] * 3 + [1] * 3)


def test_one_objective_ranks_its_distinct_values():
    np.testing.assert_array_equal(ranks([[3.0], [1.0], [3.0], [NAN], [-INF], [INF]]), [2, 1, 2, -1, 0, 3])


def test_copies_share_the_front_and_ties_in_one_objective_do_not():
    np.testing.assert_array_equal(front([[0, 1], [0, 1], [0, 2], [1, 1], [1, 0]]), [True, True, False, False, True])


def test_nan_rows_have_no_rank_and_do_not_dominate():
    np.testing.assert_array_equal(ranks([[NAN, 0.0], [1.0, 1.0], [0.0, NAN]]), [-1, 0, -1])
    np.testing.assert_array_equal(front([[NAN, NAN]]), [False])


@pytest.mark.parametrize("empty", [[], np.empty((0, 1)), np.empty((0, 2)), np.empty((0, 3))])
def test_no_points_no_ranks(empty):
    assert ranks(empty).shape == front(empty).shape == (0,)
    assert ranks(empty).dtype.kind == "i" and front(empty).dtype == bool


@pytest.mark.timeout(patience(10))
@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_a_long_front_of_two_objectives(scale):
    """All on the front, then all but one dominated. A matrix of 200 000 x 200 000 pairs would need 40 GB."""
    x = np.random.default_rng(0).permutation(200_000).astype(float)
    np.testing.assert_array_equal(front(np.stack([x, -scale * x], axis=1)), (x == 0) | (scale == 1.0))


@settings(deadline=None)
@given(ORDERED)
def test_ranks_match_the_definition(points):
    np.testing.assert_array_equal(ranks(points), naive_ranks(points))


@settings(deadline=None)
@given(ORDERED)
def test_front_matches_the_definition(points):
    expected = [not np.isnan(q).any() and not any(dominates(p, q) for p in points) for q in points]
    np.testing.assert_array_equal(front(points), expected)


@settings(deadline=None)
@given(ORDERED, st.randoms(use_true_random=False))
def test_ranks_follow_rows_and_ignore_the_order_of_objectives(points, random):
    order = random.sample(range(len(points)), len(points))
    columns = random.sample(range(points.shape[1]), points.shape[1])
    np.testing.assert_array_equal(ranks(points[order][:, columns]), ranks(points)[order])


# --- hypervolume


@pytest.mark.parametrize("k", [1, 2, 9])
def test_staircase_of_k_unit_steps(k):
    """Points (i, k-1-i) against (k, k): a triangle of 1 + 2 + ... + k unit squares."""
    stairs = np.array([[i, k - 1 - i] for i in range(k)])
    assert hypervolume(stairs, [k, k]) == k * (k + 1) / 2


def test_pyramid_of_unit_cubes():
    """Points with x + y + z = k-1 against (k, k, k): all k^3 cells but the tetrahedron with a sum below k-1."""
    k = 6
    points = [[x, y, k - 1 - x - y] for x in range(k) for y in range(k - x)]
    assert hypervolume(points, [k] * 3) == k**3 - (k - 1) * k * (k + 1) / 6


@pytest.mark.parametrize("m", [1, 2, 3])
def test_one_point_spans_a_box(m):
    sides = np.array([2.0, 3.0, 5.0])[:m]
    assert hypervolume(np.zeros((1, m)), np.ones(m)) == 1.0
    assert hypervolume([-sides], np.zeros(m)) == np.prod(sides)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_two_boxes_less_what_they_share(order):
    """Boxes of 2x3x4 and 3x3x2 from one corner share 2x3x2."""
    points = -np.array([[2, 3, 4], [3, 3, 2]])[:, order]
    assert hypervolume(points, [0, 0, 0]) == 24 + 18 - 12


@pytest.mark.parametrize("k", [1, 2, 10])
def test_points_on_a_diagonal_are_worth_the_best(k):
    points = np.linspace(0, 0.5, k)[::-1, None] * np.ones(3)
    assert hypervolume(points, [1, 1, 1]) == 1.0


@pytest.mark.parametrize("m", [1, 2, 3])
def test_what_measures_nothing(m):
    reference = np.ones(m)
    assert hypervolume([], reference) == hypervolume(np.empty((0, m)), reference) == 0.0
    on_the_edge, beyond = np.full(m, -INF), np.full(m, -INF)
    on_the_edge[0], beyond[0] = 1.0, 1.5
    for row in (on_the_edge, beyond, np.full(m, NAN), np.full(m, INF)):
        assert hypervolume([row], reference) == 0.0
        assert hypervolume([row, np.zeros(m)], reference) == 1.0


@pytest.mark.parametrize("m", [1, 2, 3])
def test_minus_infinity_inside_is_endless(m):
    point = np.zeros(m)
    point[-1] = -INF
    assert hypervolume([np.zeros(m), point], np.ones(m)) == INF


@pytest.mark.parametrize(
    ("points", "reference", "message"),
    [
        (np.zeros((1, 4)), [1, 1, 1, 1], "m <= 3 must hold .* got m=4"),
        ([[0, 0]], [1, 1, 1], "points must have 3 columns, but got 2"),
        ([[0, 0]], [1, INF], r"reference must be \[m\] finite numbers, but got \[1.0, inf\]"),
        ([[0, 0]], [NAN, 1], "reference must be"),
        ([[0]], 1.0, "reference must be"),
        ([0, 0], [1, 1], r"got shape \(2,\)"),
    ],
)
def test_the_measure_rejects(points, reference, message):
    with pytest.raises(ValueError, match=message):
        hypervolume(points, reference)


@settings(deadline=None)
@given(MEASURABLE)
def test_hypervolume_matches_inclusion_exclusion_and_cells(points):
    volume = hypervolume(points, bound(points))
    assert volume == inclusion_exclusion(points, bound(points))
    assert volume == cell_count(points, -1, 4)


@settings(deadline=None)
@given(MEASURABLE, st.randoms(use_true_random=False))
def test_hypervolume_ignores_the_order_of_points_and_objectives(points, random):
    reference = 4.0 + np.arange(points.shape[1])
    order = random.sample(range(len(points)), len(points))
    columns = random.sample(range(points.shape[1]), points.shape[1])
    assert hypervolume(points[order][:, columns], reference[columns]) == hypervolume(points, reference)


@settings(deadline=None)
@given(MEASURABLE)
def test_each_added_point_raises_hypervolume_or_leaves_it(points):
    growing = [hypervolume(points[:k], bound(points)) for k in range(len(points) + 1)]
    inside = np.nan_to_num(points, nan=INF) < 4
    for k, row in enumerate(inside):
        is_new = row.all() and not any((p <= points[k]).all() for p in points[:k])
        assert growing[k + 1] > growing[k] if is_new else growing[k + 1] == growing[k]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("m", [1, 2, 3])
def test_hypervolume_agrees_with_optuna(m, seed):
    rng = np.random.default_rng(seed)
    uniform = rng.random((80, m))
    sphere = -np.abs(rng.normal(size=(80, m)))  # all on the front
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    coarse = np.round(rng.random((80, m)), 1)
    for points in (uniform, sphere, coarse):
        reference = rng.uniform(1.0, 1.5, m)
        assert hypervolume(points, reference) == pytest.approx(compute_hypervolume(points, reference), rel=1e-12)


# --- the reference


@pytest.mark.parametrize("n_classes", [2, 10, 100])
def test_the_reference_is_the_worst_rate_or_the_loss_of_a_uniform_guess(n_classes):
    guess = math.log(n_classes)
    worst = {name: 0.0 if direction == "maximize" else 1.0 for name, direction in OBJECTIVES.items()}
    worst |= {"val_loss": guess, "val_loss_variance": guess**2}
    assert reference_point(OBJECTIVES, n_classes) == pytest.approx([worst[name] for name in OBJECTIVES], rel=1e-15)
    assert reference_point(["val_delta_f1", "val_accuracy"], n_classes) == [1.0, 0.0]


# --- knee


def test_knee_is_the_corner_nearest_the_ideal_whatever_the_units():
    points = np.array([[9, 9], [0, 10], [1, 2], [6, 1], [10, 0]])
    assert knee(points) == 2
    assert knee(points * [1000.0, 0.001] + [5, -3]) == 2


def test_knee_moves_with_the_scale_of_the_front():
    """Unscaled, (2, 40) has the smallest sum; in shares of the front it is (0.2, 0.4) against (0.3, 0.1)."""
    assert knee([[0, 100], [2, 40], [30, 11], [10, 0], [3, 10]]) == 4


def test_knee_of_a_straight_front_is_its_first_row():
    x = np.random.default_rng(1).permutation(101) / 100
    line = np.stack([x, 1 - x], axis=1) / 3
    assert [knee(np.roll(line, shift, axis=0)) for shift in range(20)] == [0] * 20


def test_knee_of_a_front_that_bulges_is_an_extreme():
    assert knee([[0.8, 0.8], [0, 1], [1, 0]]) == 1


def test_knee_in_three_objectives():
    corners = np.eye(3)
    assert knee([*corners, [0.4, 0.4, 0.4], [0.1, 0.1, 0.3]]) == 4
    assert knee([*corners, [0.2, 0.2, 0.2], [0.1, 0.1, 0.6]]) == 3
    assert knee([[0, 5, 10], [10, 5, 0], [2, 5, 3]]) == 2  # an objective that is the same in all decides nothing


def test_knee_leaves_out_infinite_nan_and_dominated_rows():
    assert knee([[NAN, 0], [-INF, 20], [0, 10], [2, 3], [10, 0], [0, 1000], [20, -INF]]) == 3


@pytest.mark.parametrize("points", [[], np.empty((0, 2)), [[NAN, 1.0]], [[INF, INF]], [[-INF, 0.0]]])
def test_no_knee_without_a_finite_front(points):
    assert knee(points) is None


def test_one_point_and_one_objective_have_a_knee():
    assert knee([[3.0, 4.0]]) == 0
    assert knee([[3.0], [1.0], [1.0]]) == 1
