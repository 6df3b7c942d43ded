"""Greedy k-center by brute force: every pick looks at every row. The definition that faster engines must reproduce.

Gonzalez (1985): the next pick is the row farthest from everything picked so far, which covers the rows within twice
the best possible radius. Ties go to the lowest index, and the first pick without a pool is row 0, as in Lightly's
engine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.select.distance import (
    blas_error,
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
    norms = squared_norms(points)
    margin = blas_error(float(norms.max()), float(norms.max()), dimensions)
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
        approximate = points @ points[pick]
        approximate *= -2
        approximate += norms
        approximate += norms[pick]
        maybe = np.nonzero(approximate - margin < nearest)[0]
        for part in row_blocks(len(maybe), dimensions * 8):
            rows = maybe[part]
            nearest[rows] = np.minimum(nearest[rows], squared_distances(points[rows], points[pick]))
        if len(picks) % _BEAT_EVERY == 0:
            watch.beat(len(picks), budget)
    return np.array(picks, dtype=np.int64), np.sqrt(np.array(squared, dtype=np.float32)), stopped_by


def _heaviest(nearest: Floats, factor: NDArray[np.float64], min_distance: float) -> int:
    """The row with the largest squared distance times factor among those far enough (else the farthest one)."""
    far_enough = (np.sqrt(nearest) >= np.float32(min_distance)) & (nearest > 0)
    if not (far_enough & (factor > 0)).any():
        return int(np.where(factor > 0, nearest, 0).argmax())
    # Nothing chosen yet: every distance is infinite and the weight alone decides.
    score = factor * np.where(np.isinf(nearest), 1, nearest)
    return int(np.where(far_enough, score, -1).argmax())
