"""Representatives by greedy k-medians along the time of each video (facility location on temporal neighbours).

Each row costs its distance to the nearest representative among its neighbours in time, at most `ceiling`; the next
representative is the row that lowers the sum of costs most. Rows that the pool knows cost little from the start, so
known content gets no representative. Frames far apart in time are compared by k-center, not here, which keeps the
work linear in the number of rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.select.compiled import kernels
from lightly_pipeline.worker.select.selection import Floats, Indices, Watch

# Frames before and after within which a representative stands for others: one to two seconds of video each way.
_WINDOW = 48
# No representative near: the largest distance of two unit vectors.
_CEILING = 2.0
#: Numbers of rows times their length between two beats: a fraction of a second.
_EFFORT = 25_000_000


def medians(
    points: Floats, count: int, groups: NDArray[np.integer] | None, known: Floats | None, watch: Watch
) -> Indices:
    """At most `count` representatives, the most useful first. `known` are distances to the pool, float32 [n]."""
    points = np.ascontiguousarray(points, np.float32)
    n, width = points.shape
    numbers = np.arange(n)
    first, last = np.maximum(numbers - _WINDOW, 0), np.minimum(numbers + _WINDOW + 1, n)
    if groups is not None:
        begins = np.concatenate([[0], np.flatnonzero(np.diff(groups)) + 1, [n]])
        home = np.searchsorted(begins, numbers, side="right") - 1
        first, last = np.maximum(first, begins[home]), np.minimum(last, begins[home + 1])
    call = kernels().call
    cost = np.full(n, _CEILING, dtype=np.float32)
    if known is not None:
        np.minimum(cost, known, out=cost)
    gains = np.zeros(n)
    effort = max(1, _EFFORT // width)
    for begin in range(0, n, effort):
        call("start", points, width, first, last, cost, gains, begin, min(begin + effort, n))
        watch.beat(0, count)
    leaves = 1 << (n - 1).bit_length()
    winner = np.full(2 * leaves, -1, dtype=np.int64)
    call("plant", winner, leaves, gains, n)
    picks = np.empty(min(count, n), dtype=np.int64)
    done = 0
    while 0 <= done < len(picks):
        done = call("advance", points, width, first, last, cost, gains, winner, leaves, picks, done, len(picks), effort)
        watch.beat(max(0, done), count)
    return picks[: done if done >= 0 else -done - 1]
