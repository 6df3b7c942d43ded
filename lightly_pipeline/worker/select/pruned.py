"""Greedy k-center with exact pruning: the picks of the brute force, at a cost that grows little faster than n.

For embeddings of video, whose intrinsic dimension is low. On data without such structure nothing can be pruned: when
the work exceeds a bound (counted, not timed, so that the result is the same on every machine) the caller is told.
"""

from __future__ import annotations

import numpy as np

from lightly_pipeline.worker.select import clusters
from lightly_pipeline.worker.select.compiled import LANES, plain
from lightly_pipeline.worker.select.distance import relative_error
from lightly_pipeline.worker.select.selection import Floats, Indices, StoppedBy, Watch

# A few hundredths of a second: how long an interrupt waits on an idle machine.
_EFFORT = 4_000_000
_SAMPLE = 20_000
_POOL_BALL = 24
_REASONS: dict[int, StoppedBy] = {
    clusters.ENOUGH: "budget",
    clusters.TOO_NEAR: "min_distance",
    clusters.EXHAUSTED: "exhausted",
}


class TooHard(Exception):
    """The embeddings have too little structure for exact selection within the work allowed."""


def pruned(
    points: Floats, pool: Floats | None, budget: int, min_distance: float, watch: Watch, *, work_limit: float = np.inf
) -> tuple[Indices, Floats, StoppedBy]:
    """Picks, distances and why it stopped: exactly those of `brute_force`. Raises TooHard beyond `work_limit`."""
    n, dimensions = points.shape
    points = plain(points)
    pool = plain(points[:0] if pool is None else pool)
    margin = 4 * relative_error(dimensions) + 1e-6
    axes, mean = principal_axes(points)
    short = _project(points, mean, axes)
    pool_short = _project(pool, mean, axes)
    # Bound of the error of a projected coordinate, of both ends, over sixteen of them, squared and enlarged by the
    # 1 % that the comparisons leave (see 1.01 in clusters.py).
    largest = max(_largest_norm(points), _largest_norm(pool))
    slack = 102 * (8 * dimensions * 2.0**-24 * largest) ** 2
    picks = np.empty(budget, dtype=np.int64)
    squared = np.empty(budget, dtype=np.float32)
    state = clusters.allocate(points, short, pool, pool_short, budget + min(len(pool), n) + 2, margin, slack)
    if len(pool):
        index = _pool_index(pool, pool_short, margin, slack, watch)
        clusters.add_first(state, -1)
    else:
        index = state
        picks[0], squared[0] = 0, np.inf
        state.tally[clusters.PICKS] = 1
        clusters.add_first(state, 0)
    to_leader = np.empty(len(index.leader), dtype=np.float32)
    code = clusters.UNFINISHED
    while code == clusters.UNFINISHED:
        code = clusters.advance(state, index, to_leader, picks, squared, budget, np.float32(min_distance), _EFFORT)
        done = int(state.tally[clusters.PICKS])
        watch.beat(done, budget)
        if state.tally[clusters.WORK] > work_limit and code == clusters.UNFINISHED:
            raise TooHard(f"{done:,} of {budget:,} picks took the work allowed for all of them")
    return picks[:done], np.sqrt(squared[:done]), _REASONS[code]


def principal_axes(points: Floats) -> tuple[Floats, Floats]:
    """The LANES leading principal axes of a regular sample, float32 [d, LANES] (zero beyond d), and its mean."""
    sample = np.asarray(points[:: max(1, len(points) // _SAMPLE)], dtype=np.float64)
    mean = sample.mean(axis=0)
    centred = sample - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = np.zeros((points.shape[1], LANES), dtype=np.float32)
    count = min(LANES, points.shape[1])
    axes[:, :count] = vectors[:, ::-1][:, :count]
    return axes, mean.astype(np.float32)


def _project(points: Floats, mean: Floats, axes: Floats) -> Floats:
    short = np.empty((len(points), LANES), dtype=np.float32)
    offset = mean @ axes
    for start in range(0, len(points), 65536):
        part = slice(start, start + 65536)
        np.matmul(points[part], axes, out=short[part])
        short[part] -= offset
    return short


def _largest_norm(points: Floats) -> float:
    largest = 0.0
    for start in range(0, len(points), 65536):
        part = points[start : start + 65536]
        largest = max(largest, float(np.einsum("ij,ij->i", part, part).max()))
    return float(np.sqrt(largest))


def _pool_index(pool: Floats, short: Floats, margin: float, slack: float, watch: Watch) -> clusters.Clusters:
    """The pool in balls: the clusters of a k-center of it."""
    balls = max(1, len(pool) // _POOL_BALL)
    index = clusters.allocate(pool, short, pool[:0], short[:0], balls + 2, margin, slack)
    index.tally[clusters.KEEP_DEAD] = 1
    clusters.add_first(index, 0)
    picks = np.empty(balls, dtype=np.int64)
    squared = np.empty(balls, dtype=np.float32)
    index.tally[clusters.PICKS] = 1
    code = clusters.UNFINISHED
    to_leader = np.empty(len(index.leader), dtype=np.float32)
    while code == clusters.UNFINISHED:
        code = clusters.advance(index, index, to_leader, picks, squared, balls, np.float32(0), _EFFORT)
        watch.beat(0, 0)
    return index
