"""Which trials are worth keeping: dominance, fronts, hypervolume and the knee, in numpy only.

`points` is always [n, m] with m >= 1, a row a trial, a column an objective to be minimised; any other shape is a
ValueError. Signs flip once, at the border, in `as_minimization`. Point p dominates point q when p is no worse in every
objective and better in at least one, so equal points do not dominate each other. A row with any NaN is a trial without
a result: it dominates nothing and measures nothing. Infinities are ordinary numbers.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from trainables.metrics import METRICS

SIGNS = {"minimize": 1.0, "maximize": -1.0}


def as_minimization(values: ArrayLike, directions: Iterable[str]) -> np.ndarray:
    """`values` [n, m] with the signs of the objectives to be maximised flipped, so that smaller is better in every
    column: a float copy, NaN stays NaN.

    Raises: ValueError on an unknown direction, and when `values` has not one column a direction.
    """
    directions = list(directions)
    for direction in directions:
        if direction not in SIGNS:
            raise ValueError(f"a direction must be one of {sorted(SIGNS)}, but got {direction!r}.")
    values = _matrix(values, "values", len(directions))
    return values * [SIGNS[direction] for direction in directions] + 0.0  # + 0.0 turns the -0.0 of a flipped 0 into 0.0


def ranks(points: ArrayLike) -> np.ndarray:
    """Non-dominated rank: 0 on the front, 1 on the front of what is left without it, and so on.

    Returns: Int array [n]. Equal points share a rank. A row with any NaN has no rank, written -1, and the others have
        the ranks they would have without it.
    Source: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II". For m <= 2 in O(n log n),
        Jensen 2003, "Reducing the run-time complexity of multiobjective EAs"; else by peeling fronts off sorted rows.
    """
    valid, rows, inverse = _distinct(points)
    result = np.full(len(valid), -1)
    result[valid] = (_ranks_of_sorted_pairs if rows.shape[1] <= 2 else _ranks_by_peeling)(rows)[inverse]
    return result


def front(points: ArrayLike) -> np.ndarray:
    """Which points no other point dominates, those of rank 0: bool [n]. Every copy of a front point is on the front; a
    row with any NaN is not. O(n log n) for m <= 2; else one vectorised pass over what is left for each front point.
    """
    valid, rows, inverse = _distinct(points)
    result = np.zeros(len(valid), dtype=bool)
    result[valid] = _front_of_sorted(rows)[inverse]
    return result


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Exact measure of the region that the points dominate, bounded by the reference: larger is better.

    Args:
        points: [n, m] with m <= 3. A point not better than the reference in every objective adds nothing.
        reference: [m], finite: of each objective, the value that is just too bad to count.

    Returns: In the product of the objectives' units. 0.0 for no points; inf when a point that counts holds a -inf.
    Raises: ValueError on m > 3 and on a reference that is not m finite numbers.
    Source: Zitzler and Thiele 1998 for the measure; for m = 3 the sweep of Fonseca, Paquete and López-Ibáñez 2006, "An
        improved dimension-sweep algorithm for the hypervolume indicator".
    """
    reference = np.asarray(reference, dtype=float)
    if reference.ndim != 1 or not np.isfinite(reference).all():
        raise ValueError(f"reference must be [m] finite numbers, but got {reference.tolist()}.")
    points = _matrix(points, "points", len(reference))
    if len(reference) not in MEASURES:
        raise ValueError(f"m <= {max(MEASURES)} must hold for an exact hypervolume, but got m={len(reference)}.")
    points = points[(points < reference).all(axis=1)]  # a NaN is not < anything
    if len(points) == 0:
        return 0.0
    if np.isneginf(points).any():  # the box of such a point is endless, and no side of it is 0
        return np.inf
    return float(MEASURES[len(reference)](points, reference))


def knee(points: ArrayLike) -> int | None:
    """The front point that gives most for least: the deepest below the plane through the front's extremes.

    The finite points of the front are scaled to [0, 1] in each objective. Depth is the signed distance from the plane
    sum = 1 towards the ideal point 0; for m = 2 that plane is the line between the two extremes. Where a front of two
    objectives bulges away from the ideal, no point is below the line and the knee is an extreme.

    Returns: Row of `points`, the lowest of equals; None when no finite point is on the front.
    Source: Das 1999, "On characterizing the 'knee' of the Pareto curve based on normal-boundary intersection".
    """
    points = _matrix(points, "points")
    rows = np.flatnonzero(front(points) & np.isfinite(points).all(axis=1))
    if rows.size == 0:
        return None
    low, high = points[rows].min(axis=0), points[rows].max(axis=0)
    scaled = (points[rows] - low) / np.where(high > low, high - low, 1.0)
    # Depth falls with the sum. Rounded, so that on a straight front the lowest row wins and not the rounding error.
    return int(rows[scaled.sum(axis=1).round(12).argmin()])


def reference_point(objectives: Iterable[str], n_classes: int) -> list[float]:
    """The hypervolume's reference, in the user's directions: the worst rate, or the loss of a uniform guess (nats)."""
    guess = math.log(n_classes)
    metrics = [METRICS[name.removeprefix("val_")] for name in objectives]
    worst = {"": 1.0, "nats": guess, "nats²": guess**2}
    return [0.0 if metric.direction == "maximize" else worst[metric.unit] for metric in metrics]


def _matrix(values: ArrayLike, name: str, columns: int | None = None) -> np.ndarray:
    matrix = np.asarray(values, dtype=float)
    if matrix.shape == (0,):  # `[]` is a list of no rows, of any width
        matrix = matrix.reshape(0, columns or 1)
    if matrix.ndim != 2 or matrix.shape[1] < 1:
        raise ValueError(f"{name} must have shape [n, m] with m >= 1, but got shape {matrix.shape}.")
    if columns is not None and matrix.shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns, but got {matrix.shape[1]}.")
    return matrix


def _distinct(points: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mask [n] of the rows without NaN, their distinct rows in lexicographic order, the index of each into those)."""
    points = _matrix(points, "points")
    valid = ~np.isnan(points).any(axis=1)
    rows = points[valid]
    order = np.lexsort(rows.T[::-1])  # np.unique would sort rows of bytes, five times as slowly
    rows, inverse = rows[order], np.empty(len(rows), dtype=int)
    new = np.append(True, (rows[1:] != rows[:-1]).any(axis=1))[: len(rows)]
    inverse[order] = np.cumsum(new) - 1
    return valid, rows[new], inverse


def _ranks_of_sorted_pairs(rows: np.ndarray) -> np.ndarray:
    """`ranks` of distinct rows in lexicographic order with m <= 2. A row comes after all that dominate it, and the best
    last column of each front so far, which grows from front to front, says which of the fronts dominate it."""
    best: list[float] = []
    rank = np.empty(len(rows), dtype=int)
    for i, value in enumerate(rows[:, -1].tolist()):
        rank[i] = k = bisect_right(best, value)
        best[k : k + 1] = [value]
    return rank


def _ranks_by_peeling(rows: np.ndarray) -> np.ndarray:
    rank, left = np.zeros(len(rows), dtype=int), np.arange(len(rows))
    while left.size:
        left = left[~_front_of_sorted(rows[left])]
        rank[left] += 1  # each peel puts everything it leaves behind one rank lower
    return rank


def _front_of_sorted(rows: np.ndarray) -> np.ndarray:
    """`front` of distinct rows in lexicographic order, in which a point comes after all that dominate it."""
    mask = np.zeros(len(rows), dtype=bool)
    if rows.shape[1] <= 2:
        # No earlier row is worse in the first column, and none is equal in both: one with as good a last dominates.
        mask[:1] = True
        mask[1:] = rows[1:, -1] < np.minimum.accumulate(rows[:, -1])[:-1]
        return mask
    left = np.arange(len(rows))
    while left.size:  # the first row left is on the front: whatever dominated it would have come earlier
        mask[left[0]] = True
        left = left[(rows[left] < rows[left[0]]).any(axis=1)]
    return mask


def _length(points: np.ndarray, reference: np.ndarray) -> float:
    return float(reference[0] - points.min())


def _area(points: np.ndarray, reference: np.ndarray) -> float:
    x, y = points[points[:, 0].argsort()].T
    floor = np.minimum.accumulate(np.append(reference[1], y))
    # From left to right, each point adds the slab by which it lowers the floor.
    return (reference[0] - x) @ -np.diff(floor)


def _volume(points: np.ndarray, reference: np.ndarray) -> float:
    """Sweep upwards in z over the area that the points so far dominate in (x, y). O(n log n) but for list moves."""
    # The staircase: corners with x never falling and y falling, between two sentinels that are never taken out.
    xs, ys = [-np.inf, reference[0]], [reference[1], -np.inf]
    volume, area, height = 0.0, 0.0, reference[2]
    for x, y, z in points[points[:, 2].argsort()].tolist():
        volume += area * (z - height)
        area, height = area + _step(xs, ys, x, y), z
    return volume + area * (reference[2] - height)


def _step(xs: list[float], ys: list[float], x: float, y: float) -> float:
    """Put corner (x, y) into the staircase, take out those right of it that it dominates, return the area it adds.

    A corner straight above it stays: it has no width left, hence no area.
    """
    start = end = bisect_right(xs, x)
    added, left, ceiling = 0.0, x, ys[start - 1]
    if ceiling <= y:
        return 0.0
    while ys[end] >= y:
        added += (xs[end] - left) * (ceiling - y)
        left, ceiling = xs[end], ys[end]
        end += 1
    xs[start:end], ys[start:end] = [x], [y]
    return added + (xs[start + 1] - left) * (ceiling - y)


MEASURES: dict[int, Callable[[np.ndarray, np.ndarray], float]] = {1: _length, 2: _area, 3: _volume}
