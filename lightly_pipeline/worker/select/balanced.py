"""The balanced strategy: part of the budget on representatives, the rest on greedy k-center on top of them, and then
each to where it stands best for what is nearest to it (`medoids.py`).

Pure k-center has the best worst case and the least redundancy, but spends its budget on outliers: the average frame
is farther from a selected one than with every tenth frame, and short shots are missed. Representatives (k-medians
along time, `medians.py`) bring the average down; every shot gets one; and none may be nearer to another than half of
the gap that k-center alone would leave, which keeps redundancy where k-center has it.
Measured side by side in lightly_pipeline_tests/benchmarks/quality.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.select.distance import (
    distances_when_picked,
    nearest_neighbours,
    row_blocks,
    squared_distances,
)
from lightly_pipeline.worker.select.in_order import in_order
from lightly_pipeline.worker.select.medians import medians
from lightly_pipeline.worker.select.medoids import to_medoids
from lightly_pipeline.worker.select.selection import Floats, Indices, StoppedBy, Watch

#: Share of the budget for representatives: with more, pure k-center's redundancy is left behind; with less, the mean
#: of every tenth frame is (0.5 to 0.7 on real, generated and synthetic clips, 5 to 15 %).
REPRESENTATIVES = 0.6
# Of few picks for many scenes the rest may not reach them all: its gap is more than this many times that of k-center
# alone (0.9 to 1.25 on the same clips). Then fewer representatives, in the end none.
_WIDER = 2.0
_FEWER = (1.0, 0.5, 0.25, 0.0)
APART = 0.5
#: The same for picks that go where they stand best.
_MOVED_APART = 0.75
# A cut: a step this long, and this many times the usual step around it.
_CUT = 0.25
_CUT_RATIO = 3
_SHOT_FRAMES = 8
# Rows, evenly spread, from which k-center's gap is estimated when there are more.
_GAP_ROWS = 20_000
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
    spare: int = 0,
) -> tuple[Indices, Floats, StoppedBy]:
    """Picks, distances and why it stopped: representatives in display order, then k-center's.

    spare: how many of the last ones the caller may do without: the others stand where they would without these.
    """
    to_pool = None if pool is None or not len(pool) else nearest_neighbours(points, pool)[1]
    gap = usual_gap(points, pool, budget, min_distance, watch, k_center)
    for part in _FEWER:
        count = round(budget * REPRESENTATIVES * part)
        wanted = representatives(points, to_pool, count, gap, groups, watch)
        if sharpness is not None:
            wanted = sharper(points, wanted, groups, sharpness)
        picks, distances, _ = in_order(points, pool, wanted, count, max(min_distance, APART * gap), watch)
        known = points[picks] if to_pool is None else np.concatenate([pool, points[picks]])
        rest, rest_distances, stopped_by = k_center(points, known, budget - len(picks), min_distance, watch)
        if not len(rest) or rest_distances[-1] <= _WIDER * gap:
            break
    greedy, distances = np.concatenate([picks, rest]), np.concatenate([distances, rest_distances])
    settled, further = np.split(greedy, [max(0, budget - spare)])
    shots, apart = shot_numbers(points, groups), max(min_distance, _MOVED_APART * gap)
    picks = np.concatenate([to_medoids(points, to_pool, settled, shots, apart, watch), further])
    if not np.array_equal(picks, greedy):
        distances = distances_when_picked(points[picks], pool)
    # After a stop at min_distance a move could leave room for one more.
    if sharpness is not None and stopped_by != "min_distance":
        picks, distances = _sharpened(points, pool, picks, distances, groups, sharpness, min_distance)
    return picks, distances, stopped_by


def usual_gap(
    points: Floats, pool: Floats | None, budget: int, min_distance: float, watch: Watch, k_center: KCenter
) -> float:
    """The distance of k-center's last pick, were the whole budget its own; of long inputs that on some of their rows.

    As many picks cover those about as finely as all rows, unless there are hardly more of them than picks.
    """
    if len(points) > _GAP_ROWS:
        points = points[np.linspace(0, len(points) - 1, _GAP_ROWS).round().astype(np.int64)]
        budget = min(budget, _GAP_ROWS // 2)
    distances = k_center(points, pool, budget, min_distance, watch)[1]
    return float(distances[-1]) if len(distances) and np.isfinite(distances[-1]) else 0.0


def representatives(
    points: Floats,
    to_pool: Floats | None,
    count: int,
    gap: float,
    groups: NDArray[np.integer] | None,
    watch: Watch,
) -> Indices:
    """Rows to try as representatives, the most useful first, and before them one for each shot without any.

    More than `count`, because some will prove too near to another.
    """
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    found = medians(points, count + count // 2 + 1, groups, to_pool, watch)
    shots = shot_numbers(points, groups)
    covered = np.zeros(shots[-1] + 1, dtype=bool)
    covered[shots[found[:count]]] = True
    missed = np.flatnonzero(~covered & (np.bincount(shots) >= _SHOT_FRAMES))
    first, last = np.searchsorted(shots, missed), np.searchsorted(shots, missed, side="right")
    middles = np.array([_middle(points, a, b) for a, b in zip(first, last, strict=True)], dtype=np.int64)
    if to_pool is not None:
        middles = middles[to_pool[middles] > gap]
    return np.concatenate([middles[: count // 2], found])


def shot_numbers(points: Floats, groups: NDArray[np.integer] | None) -> Indices:
    """The shot of each row, numbered from 0: a new one begins with a video, and where neighbours suddenly differ."""
    n = len(points)
    steps = np.zeros(n)
    for part in row_blocks(n - 1, points.shape[1] * 8):
        after = slice(part.start + 1, part.stop + 1)
        steps[after] = np.sqrt(squared_distances(points[after], points[part]))
    candidates = np.flatnonzero(steps > _CUT)
    usual = np.array([np.median(steps[max(0, row - 8) : row + 9]) for row in candidates])
    begins = np.zeros(n, dtype=np.int64)
    begins[candidates] = steps[candidates] > _CUT_RATIO * usual
    if groups is not None:
        begins[1:] |= groups[1:] != groups[:-1]
    begins[0] = 0
    return np.cumsum(begins)


def _middle(points: Floats, begin: int, end: int) -> int:
    """The row of begin … end - 1 nearest to their mean."""
    rows = points[begin:end]
    return int(begin + squared_distances(rows, rows.mean(axis=0, dtype=np.float32)).argmin())


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


def _sharpened(
    points: Floats,
    pool: Floats | None,
    picks: Indices,
    distances: Floats,
    groups: NDArray[np.integer] | None,
    sharpness: NDArray[np.floating],
    min_distance: float,
) -> tuple[Indices, Floats]:
    """Move picks to sharper frames that show the same, and measure their distances again.

    Picks that are farther from everything before them than twice the move cannot come too near to each other by it.
    The others stay as they are, and so does a pick that would come too near to one of those.
    """
    room = np.maximum(3 * _SAME_FRAME, min_distance + 2 * _SAME_FRAME)
    moved = np.where(distances >= room, sharper(points, picks, groups, sharpness), picks)
    changed = np.flatnonzero(moved != picks)
    staying = points[picks[distances < room]]
    too_near = nearest_neighbours(points[moved[changed]], staying)[1] < max(_SAME_FRAME, min_distance)
    moved[changed[too_near]] = picks[changed[too_near]]
    if too_near.all():
        return picks, distances
    return moved, distances_when_picked(points[moved], pool)
