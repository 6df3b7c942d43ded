"""Greedy k-center by brute force: every pick looks at every row. The definition that faster engines must reproduce.

Gonzalez (1985): the next pick is the row farthest from everything picked so far, which covers the rows within twice
the best possible radius. Ties go to the lowest index, and the first pick without a pool is row 0, as in Lightly's
engine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.select.distance import (
    VIEW,
    filter_error,
    nearest_neighbours,
    row_blocks,
    squared_distances,
    squared_norms,
)
from lightly_pipeline.worker.select.selection import Floats, Indices, StoppedBy, Watch

_BEAT_EVERY = 64


def brute_force(
    points: Floats,
    pool: Floats | None,
    budget: int,
    min_distance: float,
    watch: Watch,
    weights: NDArray[np.floating] | None = None,
) -> tuple[Indices, Floats, StoppedBy]:
    """Picks (int64 [k]), their distances (float32 [k]) and why it stopped, for `points` [n, d] on top of `pool`.

    With `weights` the next pick is the row with the largest distance times weight, as in Lightly's combination of
    DIVERSITY and WEIGHTS; rows nearer than `min_distance` and rows of weight 0 are never taken.
    """
    n, dimensions = points.shape
    bound = _LeastDistances(points)
    if pool is None or not len(pool):
        nearest = np.full(n, np.inf, dtype=np.float32)
    else:
        # The root of a correctly rounded square root is not the square again: compute it from the pair.
        index, _ = nearest_neighbours(points, pool)
        nearest = np.empty(n, dtype=np.float32)
        for part in row_blocks(n, dimensions * 8):
            nearest[part] = squared_distances(points[part], pool[index[part]])
    factor = None if weights is None else (np.asarray(weights, dtype=np.float64) ** 2)
    picks: list[int] = []
    squared: list[np.float32] = []
    stopped_by: StoppedBy = "budget"
    while len(picks) < budget:
        pick = int(nearest.argmax()) if factor is None else _heaviest(nearest, factor, min_distance)
        far = nearest[pick]
        if far <= 0 or (factor is not None and factor[pick] <= 0):
            stopped_by = "exhausted"
            break
        if np.sqrt(far) < np.float32(min_distance):
            stopped_by = "min_distance"
            break
        picks.append(pick)
        squared.append(far)
        maybe = np.nonzero(bound.to(pick) < nearest)[0]
        for part in row_blocks(len(maybe), dimensions * 8):
            rows = maybe[part]
            nearest[rows] = np.minimum(nearest[rows], squared_distances(points[rows], points[pick]))
        if len(picks) % _BEAT_EVERY == 0:
            watch.beat(len(picks), budget)
    return np.array(picks, dtype=np.int64), np.sqrt(np.array(squared, dtype=np.float32)), stopped_by


class _LeastDistances:
    """A lower bound of the squared distances of all rows to one of them, by one product of a matrix and a vector.

    |a - b|² = |a'|² + 2 a'·m + |b - m|² - 2 a'·b for a = m + a', with the middle m of the rows around a: where the rows
    of one view lie near to each other a' is short, and so is the rounding error of products with it. Products of the
    rows themselves could not tell the frames of a static camera apart.
    """

    def __init__(self, points: Floats) -> None:
        self._points = points
        self._centred = np.empty_like(points)
        self._own = np.empty(len(points), np.float32)
        self._error = np.float32(filter_error(points.shape[1]))
        # |b| + |m|, twice: what a' is multiplied with.
        reach = 2 * np.sqrt(squared_norms(points).max())
        middles, counts = [], []
        for run in row_blocks(len(points), 1, VIEW):
            middle = points[run].mean(axis=0)
            centred = np.subtract(points[run], middle, out=self._centred[run])
            norms = squared_norms(centred)
            self._own[run] = 2 * (centred @ middle) + norms - self._error * (norms + np.sqrt(norms) * reach)
            middles.append(middle)
            counts.append(len(centred))
        self._middles, self._counts = np.stack(middles), np.array(counts)

    def to(self, row: int) -> Floats:
        """Float32 [n], at most the squared distances to this row."""
        least: Floats = self._centred @ (self._points[row] * np.float32(-2))
        least += self._own
        to_middles = squared_norms(self._points[row] - self._middles) * (1 - self._error)
        least += np.repeat(to_middles, self._counts)
        return least


def _heaviest(nearest: Floats, factor: NDArray[np.float64], min_distance: float) -> int:
    """The row with the largest squared distance times factor among those far enough (else the farthest one)."""
    far_enough = (np.sqrt(nearest) >= np.float32(min_distance)) & (nearest > 0)
    if not (far_enough & (factor > 0)).any():
        return int(np.where(factor > 0, nearest, 0).argmax())
    # Nothing chosen yet: every distance is infinite and the weight alone decides.
    score = factor * np.where(np.isinf(nearest), 1, nearest)
    return int(np.where(far_enough, score, -1).argmax())
