"""Greedy k-center that leaves out what cannot matter: the picks of the brute force, at a fraction of its cost.

First in rounds (`lazy.py`), while the radius is so large that every pick may concern every row; then with pruning by
the triangle inequality (`clusters.py`), when it has shrunk to the scale on which embeddings of video are
low-dimensional. Both are exact; when to change over is a question of time alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightly_pipeline.worker.select import clusters
from lightly_pipeline.worker.select.compiled import LANES, plain
from lightly_pipeline.worker.select.distance import relative_error, squared_norms
from lightly_pipeline.worker.select.lazy import Rounds
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


def pruned(
    points: Floats, pool: Floats | None, budget: int, min_distance: float, watch: Watch
) -> tuple[Indices, Floats, StoppedBy]:
    """Picks, distances and why it stopped: exactly those of `brute_force`."""
    dimensions = points.shape[1]
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
    space = _Space(margin, slack)
    index = None
    if len(pool):
        balls = max(1, len(pool) // _POOL_BALL)
        index = _run(pool, pool_short, pool[:0], pool_short[:0], balls, 0.0, watch, space, None, keep=True)[3]
    picks, squared, code, _ = _run(points, short, pool, pool_short, budget, min_distance, watch, space, index)
    return picks, np.sqrt(squared), _REASONS[code]


@dataclass(frozen=True)
class _Space:
    """How exact the distances are: see `margin` of Clusters."""

    margin: float
    slack: float


def _run(
    points: Floats,
    short: Floats,
    pool: Floats,
    pool_short: Floats,
    budget: int,
    min_distance: float,
    watch: Watch,
    space: _Space,
    index: clusters.Clusters | None,
    *,
    keep: bool = False,
) -> tuple[Indices, Floats, int, clusters.Clusters | None]:
    """Picks, squared distances, why it ended, and with `keep` the clusters, for use as an index of the points."""
    picks = np.empty(budget, dtype=np.int64)
    squared = np.empty(budget, dtype=np.float32)
    centres = budget + min(len(pool), len(points)) + 2
    rounds = Rounds(points, short, pool, squared_norms(points), centres, index)
    code = rounds.run(picks, squared, budget, min_distance, watch)
    done = int(rounds.tally[1])
    if code != clusters.UNFINISHED and not keep:
        return picks[:done], squared[:done], code, None
    now = int(rounds.tally[0])
    rounds.catch_up(np.arange(len(points)), watch)
    codes, d2, owner, looked_up = rounds.codes[:now].copy(), rounds.d2, rounds.owner, rounds.looked_up
    del rounds
    state = clusters.allocate(points, short, pool, pool_short, centres, space.margin, space.slack)
    state.looked_up[:] = looked_up
    state.tally[clusters.KEEP_DEAD] = keep
    order = np.lexsort((-d2, owner))
    begins = np.searchsorted(owner[order], np.arange(now + 1))
    clusters.adopt(state, codes, order, begins, d2)
    del order, begins, d2, owner
    state.tally[clusters.PICKS] = done
    other = state if index is None else index
    to_leader = np.empty(len(other.leader), dtype=np.float32)
    while code == clusters.UNFINISHED:
        code = clusters.advance(state, other, to_leader, picks, squared, budget, np.float32(min_distance), _EFFORT)
        done = int(state.tally[clusters.PICKS])
        watch.beat(0 if keep else done, budget)
    return picks[:done], squared[:done], code, state


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
