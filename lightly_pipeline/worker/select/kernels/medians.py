"""The compiled steps of `select.medians`: gains, and a tournament over them."""

# mypy: disable-error-code="no-any-return"
# The annotations tell people; the compiler infers its own types.

from __future__ import annotations

from typing import Any

from lightly_pipeline.worker.machine_code.addresses import compiled, f32, f64, i64, kernel, root
from lightly_pipeline.worker.select.kernels.distance import squared_distance


@compiled
def gain(points: Any, width: int, first: Any, last: Any, cost: Any, row: int) -> float:
    """How much the sum of costs falls when `row` becomes a representative."""
    total = 0.0
    for other in range(first[row], last[row]):
        saved = cost[other] - root(squared_distance(points, row, points, other, width))
        if saved > 0:
            total += saved
    return total


@compiled
def _replay(winner: Any, leaves: int, gains: Any, row: int) -> None:
    """Play the matches of `row` again; ties go to the lower row."""
    node = leaves + row
    while node > 1:
        a = winner[node & -2]
        b = winner[node | 1]
        node >>= 1
        winner[node] = a if b < 0 or (a >= 0 and gains[a] >= gains[b]) else b


@kernel
def start(block: Any) -> int:
    """The gain of each row from a first one to a last.

    [0] points f32[n, d]; [1] d; [2], [3] i64[n]: first neighbour in time, and the one after the last; [4] cost f32[n];
    [5] gains f64[n], out; [6], [7] first row, and the one after the last.
    """
    points, width, first, last = f32(block[0]), block[1], i64(block[2]), i64(block[3])
    cost, gains, begin, end = f32(block[4]), f64(block[5]), block[6], block[7]
    for row in range(begin, end):
        gains[row] = gain(points, width, first, last, cost, row)
    return 0


@kernel
def plant(block: Any) -> int:
    """Build the tournament over all gains.

    [0] winners i64[2 * l], -1 where nobody is, out; [1] l, a power of two; [2] gains f64[n]; [3] n.
    """
    winner, leaves, gains, rows = i64(block[0]), block[1], f64(block[2]), block[3]
    for row in range(rows):
        winner[leaves + row] = row
    for node in range(leaves - 1, 0, -1):
        a = winner[2 * node]
        b = winner[2 * node + 1]
        winner[node] = a if b < 0 or (a >= 0 and gains[a] >= gains[b]) else b
    return 0


@kernel
def advance(block: Any) -> int:
    """Take representatives until there are enough, or nothing is gained, or after a number of evaluations.

    Returns how many there are, n; -n - 1 when nothing is gained any more. Gains only ever fall, so
    the row on top is taken when its gain, computed anew, is still the largest.

    [0] to [3] as for `start`; [4] cost f32[n], out; [5] gains f64[n], out; [6] winners i64[2 * l], out; [7] l; [8]
    picks i64[k], out; [9] how many there are; [10] k; [11] evaluations.
    """
    points, width, first, last = f32(block[0]), block[1], i64(block[2]), i64(block[3])
    cost, gains, winner, leaves = f32(block[4]), f64(block[5]), i64(block[6]), block[7]
    picks, done, wanted, effort = i64(block[8]), block[9], block[10], block[11]
    while done < wanted and effort > 0:
        row = winner[1]
        if gains[row] <= 0:
            return -done - 1
        effort -= 1
        fresh = gain(points, width, first, last, cost, row)
        if fresh < gains[row]:
            gains[row] = fresh
            _replay(winner, leaves, gains, row)
            continue
        picks[done] = row
        done += 1
        gains[row] = -1
        _replay(winner, leaves, gains, row)
        for other in range(first[row], last[row]):
            cost[other] = min(cost[other], root(squared_distance(points, row, points, other, width)))
    return done
