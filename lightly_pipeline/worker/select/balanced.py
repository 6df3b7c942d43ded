"""The balanced strategy: half of the budget on representatives, half on greedy k-center on top of them.

Pure k-center has the best worst case and the least redundancy, but spends its budget on outliers: the average frame
is farther from a selected one than with every tenth frame, and short shots are missed. Representatives are taken at
equal steps along the path that each video draws through the space of embeddings, where a step between neighbouring
frames counts with the square root of its length: between "equal times" (power 0) and "equal distances" (power 1).
Measured side by side in lightly_pipeline_tests/benchmarks/quality.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.select.distance import nearest_neighbours, row_blocks, squared_distances
from lightly_pipeline.worker.select.in_order import in_order
from lightly_pipeline.worker.select.selection import Floats, Indices, StoppedBy, Watch

POWER = 0.5
_SAME_FRAME = 0.02
_NEIGHBOURHOOD = 2

KCenter = Callable[[Floats, "Floats | None", int, float, Watch], tuple[Indices, Floats, StoppedBy]]


def balanced(
    points: Floats,
    pool: Floats | None,
    budget: int,
    min_distance: float,
    watch: Watch,
    *,
    k_center: KCenter,
    groups: NDArray[np.integer] | None,
    sharpness: NDArray[np.floating] | None,
) -> tuple[Indices, Floats, StoppedBy]:
    """Picks, distances and why it stopped: representatives in display order, then k-center's."""
    wanted = representatives(points, pool, budget // 2, groups)
    if sharpness is not None:
        wanted = sharper(points, wanted, groups, sharpness)
    picks, distances, stopped_by = in_order(points, pool, wanted, budget // 2, min_distance, watch)
    known = points[picks] if pool is None else np.concatenate([pool, points[picks]])
    rest, rest_distances, stopped_by = k_center(points, known, budget - len(picks), min_distance, watch)
    if sharpness is not None:
        rest, rest_distances = _sharpen_tail(points, known, rest, rest_distances, groups, sharpness, min_distance)
    return np.concatenate([picks, rest]), np.concatenate([distances, rest_distances]), stopped_by


def representatives(points: Floats, pool: Floats | None, count: int, groups: NDArray[np.integer] | None) -> Indices:
    """`count` rows at equal steps along the videos' paths, over what the pool does not know yet."""
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    steps = path_steps(points, groups)
    rows = _equal_steps(steps, count)
    if pool is None or not len(pool) or len(rows) < 2:
        return rows
    # Known is what has a pool vector nearer than the next representative would be.
    spacing = np.median(np.sqrt(squared_distances(points[rows[1:]], points[rows[:-1]])))
    novel = nearest_neighbours(points, pool)[1] > spacing
    return _equal_steps(np.where(novel, steps, 0), count) if novel.any() else rows[:0]


def path_steps(points: Floats, groups: NDArray[np.integer] | None) -> NDArray[np.float64]:
    """Length of the step that leads to each row, to the power of POWER; 0 for the first row of a video. [n]"""
    steps = np.zeros(len(points))
    for part in row_blocks(len(points) - 1, points.shape[1] * 8):
        after = slice(part.start + 1, part.stop + 1)
        steps[after] = np.sqrt(squared_distances(points[after], points[part])) ** POWER
    if groups is not None:
        steps[1:][groups[1:] != groups[:-1]] = 0
    return steps


def _equal_steps(steps: NDArray[np.float64], count: int) -> Indices:
    """The rows nearest to the middles of `count` equal parts of the whole path."""
    along = np.cumsum(steps)
    if along[-1] <= 0:
        even = np.linspace(0, len(steps) - 1, count).round().astype(np.int64)
        return np.array(np.unique(even), dtype=np.int64)
    targets = (np.arange(count) + 0.5) * (along[-1] / count)
    after = np.searchsorted(along, targets).clip(1, len(along) - 1)
    nearer_before = targets - along[after - 1] < along[after] - targets
    rows: Indices = np.unique(np.where(nearer_before, after - 1, after))
    return rows


def sharper(
    points: Floats, rows: Indices, groups: NDArray[np.integer] | None, sharpness: NDArray[np.floating]
) -> Indices:
    """Each row, or its sharpest neighbour in time that shows the same (embedding within 0.02)."""
    moved: Indices = rows.copy()
    best = sharpness[rows]
    for offset in range(-_NEIGHBOURHOOD, _NEIGHBOURHOOD + 1):
        other = rows + offset
        inside = (other >= 0) & (other < len(points))
        other = np.where(inside, other, rows)
        same = inside & (np.sqrt(squared_distances(points[other], points[rows])) <= _SAME_FRAME)
        if groups is not None:
            same &= groups[other] == groups[rows]
        better = same & (sharpness[other] > best)
        moved[better], best[better] = other[better], sharpness[other[better]]
    return moved


def _sharpen_tail(
    points: Floats,
    known: Floats,
    rows: Indices,
    distances: Floats,
    groups: NDArray[np.integer] | None,
    sharpness: NDArray[np.floating],
    min_distance: float,
) -> tuple[Indices, Floats]:
    """Move k-center's picks to sharper frames that show the same, and measure their distances again.

    Picks that are farther from everything than twice the move cannot come too near to another by it; the others, and
    all where moving would break `min_distance`, stay as they are.
    """
    room = np.maximum(3 * _SAME_FRAME, min_distance + 2 * _SAME_FRAME)
    moved = np.where(distances >= room, sharper(points, rows, groups, sharpness), rows)
    if (moved == rows).all():
        return rows, distances
    chosen = points[moved]
    again = nearest_neighbours(chosen, known)[1]
    for start in range(0, len(chosen), 512):
        block = chosen[start : start + 512]
        again[start : start + 512] = np.minimum(
            again[start : start + 512], nearest_neighbours(block, chosen[:start])[1]
        )
        for position in range(1, len(block)):
            nearest = np.sqrt(squared_distances(block[:position], block[position]).min())
            again[start + position] = min(again[start + position], nearest)
    return moved, again
