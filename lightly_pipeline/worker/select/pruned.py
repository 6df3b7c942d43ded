"""Greedy k-center that leaves out what cannot matter: the picks of the brute force, at a fraction of its cost.

Rows that are alike are put into balls (`balls.py`), and balls are brought up to date when they may hold the next pick
(`lazy.py`).
"""

from __future__ import annotations

import numpy as np

from lightly_pipeline.worker.select.balls import build
from lightly_pipeline.worker.select.distance import relative_error
from lightly_pipeline.worker.select.kernels.layout import ENOUGH, EXHAUSTED, TOO_NEAR
from lightly_pipeline.worker.select.lazy import Rounds
from lightly_pipeline.worker.select.selection import Floats, Indices, StoppedBy, Watch

_REASONS: dict[int, StoppedBy] = {ENOUGH: "budget", TOO_NEAR: "min_distance", EXHAUSTED: "exhausted"}


def pruned(
    points: Floats, pool: Floats | None, budget: int, min_distance: float, watch: Watch
) -> tuple[Indices, Floats, StoppedBy]:
    """Picks, distances and why it stopped: exactly those of `brute_force`."""
    points = np.ascontiguousarray(points, np.float32)
    margin = 4 * relative_error(points.shape[1]) + 1e-6
    known = None
    if pool is not None and len(pool):
        known = build(np.ascontiguousarray(pool, np.float32), margin, watch, join=False)
    rounds = Rounds(build(points, margin, watch), known, budget)
    picks = np.empty(budget, dtype=np.int64)
    squared = np.empty(budget, dtype=np.float32)
    code = rounds.run(picks, squared, budget, min_distance, watch)
    done = int(rounds.tally[1])
    return picks[:done], np.sqrt(squared[:done]), _REASONS[code]
