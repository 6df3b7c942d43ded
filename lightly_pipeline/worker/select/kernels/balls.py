"""The compiled steps of `select.balls`: making leaves and measuring them, lowering distances to a new centre."""

# mypy: disable-error-code="no-any-return"
# The annotations tell people; the compiler infers its own types.

from __future__ import annotations

from typing import Any

import numpy as np

from lightly_pipeline.worker.machine_code.addresses import compiled, f32, f64, fraction, i64, kernel, root
from lightly_pipeline.worker.select.kernels.distance import squared_distance
from lightly_pipeline.worker.select.kernels.layout import BALLS, LEAF, Balls, Floats, Level

_CUT_RATIO = 4  # on squared distances


@compiled
def _level_at(block: Any, at: int) -> Level:
    return Level(
        i64(block[at]),
        f32(block[at + 1]),
        f32(block[at + 2]),
        f32(block[at + 3]),
        i64(block[at + 4]),
        f32(block[at + 5]),
    )


@compiled
def balls_at(block: Any, at: int) -> Balls:
    """The balls whose addresses are the BALLS parameters from `at` on."""
    return Balls(
        f32(block[at]), i64(block[at + 1]), f32(block[at + 2]), f32(block[at + 3]), _level_at(block, at + 4),
        _level_at(block, at + 10), fraction(block[at + 16]), block[at + 17],
    )  # fmt: skip


@kernel
def cut(block: Any) -> int:
    """Divide a sequence of rows where neighbours differ most; returns into how many parts.

    [0] rows f32[n, d]; [1] d; [2] sequence i64[m]; [3] m; [4] begins i64[m + 1], out: the first items of the parts and
    the end; [5] workspace f32[m]; [6] a squared distance: there is no part with two neighbours farther apart.
    """
    source, width, sequence, items = f32(block[0]), block[1], i64(block[2]), block[3]
    begins, steps, step2 = i64(block[4]), f32(block[5]), fraction(block[6])
    for k in range(1, items):
        steps[k] = squared_distance(source, sequence[k - 1], source, sequence[k], width)
    count = 0
    here = 0
    begins[0] = 0
    while here < items:
        end = min(here + LEAF, items)
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


@kernel
def average(block: Any) -> int:
    """Weighted means of the parts of a sequence of rows.

    [0] rows f32[n, d]; [1] d; [2] sequence i64[m]; [3] weights f64[m]; [4] begins i64[p + 1]; [5] p; [6] means f32[p,
    d], out; [7] workspace f64[d].
    """
    source, width, sequence, weight = f32(block[0]), block[1], i64(block[2]), f64(block[3])
    begins, parts, middle, mean = i64(block[4]), block[5], f32(block[6]), f64(block[7])
    for part in range(parts):
        for j in range(width):
            mean[j] = 0.0
        total = 0.0
        for k in range(begins[part], begins[part + 1]):
            total += weight[k]
            for j in range(width):
                mean[j] += weight[k] * source[sequence[k] * width + j]
        for j in range(width):
            middle[part * width + j] = mean[j] / total
    return 0


@kernel
def measure(block: Any) -> int:
    """Set the radii, and the distances of rows to the middles of their leaves. [0] balls; [BALLS] how many."""
    tree, balls = balls_at(block, 0), block[BALLS]
    for ball in range(balls):
        for leaf in range(tree.balls.begin[ball], tree.balls.begin[ball + 1]):
            for position in range(tree.leaves.begin[leaf], tree.leaves.begin[leaf + 1]):
                row = tree.order[position]
                tree.apart[position] = root(squared_distance(tree.points, row, tree.leaves.middle, leaf, tree.width))
                tree.leaves.radius[leaf] = max(tree.leaves.radius[leaf], tree.apart[position])
                distance = root(squared_distance(tree.points, row, tree.balls.middle, ball, tree.width))
                tree.balls.radius[ball] = max(tree.balls.radius[ball], distance)
            tree.leaves.radius[leaf] *= 1 + tree.margin
        tree.balls.radius[ball] *= 1 + tree.margin
    return 0


@compiled
def is_farther(level: Level, one: int, other: int) -> bool:
    """Whether the farthest row of `one` is farther than that of `other`, or as far and lower."""
    return level.far_d2[one] > level.far_d2[other] or (
        level.far_d2[one] == level.far_d2[other] and level.far[one] < level.far[other]
    )


@compiled
def _remember(level: Level, ball: int, far_d2: float, far: int, margin: float) -> None:
    level.far_d2[ball] = far_d2
    level.far[ball] = far
    # Where all rows are identical to a centre, none can come nearer.
    reach = (level.radius[ball] + root(max(far_d2, np.float32(0)))) * (1 + 4 * margin)
    level.reach2[ball] = reach * reach + 1e-30 if far_d2 > 0 else -1


@compiled
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
            nearer = squared_distance(tree.points, tree.order[position], centres, centre, tree.width)
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


@compiled
def lower(tree: Balls, ball: int, centres: Floats, centre: int) -> bool:
    """Lower the distances of the rows of a ball to a new centre; whether any fell."""
    changed = False
    for leaf in range(tree.balls.begin[ball], tree.balls.begin[ball + 1]):
        d2 = squared_distance(tree.leaves.middle, leaf, centres, centre, tree.width)
        if d2 < tree.leaves.reach2[leaf] and _lower_leaf(tree, leaf, root(d2), centres, centre):
            changed = True
    if changed:
        best = tree.balls.begin[ball]
        for leaf in range(best + 1, tree.balls.begin[ball + 1]):
            if is_farther(tree.leaves, leaf, best):
                best = leaf
        _remember(tree.balls, ball, tree.leaves.far_d2[best], tree.leaves.far[best], tree.margin)
    return changed
