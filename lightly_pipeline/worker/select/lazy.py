"""Greedy k-center while nothing can be pruned yet: picks in rounds, distances only where they decide.

While the radius is large, every new centre may concern every row, and a brute force reads all rows for every pick.
But a row's distance to the centres that it has met is an upper bound of its distance to all of them, and only the rows
with the largest bounds can be the next picks. So each round brings the rows above a threshold up to date, picks among
them as long as the farthest stays above the threshold, and lets all others wait. What a row has missed by then is
made up for in one matrix product. On data without any structure most rows never have to catch up at all.

Distances are those of `distance.py`; BLAS only tells which of them to compute. When rows are near enough to their
centres for the triangle inequality to exclude most of them, `worth_pruning` says so, and `clusters.py` goes on.
"""

from __future__ import annotations

import time

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lightly_pipeline.worker.select.clusters import (
    ENOUGH,
    EXHAUSTED,
    TOO_NEAR,
    UNFINISHED,
    Clusters,
    Ints,
    nearest,
)
from lightly_pipeline.worker.select.compiled import squared_distance
from lightly_pipeline.worker.select.distance import blas_error
from lightly_pipeline.worker.select.selection import Floats, Watch

_ROUND = 256  # centres in a round at most
_ROWS, _COLUMNS = 256, 2048  # a block of a matrix product: 2 MB
_SAMPLE = 2048
_FIRST_TEST = 64
# Seconds that the pruned search takes per row that the triangle inequality does not exclude, and per centre.
_PER_ROW, _PER_CENTRE = 60e-9, 40e-6

_jit = njit(cache=True, nogil=True)


@_jit
def _settle(
    points: Floats,
    rows: Ints,
    centres: Floats,
    columns: Ints,
    products: Floats,
    norms: Floats,
    centre_norms: Floats,
    margin: float,
    d2: Floats,
    owner: Ints,
) -> None:
    """Lower `d2` of `rows` to the centres `columns`, whose dot products with them are given."""
    for i in range(len(rows)):
        row = rows[i]
        best = d2[row]
        limit = (best + margin - norms[row]) * np.float32(0.5)
        for j in range(products.shape[1]):
            if products[i, j] > centre_norms[columns[j]] - limit:
                exact = squared_distance(points, row, centres, columns[j])
                if exact < best:
                    best = exact
                    owner[row] = columns[j]
                    limit = (best + margin - norms[row]) * np.float32(0.5)
        d2[row] = best


@_jit
def _round(
    points: Floats,
    short: Floats,
    pool: Floats,
    rows: Ints,
    near: Floats,
    d2: Floats,
    owner: Ints,
    looked_up: NDArray[np.uint8],
    index: Clusters,
    to_leader: Floats,
    codes: Ints,
    centres: Floats,
    tally: Ints,
    picks: Ints,
    squared: Floats,
    budget: int,
    threshold: float,
    min_distance: float,
    most: int,
) -> int:
    """Pick among `rows`, whose vectors are `near`, until the farthest is not above `threshold`.

    tally: [centres, picks]. Returns a code of `clusters.py`; UNFINISHED when the round is over.
    """
    last = tally[0] + most
    with_pool = len(pool) > 0
    while tally[1] < budget:
        if tally[0] == last or tally[0] == len(codes):
            return UNFINISHED
        far = 0
        for i in range(1, len(rows)):
            if d2[i] > d2[far]:
                far = i
        if d2[far] <= threshold:
            return UNFINISHED
        if d2[far] <= 0:
            return EXHAUSTED
        if np.sqrt(d2[far]) < min_distance:
            return TOO_NEAR
        row = rows[far]
        centre = tally[0]
        known = -1
        if with_pool and looked_up[row] == 0:
            looked_up[row] = 1
            known, _ = nearest(index, to_leader, points, short, row, d2[far])
        if known >= 0:
            codes[centre] = -known - 1
            for k in range(points.shape[1]):
                centres[centre, k] = pool[known, k]
        else:
            codes[centre] = row
            for k in range(points.shape[1]):
                centres[centre, k] = near[far, k]
            picks[tally[1]] = row
            squared[tally[1]] = d2[far]
            tally[1] += 1
        tally[0] = centre + 1
        for i in range(len(rows)):
            exact = squared_distance(near, i, centres, centre)
            if exact < d2[i]:
                d2[i] = exact
                owner[i] = centre
    return ENOUGH


class Rounds:
    """The state: bounds, owners and how many centres each row has met.

    `codes` are rows, or ~r for row r of the pool, of the centres so far; `d2` and `owner` are exact after `catch_up`.
    """

    def __init__(
        self, points: Floats, short: Floats, pool: Floats, norms: Floats, most_centres: int, index: Clusters | None
    ) -> None:
        """Without a pool row 0 is the first pick; with one, its row 0 is the first centre."""
        n, dimensions = points.shape
        self.points, self.short, self.pool, self.norms, self.index = points, short, pool, norms, index
        self.d2 = np.full(n, np.inf, dtype=np.float32)
        self.owner = np.zeros(n, dtype=np.int64)
        self.met = np.zeros(n, dtype=np.int64)
        self.looked_up = np.zeros(n, dtype=np.uint8)
        self.codes = np.zeros(most_centres, dtype=np.int64)
        self.centres = np.zeros((most_centres, dimensions), dtype=np.float32)
        self.centre_norms = np.zeros(most_centres, dtype=np.float32)
        self.tally = np.zeros(2, dtype=np.int64)
        self.codes[0] = -1 if len(pool) else 0
        self.centres[0] = pool[0] if len(pool) else points[0]
        self._count(0, 1)
        largest = float(norms.max())
        if len(pool):
            largest = max(largest, float(np.einsum("ij,ij->i", pool, pool).max()))
        self.margin = np.float32(2 * blas_error(largest, largest, dimensions))
        self.seconds_per_centre = 0.0
        self._active = max(4096, n // 32)
        self._next_test = _FIRST_TEST

    def _count(self, begin: int, end: int) -> None:
        part = self.centres[begin:end]
        self.centre_norms[begin:end] = np.einsum("ij,ij->i", part, part) / 2
        self.tally[0] = end

    def catch_up(self, rows: Ints, watch: Watch | None = None) -> None:
        """Bring `rows` up to date with all centres."""
        now = int(self.tally[0])
        rows = rows[self.met[rows] < now]
        if not len(rows):
            return
        rows = rows[np.argsort(self.met[rows], kind="stable")]
        seen = self.met[rows]
        for group in np.split(rows, np.flatnonzero(np.diff(seen)) + 1):
            since = int(self.met[group[0]])
            for i in range(0, len(group), _ROWS):
                part = group[i : i + _ROWS]
                vectors = self.points[part]
                wanted = self._in_reach(part, vectors, since, now)
                for begin in range(0, len(wanted), _COLUMNS):
                    columns = wanted[begin : begin + _COLUMNS]
                    _settle(
                        self.points, part, self.centres, columns, vectors @ self.centres[columns].T, self.norms,
                        self.centre_norms, self.margin, self.d2, self.owner,
                    )  # fmt: skip
                if watch is not None and i % (256 * _ROWS) == 0:
                    watch.beat(0, 0)
        self.met[rows] = now

    def _in_reach(self, rows: Ints, vectors: Floats, since: int, now: int) -> Ints:
        """The centres since … now - 1 that may be nearer to one of `rows` than what it has; frames in time share them.

        By the triangle inequality over the mean of the rows.
        """
        mean = vectors.mean(axis=0)
        spread = float(np.einsum("ij,ij->i", vectors - mean, vectors - mean).max()) ** 0.5
        reach = (spread + float(self.d2[rows].max()) ** 0.5) * 1.0001
        if not reach < 4:
            return np.arange(since, now)
        apart = 2 * self.centre_norms[since:now] - 2 * (self.centres[since:now] @ mean)
        return since + np.flatnonzero(apart < reach * reach - float(mean @ mean) + 2 * self.margin)

    def run(
        self, picks: Ints, squared: Floats, budget: int, min_distance: float, watch: Watch, *, prune: bool = True
    ) -> int:
        """Pick until the budget, an end, or (UNFINISHED) until pruning is worth its while."""
        n = len(self.points)
        index = self.index if self.index is not None else _nobody(self.points.shape[1])
        to_leader = np.empty(len(index.leader), dtype=np.float32)
        if not len(self.pool):
            picks[0], squared[0] = 0, np.inf
            self.tally[1] = 1
        self.catch_up(np.arange(n), watch)
        while True:
            began, before = time.thread_time(), int(self.tally[0])
            threshold = self._threshold()
            rows = np.flatnonzero(self.d2 > threshold)
            if not len(rows):
                # So many are equally far that no threshold divides them.
                threshold = -1.0
                rows = np.arange(n)
            self.catch_up(rows, watch)
            rows = rows[self.d2[rows] > threshold]
            if not len(rows):
                continue
            d2, owner = self.d2[rows], self.owner[rows]
            code = _round(
                self.points, self.short, self.pool, rows, self.points[rows], d2, owner, self.looked_up, index,
                to_leader, self.codes, self.centres, self.tally, picks, squared, budget, np.float32(threshold),
                np.float32(min_distance), _ROUND,
            )  # fmt: skip
            now = int(self.tally[0])
            self._count(before, now)
            self.d2[rows], self.owner[rows], self.met[rows] = d2, owner, now
            watch.beat(int(self.tally[1]), budget)
            if code != UNFINISHED or now == len(self.codes):
                return int(code)
            # A round should neither end early nor carry rows that it does not need.
            if now - before < _ROUND // 16:
                self._active = min(max(4096, n // 8), self._active * 2)
            elif now - before == _ROUND:
                self._active = max(2048, self._active // 2)
            self.seconds_per_centre = (time.thread_time() - began) / max(1, now - before)
            if prune and now >= self._next_test:
                self._next_test = now + now // 4
                if self._worth_pruning():
                    return UNFINISHED

    def _threshold(self) -> float:
        n = len(self.d2)
        if self._active >= n:
            return -1.0
        return float(np.partition(self.d2, n - self._active)[n - self._active])

    def _worth_pruning(self) -> bool:
        """Whether the pruned search would be faster from here on; decides about time only, never about picks."""
        now = int(self.tally[0])
        sample = np.arange(0, len(self.points), max(1, len(self.points) // _SAMPLE))
        self.catch_up(sample)
        recent = self.centres[max(0, now - 32) : now]
        products = recent @ self.centres[:now].T
        apart = 2 * (self.centre_norms[None, :now] + self.centre_norms[max(0, now - 32) : now, None] - products)
        reached = (apart[:, self.owner[sample]] < 4 * self.d2[sample][None, :]).mean()
        return bool(reached * len(self.points) * _PER_ROW + _PER_CENTRE < self.seconds_per_centre)


def _nobody(dimensions: int) -> Clusters:
    from lightly_pipeline.worker.select.clusters import allocate

    empty = np.empty((0, dimensions), dtype=np.float32)
    short = np.empty((0, 16), dtype=np.float32)
    return allocate(empty, short, empty, short, 1, 0.0, 0.0)
