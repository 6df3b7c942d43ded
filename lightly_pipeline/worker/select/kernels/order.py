"""The compiled part of `select.order`."""

# mypy: disable-error-code="no-any-return"
# The annotations tell people; the compiler infers its own types.

from __future__ import annotations

from typing import Any

import numpy as np

from lightly_pipeline.worker.machine_code.addresses import f32, i64, kernel, u8
from lightly_pipeline.worker.select.kernels.distance import squared_distance
from lightly_pipeline.worker.select.kernels.layout import PIVOTS, SAMPLE

_ROWS = 8  # not divided any more


@kernel
def divide(block: Any) -> int:
    """Divide the last of the parts (begin, end), until none is left or enough distances are computed.

    Returns how many are left.

    [0] points f32[n, d]; [1] d; [2] order i64[n], out; [3] parts i64[n + 1, 2], out; [4] how many; workspace: [5]
    i64[n], [6] u8[n], [7] i64[PIVOTS], [8] i64[PIVOTS + 1], [9] i64[SAMPLE], [10] f32[SAMPLE]; [11] distances to
    compute.
    """
    points, width, order, parts, left = f32(block[0]), block[1], i64(block[2]), i64(block[3]), block[4]
    scratch, pivot_of, pivots, begins = i64(block[5]), u8(block[6]), i64(block[7]), i64(block[8])
    sample, nearest, effort = i64(block[9]), f32(block[10]), block[11]
    while left > 0 and effort > 0:
        left -= 1
        begin = parts[2 * left]
        end = parts[2 * left + 1]
        rows = end - begin
        if rows <= _ROWS:
            continue
        wanted = PIVOTS if rows > SAMPLE else 4
        size = min(rows, SAMPLE if rows > SAMPLE else 32)
        for k in range(size):
            sample[k] = order[begin + k * rows // size]
            nearest[k] = np.inf
        count = 0
        while count < wanted:
            far = 0
            for k in range(1, size):
                if nearest[k] > nearest[far]:
                    far = k
            if nearest[far] <= 0:
                break
            pivots[count] = sample[far]
            for k in range(size):
                nearest[k] = min(nearest[k], squared_distance(points, sample[k], points, pivots[count], width))
            count += 1
        effort -= (rows + size) * count
        if count == 1:
            continue
        for pivot in range(count + 1):
            begins[pivot] = 0
        for k in range(begin, end):
            best = np.float32(np.inf)
            pivot_of[k] = 0
            for pivot in range(count):
                d2 = squared_distance(points, order[k], points, pivots[pivot], width)
                if d2 < best:
                    best = d2
                    pivot_of[k] = pivot
            begins[pivot_of[k] + 1] += 1
        for pivot in range(count):
            begins[pivot + 1] += begins[pivot]
            if begins[pivot + 1] > begins[pivot]:
                parts[2 * left] = begin + begins[pivot]
                parts[2 * left + 1] = begin + begins[pivot + 1]
                left += 1
        for k in range(begin, end):
            pivot = pivot_of[k]
            scratch[begin + begins[pivot]] = order[k]
            begins[pivot] += 1
        for k in range(begin, end):
            order[k] = scratch[k]
    return left
