"""The one arithmetic of distances, so that every engine agrees to the last bit.

A squared distance is the float32 sum of float32 squared differences, in this order: coordinate j goes to lane
j % 16, each lane adds its coordinates from left to right, then lanes are folded in halves (8, 4, 2, 1). No fused
multiply-add. That order is what a 16-wide vector unit does anyway, and it is the same on every machine, in NumPy
and in compiled code, so a pruned search can be compared bit by bit with the brute force. Sums of squares (instead of
norms minus dot products) keep the relative error below `relative_error`, also for near duplicates, and are exactly
zero for identical rows.

BLAS appears only as a filter: its result decides what need not be computed, within a proven bound, never a distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from lightly_pipeline.worker.select.selection import Floats, Indices

LANES = 16
#: Squared norms up to which squared distances, up to four times as large, are numbers in float32.
LARGEST = float(np.finfo(np.float32).max) / 8
#: Rows in a run whose middle is near to all of them, mostly: neighbours in time.
VIEW = 512
_BLOCK_BYTES = 8 << 20
_FINITE = np.finfo(np.float32).max
_UNIT = float(np.finfo(np.float32).eps) / 2


def relative_error(dimensions: int) -> float:
    """Upper bound of the relative rounding error of one squared distance."""
    return (dimensions / LANES + 8) * 2 * _UNIT


def squared_distances(points: Floats, others: Floats) -> Floats:
    """Squared distances of `points` [n, d] to `others` [d] or [n, d], float32 [n], in the defined arithmetic."""
    n, dimensions = points.shape
    lanes = np.zeros((n, LANES), dtype=np.float32)
    for start in range(0, dimensions, LANES):
        stop = min(start + LANES, dimensions)
        difference = points[:, start:stop] - others[..., start:stop]
        lanes[:, : stop - start] += difference * difference
    for half in (8, 4, 2, 1):
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def squared_norms(points: Floats) -> Floats:
    """Squared Euclidean norms, float32 [n]; for the BLAS filter only."""
    norms: Floats = np.einsum("ij,ij->i", points, points, dtype=np.float32)
    return norms


def blas_error(points_max: float, others_max: float, dimensions: int) -> float:
    """Bound of the absolute error of |a|² + |b|² - 2 a·b in float32, for squared norms up to the two maxima."""
    return (dimensions + 8) * 2 * _UNIT * (math.sqrt(points_max) + math.sqrt(others_max)) ** 2


def filter_error(dimensions: int) -> float:
    """c, so that |a - m|² + |b - m|² - 2 (a - m)·(b - m) in float32 is within c (|a - m|² + |b - m|²) of the defined
    squared distance of a and b, for any m.

    Twice the parts of (|a - m| + |b - m|)²: BLAS, rounding of the two differences, and the defined arithmetic itself.
    """
    return 2 * ((dimensions + 8) * 2 * _UNIT + 16 * _UNIT + relative_error(dimensions))


def row_blocks(rows: int, bytes_per_row: int, limit: int = _BLOCK_BYTES) -> Iterator[slice]:
    """Slices over `rows` whose working set stays within `limit` bytes."""
    step = max(1, limit // max(1, bytes_per_row))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def nearest_neighbours(
    queries: Floats, references: Floats, *, without: Literal["nothing", "itself", "later"] = "nothing"
) -> tuple[Indices, Floats]:
    """The nearest reference of every query: (index int64 [q], Euclidean distance float32 [q]); ties to the lowest.

    without: where both are the same rows, "itself" passes over each query's own, and "later" over those behind it, too.
    Where no reference is left: index -1, distance infinity. Memory stays bounded; both may be memory-mapped.
    """
    squared = np.full(len(queries), np.inf, dtype=np.float32)
    index = np.full(len(queries), -1, dtype=np.int64)
    if not len(queries) or not len(references):
        return index, squared
    dimensions = queries.shape[1]
    error = np.float32(filter_error(dimensions))
    for wanted in row_blocks(len(queries), 1, VIEW):
        block = np.ascontiguousarray(queries[wanted])
        # Frames of one view lie so near to each other that the error of products of unit vectors would be as large.
        middle = block.mean(axis=0)
        centred = block - middle
        norms = squared_norms(centred)
        for known in row_blocks(len(references), max(dimensions * 4, len(block) * 4), 4 << 20):
            others = np.ascontiguousarray(references[known])
            others_centred = others - middle
            other_norms = squared_norms(others_centred)
            least = centred @ others_centred.T
            least *= -2
            least += (1 - error) * norms[:, None]
            least += (1 - error) * other_norms[None, :]
            if without != "nothing":
                ahead = np.arange(known.start, known.stop) - np.arange(wanted.start, wanted.stop)[:, None]
                least[ahead == 0 if without == "itself" else ahead >= 0] = np.inf
            best = least.argmin(axis=1)
            most = least[np.arange(len(block)), best] + 2 * error * (norms + other_norms[best])
            limit = np.minimum(np.minimum(most, squared[wanted]), _FINITE)
            rows, columns = np.nonzero(least <= limit[:, None])
            for part in row_blocks(len(rows), dimensions * 8):
                exact = squared_distances(block[rows[part]], others[columns[part]])
                _keep_nearest(squared[wanted], index[wanted], rows[part], columns[part] + known.start, exact)
    return index, np.sqrt(squared)


def distances_when_picked(picks: Floats, pool: Floats | None) -> Floats:
    """Of picks, float32 [k, d] in their order, to the nearest earlier one or pool vector, float32 [k]."""
    among = nearest_neighbours(picks, picks, without="later")[1]
    return among if pool is None else np.minimum(among, nearest_neighbours(picks, pool)[1])


def _keep_nearest(squared: Floats, index: Indices, rows: Indices, columns: Indices, exact: Floats) -> None:
    """Lower `squared` and `index` (views) to the candidates given as (row, column, exact)."""
    order = np.lexsort((columns, exact, rows))
    rows, columns, exact = rows[order], columns[order], exact[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = rows[1:] != rows[:-1]
    rows, columns, exact = rows[first], columns[first], exact[first]
    # Strictly nearer only: an equally near one of an earlier block has the lower index.
    nearer = exact < squared[rows]
    squared[rows[nearer]] = exact[nearer]
    index[rows[nearer]] = columns[nearer]
