"""An order of rows in which neighbours are alike, whatever order they come in.

Rows are divided among a few pivots that are far apart, each to the nearest, and every part again, until a handful is
left. Rows of a part stay in the order in which they came: in time, for frames.
"""

# mypy: disable-error-code="no-any-return"
# The annotations tell people; the compiler infers its own types.

from __future__ import annotations

import numpy as np
from numba import njit

from lightly_pipeline.worker.select.compiled import squared_distance
from lightly_pipeline.worker.select.selection import Floats, Indices, Watch

_ROWS = 8  # not divided any more
_PIVOTS, _SAMPLE = 16, 128
_EFFORT = 2_000_000


def alike(points: Floats, watch: Watch) -> Indices:
    """The rows, int64 [n], so that rows near one another in space are mostly near one another in the order."""
    n = len(points)
    order = np.arange(n)
    parts = np.empty((n + 1, 2), dtype=np.int64)
    parts[0] = 0, n
    left = 1
    scratch, pivot_of = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.uint8)
    while left:
        left = divide(points, order, parts, left, scratch, pivot_of, _EFFORT)
        watch.beat(0, 0)
    return order


@njit(cache=True, nogil=True, no_cfunc_wrapper=True)
def divide(
    points: Floats, order: Indices, parts: Indices, left: int, scratch: Indices, pivot_of: Indices, effort: int
) -> int:
    """Divide the last of the `left` parts (begin, end), until none is left or `effort` distances are computed."""
    pivots = np.empty(_PIVOTS, dtype=np.int64)
    begins = np.empty(_PIVOTS + 1, dtype=np.int64)
    sample = np.empty(_SAMPLE, dtype=np.int64)
    nearest = np.empty(_SAMPLE, dtype=np.float32)
    while left > 0 and effort > 0:
        left -= 1
        begin = parts[left, 0]
        end = parts[left, 1]
        rows = end - begin
        if rows <= _ROWS:
            continue
        wanted = _PIVOTS if rows > _SAMPLE else 4
        size = min(rows, _SAMPLE if rows > _SAMPLE else 32)
        for k in range(size):
            sample[k] = order[begin + k * rows // size]
            nearest[k] = np.inf
        count = 0
        while count < wanted:
            far = nearest[:size].argmax()
            if nearest[far] <= 0:
                break
            pivots[count] = sample[far]
            for k in range(size):
                nearest[k] = min(nearest[k], squared_distance(points, sample[k], points, pivots[count]))
            count += 1
        effort -= (rows + size) * count
        if count == 1:
            continue
        begins[:] = 0
        for k in range(begin, end):
            best = np.float32(np.inf)
            for pivot in range(count):
                d2 = squared_distance(points, order[k], points, pivots[pivot])
                if d2 < best:
                    best = d2
                    pivot_of[k] = pivot
            begins[pivot_of[k] + 1] += 1
        for pivot in range(count):
            begins[pivot + 1] += begins[pivot]
            if begins[pivot + 1] > begins[pivot]:
                parts[left, 0] = begin + begins[pivot]
                parts[left, 1] = begin + begins[pivot + 1]
                left += 1
        for k in range(begin, end):
            pivot = pivot_of[k]
            scratch[begin + begins[pivot]] = order[k]
            begins[pivot] += 1
        order[begin:end] = scratch[begin:end]
    return left
