"""Picks moved to where they stand best for the rows that are nearest to them (k-medoids, by Lloyd's alternation).

Greedy picks are made one after the other: a later one takes over part of what an earlier one stood for, which then lies
at the edge of the rest. Each pick goes to the medoid of its cluster, and clusters are made anew, a few times: no sum of
distances rises by it, and no row is farther from its pick than the farthest one was. A pick stays in its shot, and as
far from other picks and the pool as it was, or as it has to be.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lightly_pipeline.worker.machine_code import Parameter
from lightly_pipeline.worker.select.compiled import kernels
from lightly_pipeline.worker.select.distance import squared_distances
from lightly_pipeline.worker.select.selection import Floats, Indices, Watch

#: The second one brings a quarter of what the first one brings; a third one nothing that could be seen.
_ROUNDS = 2
#: Picks up to which there are two rounds, and up to which there is one: all of their distances are needed for it.
_TWICE, _ONCE = 4_096, 16_384
#: Near picks that are remembered of each, and members that are tried as the medoid.
_NEAR, _TRIALS = 16, 16
#: Distances of rows to picks that may be far from them: where more are needed, rows do not lie in clusters.
_FAR = 50_000_000
#: Multiplications between two beats: a fraction of a second.
_EFFORT = 500_000_000


def to_medoids(
    points: Floats, to_pool: Floats | None, picks: Indices, shots: Indices, apart: float, watch: Watch
) -> Indices:
    """The picks, int64 [k], moved; in the same order.

    points float32 [n, d]; to_pool: the distances to the pool, float32 [n]; shots: the shot of each row, int64 [n].
    Left as they are where there are more than 16,384, and where many rows are about as far from one as from another.
    """
    if not 1 < len(picks) <= _ONCE:
        return picks
    most = np.full(len(points), np.inf, np.float32) if to_pool is None else to_pool
    for _ in range(_ROUNDS if len(picks) <= _TWICE else 1):
        near = _Near(points, picks, watch)
        home, cost = near.clusters()
        if not len(home):
            break
        medoids = near.medoids(home, cost, most, shots)
        too_near = (most[medoids] < np.minimum(most[picks], np.float32(apart))) | (most[medoids] <= 0)
        moved = near.moved(np.where(too_near, picks, medoids), apart)
        if np.array_equal(moved, picks):
            break
        picks = moved
    return picks


class _Near:
    """Picks with the nearest others of each."""

    def __init__(self, points: Floats, picks: Indices, watch: Watch) -> None:
        self._points, self._picks, self._watch = points, picks, watch
        length = min(_NEAR, len(picks) - 1)
        nearest, distances = (np.empty((len(picks), length), kind) for kind in (np.int64, np.float32))
        self._all = (points, points.shape[1], picks, len(picks), length, nearest, distances)
        for _ in self._run("near", len(picks), len(picks), *self._all, np.zeros(len(picks), np.int64)):
            pass
        np.sqrt(distances, out=distances)

    def clusters(self) -> tuple[Indices, Floats]:
        """The nearest pick of each row, int64 [n], and its distance, float32 [n]; nothing where there are none."""
        n, count = len(self._points), len(self._picks)
        in_time = np.argsort(self._picks, kind="stable")
        before = np.searchsorted(self._picks[in_time], np.arange(n), side="right") - 1
        start = in_time[np.maximum(before, 0)]
        home, cost = np.empty(n, np.int64), np.empty(n, np.float32)
        left = _FAR
        for everywhere in self._run("cluster", n, count, *self._all, start, home, cost):
            left -= everywhere * count
            if left < 0:
                return home[:0], cost[:0]
        return home, cost

    def medoids(self, home: Indices, cost: Floats, most: Floats, shots: Indices) -> Indices:
        """The medoid of each cluster, int64 [k]: what the pool shows better (`most`, float32 [n]) is in none."""
        width, count = self._points.shape[1], len(self._picks)
        own = np.flatnonzero(cost < most)
        members = own[np.argsort(home[own], kind="stable")]
        begins = np.searchsorted(home[members], np.arange(count + 1))
        medoids, limit = np.empty(count, np.int64), float(cost[own].max(initial=0))
        work = (np.empty(width, np.float32), np.empty(width), np.empty(_TRIALS, np.int64))
        given = (self._points, width, members, begins, self._picks, cost, most, shots, limit, medoids)
        each = (_TRIALS + 2) * (len(own) // count + 1)
        for _ in self._run("centre", count, each, *given, *work, np.empty(_TRIALS, np.float32), _TRIALS):
            pass
        return medoids

    def moved(self, medoids: Indices, apart: float) -> Indices:
        """The picks, moved to their medoids as far as they stay apart."""
        moved: Indices = self._picks.copy()
        longest = float(np.sqrt(squared_distances(self._points[moved], self._points[medoids]).max()))
        for _ in self._run("move", len(moved), _NEAR, *self._all, medoids, moved, apart, longest):
            pass
        return moved

    def _run(self, kernel: str, total: int, each: int, *given: Parameter) -> Iterator[int]:
        """Call a kernel for some of `total` at a time, of which one takes `each` distances; what it returns."""
        step = max(1, _EFFORT // (self._points.shape[1] * max(1, each)))
        for begin in range(0, total, step):
            yield kernels().call(kernel, *given, begin, min(begin + step, total))
            self._watch.beat(0, 0)
