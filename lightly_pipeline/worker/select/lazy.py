"""Greedy k-center in rounds: the picks of the brute force, with distances only where they decide.

A brute force reads all rows for every pick. But a row's distance to the centres that it has met is an upper bound of
its distance to all of them, and only the rows with the largest bounds can be the next picks. So each round brings the
balls (`balls.py`) that have rows above a threshold up to date, picks among them as long as the farthest row stays
above the threshold, and lets all others wait. What a ball has missed by then is made up for in one matrix product of
balls and centres, and the nearest centre comes first: it excludes most of the others. Pool vectors are centres that
every ball has missed so far; they are met leaf by leaf. On data without any structure balls are single rows, and most
never have to catch up at all.

Distances are those of `distance.py`; BLAS only tells which of them to compute.
"""

from __future__ import annotations

import numpy as np

from lightly_pipeline.worker.machine_code import flat
from lightly_pipeline.worker.select.compiled import kernels
from lightly_pipeline.worker.select.distance import blas_error, squared_norms
from lightly_pipeline.worker.select.kernels.layout import UNFINISHED, Balls, Floats, Ints
from lightly_pipeline.worker.select.selection import Watch

_ROUND = 256  # centres in a round at most
# A block of a matrix product: at most 256 balls, and no more than make 4 MB. It has all centres in one, because the
# nearest has to come first.
_BALLS, _PRODUCTS = 256, 1 << 20
#: Numbers of the pool that may be read between two beats: a fraction of a second.
_COMPARED = 100_000_000


class Rounds:
    """How many centres each ball has met, and whether the pool; `catch_up` makes its distances exact."""

    def __init__(self, tree: Balls, pool: Balls | None, budget: int) -> None:
        """Without a pool row 0 is the first pick; with one, its row 0 is the first centre."""
        n, dimensions = tree.points.shape
        self.tree, self.pool = tree, pool
        self._call = kernels().call
        self._tree, self._pool = flat([tree]), flat([] if pool is None else [pool])
        self.middles = tree.balls.middle
        count = len(self.middles)
        self.norms = squared_norms(self.middles) / 2
        self.met = np.zeros(count, dtype=np.int64)
        self.met_pool = np.zeros(count, dtype=bool)
        self.centres = np.zeros((budget + 1, dimensions), dtype=np.float32)
        self.centre_norms = np.zeros(budget + 1, dtype=np.float32)
        self.tally = np.zeros(2, dtype=np.int64)
        self.centres[0] = tree.points[0] if pool is None else pool.points[0]
        self._count(0, 1)
        if pool is not None:
            self.pool_norms = squared_norms(pool.leaves.middle) / 2
        largest = max(_largest_norm(tree.points), 0.0 if pool is None else _largest_norm(pool.points))
        self.margin = np.float32(2 * blas_error(largest, largest, dimensions))
        self._fewest = max(128, 4096 * count // n)
        self._active = max(self._fewest, count // 32)

    def _count(self, begin: int, end: int) -> None:
        self.centre_norms[begin:end] = squared_norms(self.centres[begin:end]) / 2
        self.tally[0] = end

    def catch_up(self, balls: Ints, watch: Watch) -> None:
        """Bring `balls` up to date with all centres."""
        now = int(self.tally[0])
        behind = balls[self.met[balls] < now]
        behind = behind[np.argsort(self.met[behind], kind="stable")]
        begin = 0
        while begin < len(behind):
            since = int(self.met[behind[begin]])
            part = behind[begin : begin + _rows(now - since)]
            begin += len(part)
            vectors = self.middles[part]
            columns = self._in_reach(part, vectors, since, now)
            if len(columns):
                products = vectors @ self.centres[columns].T
                products -= self.centre_norms[columns]
                self._call(
                    "settle", self._tree, part, len(part), self.met, products, products.argmax(axis=1), columns,
                    len(columns), self.norms[part], self.margin, self.centres,
                )  # fmt: skip
            self.met[part] = now
            watch.beat(0, 0)

    def meet_pool(self, balls: Ints, watch: Watch) -> None:
        """Bring those of `balls` up to date with the pool that are not yet."""
        if self.pool is None:
            return
        new = balls[~self.met_pool[balls]]
        step = _rows(len(self.pool_norms))
        for begin in range(0, len(new), step):
            part = new[begin : begin + step]
            products = self.middles[part] @ self.pool.leaves.middle.T
            products -= self.pool_norms
            best, norms = products.argmax(axis=1), self.norms[part]
            # Each may have to be compared with all of the pool.
            few = max(1, _COMPARED // max(1, self.pool.points.size))
            for some in (slice(first, first + few) for first in range(0, len(part), few)):
                self._call(
                    "settle_pool", self._tree, self._pool, part[some], len(part[some]), products[some], best[some],
                    products.shape[1], norms[some], self.margin,
                )  # fmt: skip
                watch.beat(0, 0)
        self.met_pool[new] = True

    def _in_reach(self, balls: Ints, vectors: Floats, since: int, now: int) -> Ints:
        """The centres since … now - 1 that may matter to one of `balls`, by the triangle inequality over their mean."""
        mean = vectors.mean(axis=0)
        spread = float(np.einsum("ij,ij->i", vectors - mean, vectors - mean).max()) ** 0.5
        reach = (spread + max(0.0, float(self.tree.balls.reach2[balls].max())) ** 0.5) * 1.0001
        if not np.isfinite(reach):
            return np.arange(since, now)
        apart = 2 * self.centre_norms[since:now] - 2 * (self.centres[since:now] @ mean)
        return since + np.flatnonzero(apart < reach * reach - float(mean @ mean) + 2 * self.margin)

    def run(self, picks: Ints, squared: Floats, budget: int, min_distance: float, watch: Watch) -> int:
        """Pick until the budget or another end."""
        if self.pool is None:
            picks[0], squared[0] = 0, np.inf
            self.tally[1] = 1
        everything = np.arange(len(self.met))
        self.catch_up(everything, watch)
        far_d2 = self.tree.balls.far_d2
        while True:
            before = int(self.tally[0])
            threshold = self._threshold()
            balls = np.flatnonzero(far_d2 > threshold)
            if not len(balls):
                # So many are equally far that no threshold divides them.
                threshold, balls = -1.0, everything
            self.catch_up(balls, watch)
            balls = balls[far_d2[balls] > threshold]
            self.meet_pool(balls, watch)
            balls = balls[far_d2[balls] > threshold]
            if not len(balls):
                continue
            code = self._call(
                "pick", self._tree, balls, len(balls), self.middles[balls], self.centres, self.tally, picks, squared,
                budget, np.float32(threshold), np.float32(min_distance), _ROUND,
            )  # fmt: skip
            now = int(self.tally[0])
            self._count(before, now)
            self.met[balls] = now
            watch.beat(int(self.tally[1]), budget)
            if code != UNFINISHED:
                return code
            # A round should neither end early nor carry balls that it does not need.
            if now - before < _ROUND // 16:
                self._active = min(max(self._fewest, len(self.met) // 8), self._active * 2)
            elif now - before == _ROUND:
                self._active = max(self._fewest // 2, self._active // 2)

    def _threshold(self) -> float:
        far_d2 = self.tree.balls.far_d2
        if self._active >= len(far_d2):
            return -1.0
        return float(np.partition(far_d2, -self._active)[-self._active])


def _rows(columns: int) -> int:
    return max(16, min(_BALLS, _PRODUCTS // max(1, columns)))


def _largest_norm(rows: Floats) -> float:
    return max(float(squared_norms(rows[begin : begin + 65536]).max()) for begin in range(0, len(rows), 65536))
