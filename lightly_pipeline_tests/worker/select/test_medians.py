"""Representatives in NumPy and in compiled code: one question, one answer."""

import numpy as np
import pytest

from lightly_pipeline.worker.select.medians import medians
from lightly_pipeline.worker.select.medians_small import medians_small
from lightly_pipeline.worker.select.selection import Watch


def walk(rows, seed):
    """Unit vectors that wander, with a cut in the middle, as video does."""
    generator = np.random.default_rng(seed)
    steps = np.cumsum(generator.normal(size=(rows, 64)) * 0.1, axis=0) + generator.normal(size=(1, 64))
    steps[rows // 2 :] += generator.normal(size=(1, 64)) * 3
    return (steps / np.linalg.norm(steps, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (10, 5), (300, 40), (1500, 120)])
@pytest.mark.parametrize("with_pool", [False, True])
def test_both_choose_the_same_rows_in_the_same_order(rows, count, with_pool):
    points = walk(rows, rows)
    videos = np.arange(rows) * 3 // rows
    known = np.random.default_rng(1).uniform(0, 1, rows).astype(np.float32) if with_pool else None
    expected = medians(points, count, videos, known, Watch())
    assert medians_small(points, count, videos, known, Watch()).tolist() == expected.tolist()
