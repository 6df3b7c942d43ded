"""Representatives: the compiled search against the definition, row by row."""

import numpy as np
import pytest

from lightly_pipeline.worker.select.distance import squared_distances
from lightly_pipeline.worker.select.medians import medians
from lightly_pipeline.worker.select.selection import Watch

WINDOW = 48  # of the neighbours before, and after, that a representative stands for


def walk(rows, seed):
    """Unit vectors that wander, with a cut in the middle, as video does."""
    generator = np.random.default_rng(seed)
    steps = np.cumsum(generator.normal(size=(rows, 64)) * 0.1, axis=0) + generator.normal(size=(1, 64))
    steps[rows // 2 :] += generator.normal(size=(1, 64)) * 3
    return (steps / np.linalg.norm(steps, axis=1, keepdims=True)).astype(np.float32)


def one_after_the_other(points, count, videos, known):
    """Each time the row that lowers the sum of all costs most, every gain computed anew; ties go to the lower row."""
    rows = np.arange(len(points))
    gaps = np.stack([np.sqrt(squared_distances(points, point)) for point in points])
    apart = (np.abs(rows - rows[:, None]) > WINDOW) | (videos != videos[:, None])
    gaps[apart] = np.inf
    cost = np.full(len(points), 2, np.float32) if known is None else np.minimum(known, np.float32(2))
    picks = []
    while len(picks) < count:
        gains = np.maximum(cost - gaps, 0).sum(axis=1, dtype=np.float64)
        gains[picks] = 0
        if gains.max() <= 0:
            break
        picks.append(int(gains.argmax()))
        cost = np.minimum(cost, gaps[picks[-1]])
    return picks


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (10, 5), (300, 40), (1500, 120)])
@pytest.mark.parametrize("with_pool", [False, True])
def test_the_row_that_lowers_the_costs_most_is_next(rows, count, with_pool):
    points = walk(rows, rows)
    videos = np.arange(rows) * 3 // rows
    known = np.random.default_rng(1).uniform(0, 1, rows).astype(np.float32) if with_pool else None
    chosen = medians(points, count, videos, known, Watch())
    assert chosen.tolist() == one_after_the_other(points, count, videos, known)
