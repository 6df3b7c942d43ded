"""Representatives by greedy k-medians along the time of each video (facility location on temporal neighbours).

Each row costs its distance to the nearest representative among its neighbours in time, at most `ceiling`; the next
representative is the row that lowers the sum of costs most. Rows that the pool knows cost little from the start, so
known content gets no representative. Frames far apart in time are compared by k-center, not here, which keeps the
work linear in the number of rows.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lightly_pipeline.worker.select.compiled import plain, squared_distance
from lightly_pipeline.worker.select.medians_small import CEILING, WINDOW
from lightly_pipeline.worker.select.selection import Floats, Indices, Watch

_EFFORT = 200_000

_jit = njit(cache=True, nogil=True)


def medians(
    points: Floats, count: int, groups: NDArray[np.integer] | None, known: Floats | None, watch: Watch
) -> Indices:
    """At most `count` representatives, the most useful first. `known` are distances to the pool, float32 [n]."""
    n = len(points)
    numbers = np.arange(n)
    first, last = np.maximum(numbers - WINDOW, 0), np.minimum(numbers + WINDOW + 1, n)
    if groups is not None:
        begins = np.concatenate([[0], np.flatnonzero(np.diff(groups)) + 1, [n]])
        home = np.searchsorted(begins, numbers, side="right") - 1
        first, last = np.maximum(first, begins[home]), np.minimum(last, begins[home + 1])
    points = plain(points)
    cost = np.full(n, CEILING, dtype=np.float32)
    if known is not None:
        np.minimum(cost, known, out=cost)
    gains = np.zeros(n)
    for begin in range(0, n, _EFFORT):
        start(points, first, last, cost, gains, begin, min(begin + _EFFORT, n))
        watch.beat(0, count)
    winner = np.full(2 << (n - 1).bit_length(), -1, dtype=np.int64)
    plant(winner, gains)
    picks = np.empty(min(count, n), dtype=np.int64)
    done = 0
    while 0 <= done < len(picks):
        done = advance(points, first, last, cost, gains, winner, picks, done, _EFFORT)
        watch.beat(max(0, done), count)
    return picks[: done if done >= 0 else -done - 1]


@_jit
def gain(points: Floats, first: Indices, last: Indices, cost: Floats, row: int) -> float:
    """How much the sum of costs falls when `row` becomes a representative."""
    total = 0.0
    for other in range(first[row], last[row]):
        saved = cost[other] - np.sqrt(squared_distance(points, row, points, other))
        if saved > 0:
            total += saved
    return total


@_jit
def _replay(winner: Indices, gains: NDArray[np.float64], row: int) -> None:
    """Play the matches of `row` again; ties go to the lower row."""
    node = len(winner) // 2 + row
    while node > 1:
        a = winner[node & -2]
        b = winner[node | 1]
        node >>= 1
        winner[node] = a if b < 0 or (a >= 0 and gains[a] >= gains[b]) else b


@_jit
def start(
    points: Floats, first: Indices, last: Indices, cost: Floats, gains: NDArray[np.float64], begin: int, end: int
) -> None:
    """Fill `gains` of rows begin … end - 1."""
    for row in range(begin, end):
        gains[row] = gain(points, first, last, cost, row)


@_jit
def plant(winner: Indices, gains: NDArray[np.float64]) -> None:
    """Build the tournament over all gains."""
    leaves = len(winner) // 2
    for row in range(len(gains)):
        winner[leaves + row] = row
    for node in range(leaves - 1, 0, -1):
        a = winner[2 * node]
        b = winner[2 * node + 1]
        winner[node] = a if b < 0 or (a >= 0 and gains[a] >= gains[b]) else b


@_jit
def advance(
    points: Floats,
    first: Indices,
    last: Indices,
    cost: Floats,
    gains: NDArray[np.float64],
    winner: Indices,
    picks: Indices,
    done: int,
    effort: int,
) -> int:
    """Take representatives until `picks` is full, nothing is gained, or after `effort` evaluations; how many there are.

    Gains only ever fall, so the row on top is taken when its gain, computed anew, is still the largest.
    """
    while done < len(picks) and effort > 0:
        row = winner[1]
        if gains[row] <= 0:
            return -done - 1
        effort -= 1
        fresh = gain(points, first, last, cost, row)
        if fresh < gains[row]:
            gains[row] = fresh
            _replay(winner, gains, row)
            continue
        picks[done] = row
        done += 1
        gains[row] = -1
        _replay(winner, gains, row)
        for other in range(first[row], last[row]):
            cost[other] = min(cost[other], np.sqrt(squared_distance(points, row, points, other)))
    return done
