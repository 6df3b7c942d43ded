"""The k-medians of `medians` for inputs of some ten thousand frames, in NumPy: no compiler has to be imported.

Importing numba takes longer than decoding half a minute of video. Here the distances within every window are a table
of 97 numbers a row, and gains are kept up to date instead of being computed again when they come to the top.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.select.distance import row_blocks, squared_distances
from lightly_pipeline.worker.select.selection import Floats, Indices, Watch

# Frames before and after within which a representative stands for others: one to two seconds of video each way.
WINDOW = 48
# No representative near: the largest distance of two unit vectors.
CEILING = 2.0
#: Rows up to which the table is affordable: 40 MB.
ROWS = 100_000


def medians_small(
    points: Floats,
    count: int,
    groups: NDArray[np.integer] | None,
    known: Floats | None,
    watch: Watch,
    window: int = WINDOW,
    ceiling: float = CEILING,
) -> Indices:
    """At most `count` representatives, the most useful first: the same question as `medians.medians`."""
    n, width = len(points), 2 * window + 1
    near = _window_distances(points, groups, window)
    cost = np.full(n + 2 * window, ceiling, dtype=np.float32)
    cost[window : window + n] = ceiling if known is None else np.minimum(ceiling, known)
    around = np.lib.stride_tricks.sliding_window_view(cost, width)
    gains = np.empty(n)
    for part in row_blocks(n, width * 16):
        gains[part] = _gains(around[part], near[part])
    picks = np.empty(min(count, n), dtype=np.int64)
    for done in range(len(picks)):
        row = int(gains.argmax())
        if gains[row] <= 0.0:
            return picks[:done]
        picks[done] = row
        # The new representative lowers costs in its window, and with them gains in twice that.
        covered = cost[row : row + width]
        np.minimum(covered, near[row], out=covered)
        touched = slice(max(0, row - 2 * window), min(n, row + 2 * window + 1))
        fresh = _gains(around[touched], near[touched])
        gains[touched] = np.where(gains[touched] < 0.0, -1.0, fresh)
        gains[row] = -1.0
        if done % 64 == 0:
            watch.beat(done, count)
    return picks


def _gains(cost: Floats, near: Floats) -> NDArray[np.float64]:
    """How much the sum of costs falls when each row becomes a representative."""
    saved = cost - near
    np.maximum(saved, 0.0, out=saved)
    total: NDArray[np.float64] = saved.sum(axis=1, dtype=np.float64)
    return total


def _window_distances(points: Floats, groups: NDArray[np.integer] | None, window: int) -> Floats:
    """float32 [n, 2 * window + 1]: distance of each row to those before and after it; infinite outside its video."""
    n = len(points)
    near = np.full((n, 2 * window + 1), np.inf, dtype=np.float32)
    near[:, window] = 0.0
    for step in range(1, min(window, n - 1) + 1):
        for part in row_blocks(n - step, points.shape[1] * 12):
            later = slice(part.start + step, part.stop + step)
            gap = np.sqrt(squared_distances(points[later], points[part]))
            if groups is not None:
                gap = np.where(groups[later] == groups[part], gap, np.float32(np.inf))
            near[part, window + step] = gap
            near[later, window - step] = gap
    return near
