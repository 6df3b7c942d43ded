"""Balls over rows that are alike, and the compiled steps of the greedy k-center on them.

Frames that look alike fit, a few at a time, into a leaf that is much smaller than the radius of the selection, and a
few leaves into a ball. A new centre can lower the distance of a row only if it is nearer than that; so a whole ball is
left out when the centre is farther from the ball's middle than the ball's radius plus the largest distance of its rows
(triangle inequality). Measured from the middle of a *tight* ball that excludes far more than measured from the centre
that its rows have been nearest to: already when the radius of the selection is two thirds of the distance between
unrelated frames.

All of this only decides which distances need not be computed, with margins above any rounding error. The distances
themselves are those of `distance.py`, so the picks are those of the brute force, bit for bit.
"""

# mypy: disable-error-code="no-any-return"
# The annotations tell people; the compiler infers its own types.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lightly_pipeline.worker.select.compiled import squared_distance
from lightly_pipeline.worker.select.distance import squared_distances, squared_norms
from lightly_pipeline.worker.select.order import alike
from lightly_pipeline.worker.select.selection import Floats, Watch

_ROWS = 16  # in a leaf at most; fewer where one differs from the next much more than usual
_CUT_RATIO = 4  # on squared distances
_SAMPLE = 2_000  # rows from which the usual distance of two is estimated
# As shares of the distance of any two rows: how far a row may be from the next in its leaf, and a leaf from the first
# one of its ball.
_STEP, _BALL = 0.35, 0.42
_ALIKE = 0.5  # leaves per row from which on there is no use in them
_BLOCK, _COLUMNS = 512, 4096  # a block of a matrix product

Ints = NDArray[np.int64]


class Level(NamedTuple):
    """Leaves or balls. `reach2`: a centre whose squared distance to the middle is not below it cannot matter."""

    begin: Ints  # [b + 1] first child: a position of Balls.order for leaves, a leaf for balls
    middle: Floats  # [b, d]
    radius: Floats  # upper bound of the distances of the rows to the middle
    far_d2: Floats  # largest d2 of the rows
    far: Ints  # the row that has it, the lowest of equally far ones
    reach2: Floats


class Balls(NamedTuple):
    """Rows in the order of their leaves, leaves in the order of their balls."""

    points: Floats  # [n, d]
    order: Ints  # [n] row at each position
    d2: Floats  # [n] squared distance to the nearest centre, by position
    apart: Floats  # [n] distance to the middle of the leaf, by position
    leaves: Level
    balls: Level
    margin: float  # relative error of a distance, generously


_jit = njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_entry = njit(cache=True, nogil=True, no_cfunc_wrapper=True)


def build(points: Floats, margin: float, watch: Watch, *, join: bool = True) -> Balls:
    """Balls over `points`, with infinite `d2`; every row its own where few are alike.

    Without `join` every leaf is a ball: of a pool only the leaves are wanted.
    """
    n = len(points)
    step = max(1, n // _SAMPLE)
    usual2 = float(squared_distances(points[::step], points[::-step][: len(points[::step])]).mean())
    order = alike(points, watch)
    begin = np.empty(n + 1, dtype=np.int64)
    begin = begin[: cut(points, order, begin, _STEP**2 * usual2) + 1].copy()
    middle = np.empty((len(begin) - 1, points.shape[1]), dtype=np.float32)
    average(points, order, np.ones(n), begin, middle)
    if len(middle) > _ALIKE * n:
        single = _level(np.arange(n + 1), points)
        d2, apart = np.full(n, np.inf, dtype=np.float32), np.zeros(n, dtype=np.float32)
        return Balls(points, np.arange(n), d2, apart, single, single, margin)
    home = _balls_of(middle, _BALL**2 * usual2, watch) if join else np.arange(len(middle))
    leaves = np.argsort(home, kind="stable")
    sizes = np.diff(begin)[leaves]
    shift = begin[:-1][leaves] - (np.cumsum(sizes) - sizes)
    order = order[np.arange(n) + np.repeat(shift, sizes)]
    begin = np.concatenate([[0], np.cumsum(sizes)])
    middle = middle[leaves]
    above = np.concatenate([[0], np.cumsum(np.bincount(home))])
    over = np.empty((len(above) - 1, points.shape[1]), dtype=np.float32)
    average(middle, np.arange(len(middle)), sizes.astype(np.float64), above, over)
    made = Balls(
        points, order, np.full(n, np.inf, np.float32), np.empty(n, np.float32), _level(begin, middle),
        _level(above, over), margin,
    )  # fmt: skip
    measure(made)
    return made


def _level(begin: Ints, middle: Floats) -> Level:
    count = len(begin) - 1
    infinite = np.full(count, np.inf, dtype=np.float32)
    return Level(begin, middle, np.zeros(count, np.float32), infinite, np.zeros(count, np.int64), infinite.copy())


def _balls_of(middles: Floats, within2: float, watch: Watch) -> Ints:
    """The ball of each leaf: that of the nearest leaf that opened one, if it is near enough, else a new one.

    BLAS decides; rounding changes which balls there are, but no pick.
    """
    norms = squared_norms(middles) / 2
    home = np.empty(len(middles), dtype=np.int64)
    openers = np.empty_like(middles)
    opener_norms = np.empty_like(norms)
    count = 0
    for start in range(0, len(middles), _BLOCK):
        part = slice(start, start + _BLOCK)
        vectors = middles[part]
        nearest = np.full(len(vectors), -np.inf, dtype=np.float32)
        for begin in range(0, count, _COLUMNS):
            columns = slice(begin, min(begin + _COLUMNS, count))
            products = vectors @ openers[columns].T
            products -= opener_norms[columns]
            best = products.argmax(axis=1)
            most = products[np.arange(len(best)), best]
            home[part] = np.where(most > nearest, best + begin, home[part])
            nearest = np.maximum(nearest, most)
        alone = np.flatnonzero(2 * (norms[part] - nearest) > within2)
        rest = vectors[alone]
        between = norms[part][alone][:, None] + norms[part][alone] - rest @ rest.T
        open_ = np.ones(len(alone), dtype=bool)
        for k in range(len(alone)):
            if open_[k]:
                near = open_ & (2 * between[k] <= within2)
                near[k] = True
                home[start + alone[near]] = count
                open_[near] = False
                openers[count], opener_norms[count] = rest[k], norms[start + alone[k]]
                count += 1
        watch.beat(0, 0)
    return home


@_entry
def cut(source: Floats, sequence: Ints, begins: Ints, step2: float) -> int:
    """Divide `sequence` where neighbours differ most; first items of the parts, and the end, to `begins`; how many."""
    items = len(sequence)
    steps = np.empty(items, dtype=np.float32)
    for k in range(1, items):
        steps[k] = squared_distance(source, sequence[k - 1], source, sequence[k])
    count = 0
    here = 0
    begins[0] = 0
    while here < items:
        end = min(here + _ROWS, items)
        best = end
        if here + 1 < end:
            best = here + 1
            total = np.float32(0)
            for k in range(here + 1, end):
                total += steps[k]
                if steps[k] > steps[best]:
                    best = k
                if steps[k] > step2:
                    break
            # `end` itself is no worse a place than an ordinary step.
            if steps[best] <= step2 and steps[best] * (end - here - 1) <= _CUT_RATIO * total:
                best = end
        here = best
        count += 1
        begins[count] = here
    return count


@_entry
def average(source: Floats, sequence: Ints, weight: NDArray[np.float64], begins: Ints, middle: Floats) -> None:
    """Weighted means of the parts of `sequence` to `middle`."""
    mean = np.empty(source.shape[1])
    for part in range(len(begins) - 1):
        mean[:] = 0
        total = 0.0
        for k in range(begins[part], begins[part + 1]):
            total += weight[k]
            for j in range(len(mean)):
                mean[j] += weight[k] * source[sequence[k], j]
        for j in range(len(mean)):
            middle[part, j] = mean[j] / total


@_entry
def measure(tree: Balls) -> None:
    """Set the radii and the distances of rows to the middles of their leaves."""
    for ball in range(len(tree.balls.radius)):
        for leaf in range(tree.balls.begin[ball], tree.balls.begin[ball + 1]):
            for position in range(tree.leaves.begin[leaf], tree.leaves.begin[leaf + 1]):
                row = tree.order[position]
                tree.apart[position] = np.sqrt(squared_distance(tree.points, row, tree.leaves.middle, leaf))
                tree.leaves.radius[leaf] = max(tree.leaves.radius[leaf], tree.apart[position])
                distance = np.sqrt(squared_distance(tree.points, row, tree.balls.middle, ball))
                tree.balls.radius[ball] = max(tree.balls.radius[ball], distance)
            tree.leaves.radius[leaf] *= 1 + tree.margin
        tree.balls.radius[ball] *= 1 + tree.margin


@_jit
def farthest(level: Level, which: Ints, begin: int, end: int) -> int:
    """Of which[begin … end - 1], or begin … end - 1 if `which` is empty, what has the farthest row, the lowest one."""
    best = which[begin] if len(which) else begin
    for k in range(begin, end):
        other = which[k] if len(which) else k
        if level.far_d2[other] > level.far_d2[best] or (
            level.far_d2[other] == level.far_d2[best] and level.far[other] < level.far[best]
        ):
            best = other
    return best


@_jit
def _remember(level: Level, ball: int, far_d2: float, far: int, margin: float) -> None:
    level.far_d2[ball] = far_d2
    level.far[ball] = far
    # Where all rows are identical to a centre, none can come nearer.
    reach = (level.radius[ball] + np.sqrt(max(far_d2, np.float32(0)))) * (1 + 4 * margin)
    level.reach2[ball] = reach * reach + 1e-30 if far_d2 > 0 else -1


@_jit
def _lower_leaf(tree: Balls, leaf: int, to_middle: float, centres: Floats, centre: int) -> bool:
    """Lower the distances of the rows of a leaf to a new centre, `to_middle` away from its middle; whether any fell."""
    margin = tree.margin
    changed = False
    far = -1
    far_d2 = np.float32(-1)
    for position in range(tree.leaves.begin[leaf], tree.leaves.begin[leaf + 1]):
        apart = tree.apart[position]
        gap = abs(to_middle - apart) - margin * (to_middle + apart)
        d2 = tree.d2[position]
        if gap <= 0 or gap * gap * (1 - 4 * margin) <= d2:
            nearer = squared_distance(tree.points, tree.order[position], centres, centre)
            if nearer < d2:
                d2 = nearer
                tree.d2[position] = nearer
                changed = True
        if d2 > far_d2 or (d2 == far_d2 and tree.order[position] < far):
            far_d2 = d2
            far = tree.order[position]
    if changed:
        _remember(tree.leaves, leaf, far_d2, far, margin)
    return changed


@_jit
def lower(tree: Balls, ball: int, centres: Floats, centre: int) -> bool:
    """Lower the distances of the rows of a ball to a new centre; whether any fell."""
    changed = False
    for leaf in range(tree.balls.begin[ball], tree.balls.begin[ball + 1]):
        d2 = squared_distance(tree.leaves.middle, leaf, centres, centre)
        if d2 < tree.leaves.reach2[leaf] and _lower_leaf(tree, leaf, np.sqrt(d2), centres, centre):
            changed = True
    if changed:
        best = farthest(tree.leaves, _NONE, tree.balls.begin[ball], tree.balls.begin[ball + 1])
        _remember(tree.balls, ball, tree.leaves.far_d2[best], tree.leaves.far[best], tree.margin)
    return changed


_NONE = np.empty(0, dtype=np.int64)
