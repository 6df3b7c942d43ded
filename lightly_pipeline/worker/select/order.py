"""An order of rows in which neighbours are alike, whatever order they come in.

Rows are divided among a few pivots that are far apart, each to the nearest, and every part again, until a handful is
left. Rows of a part stay in the order in which they came: in time, for frames.
"""

from __future__ import annotations

import numpy as np

from lightly_pipeline.worker.select.compiled import kernels
from lightly_pipeline.worker.select.kernels.layout import PIVOTS, SAMPLE
from lightly_pipeline.worker.select.selection import Floats, Indices, Watch

_EFFORT = 2_000_000


def alike(points: Floats, watch: Watch) -> Indices:
    """The rows, int64 [n], so that rows near one another in space are mostly near one another in the order."""
    n = len(points)
    order = np.arange(n)
    parts = np.empty((n + 1, 2), dtype=np.int64)
    parts[0] = 0, n
    left = 1
    scratch, pivot_of = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.uint8)
    pivots, begins = np.empty(PIVOTS, dtype=np.int64), np.empty(PIVOTS + 1, dtype=np.int64)
    sample, nearest = np.empty(SAMPLE, dtype=np.int64), np.empty(SAMPLE, dtype=np.float32)
    divide = kernels().call
    while left:
        left = divide(
            "divide",
            points,
            points.shape[1],
            order,
            parts,
            left,
            scratch,
            pivot_of,
            pivots,
            begins,
            sample,
            nearest,
            _EFFORT,
        )
        watch.beat(0, 0)
    return order
