"""The compiled steps of `select.lazy`: balls catch up with centres, and a round of picks."""

# mypy: disable-error-code="no-any-return"
# The annotations tell people; the compiler infers its own types.

from __future__ import annotations

from typing import Any

import numpy as np

from lightly_pipeline.worker.machine_code.addresses import f32, fraction, i64, kernel, root
from lightly_pipeline.worker.select.kernels.balls import balls_at, is_farther, lower
from lightly_pipeline.worker.select.kernels.distance import squared_distance
from lightly_pipeline.worker.select.kernels.layout import (
    BALLS,
    ENOUGH,
    EXHAUSTED,
    TOO_NEAR,
    UNFINISHED,
)


@kernel
def settle(block: Any) -> int:
    """Lower the distances in balls to the centres that each has not met.

    From [0] on the tree; then [0] which balls i64[b]; [1] b; [2] met i64: how many centres each ball of the tree has
    met; [3] products f32[b, c]: of the middles and the centres in question, less half the squared norms of these; [4]
    column of each ball's largest product i64[b]; [5] which centres i64[c]; [6] c; [7] half the squared norms of the
    middles f32[b]; [8] bound of the products' error; [9] all centres f32.
    """
    tree, at = balls_at(block, 0), BALLS
    balls, count, met, products = i64(block[at]), block[at + 1], i64(block[at + 2]), f32(block[at + 3])
    best, columns, width = i64(block[at + 4]), i64(block[at + 5]), block[at + 6]
    norms, margin, centres = f32(block[at + 7]), np.float32(fraction(block[at + 8])), f32(block[at + 9])
    half = np.float32(0.5)
    for i in range(count):
        ball = balls[i]
        limit = norms[i] - (tree.balls.reach2[ball] + margin) * half
        if products[i * width + best[i]] <= limit:
            continue
        for turn in range(-1, width):
            j = best[i] if turn < 0 else turn
            if products[i * width + j] > limit and columns[j] >= met[ball] and lower(tree, ball, centres, columns[j]):
                limit = norms[i] - (tree.balls.reach2[ball] + margin) * half
    return 0


@kernel
def settle_pool(block: Any) -> int:
    """The same for the leaves of the pool.

    From [0] on the tree, then the pool; then [0] which balls i64[b]; [1] b; [2] products f32[b, c], one column for each
    leaf of the pool; [3] column of each ball's largest i64[b]; [4] c; [5] half the squared norms of the balls' middles
    f32[b]; [6] bound of the products' error.
    """
    tree, pool, at = balls_at(block, 0), balls_at(block, BALLS), 2 * BALLS
    balls, count, products, best = i64(block[at]), block[at + 1], f32(block[at + 2]), i64(block[at + 3])
    width, norms, margin = block[at + 4], f32(block[at + 5]), np.float32(fraction(block[at + 6]))
    half = np.float32(0.50001)
    for i in range(count):
        ball = balls[i]
        if tree.balls.reach2[ball] <= 0:
            continue
        near = root(tree.balls.reach2[ball])
        for turn in range(-1, width):
            leaf = best[i] if turn < 0 else turn
            reach = near + pool.leaves.radius[leaf]
            if norms[i] - products[i * width + leaf] - margin >= reach * reach * half:
                continue
            for position in range(pool.leaves.begin[leaf], pool.leaves.begin[leaf + 1]):
                row = pool.order[position]
                d2 = squared_distance(tree.balls.middle, ball, pool.points, row, tree.width)
                if d2 < tree.balls.reach2[ball] and lower(tree, ball, pool.points, row):
                    near = root(max(tree.balls.reach2[ball], np.float32(0)))
    return 0


@kernel
def pick(block: Any) -> int:
    """Pick among the rows of balls until the farthest is not above a threshold; UNFINISHED when the round is over.

    From [0] on the tree; then [0] which balls i64[b]; [1] b; [2] their middles f32[b, d]; [3] centres f32[c, d], out;
    [4] tally i64[2], in and out: how many centres and picks there are; [5] picks i64[k], out; [6] their squared
    distances f32[k], out; [7] k; [8] threshold of squared distances; [9] min_distance; [10] picks to make at most.
    """
    tree, at = balls_at(block, 0), BALLS
    balls, count, near, centres = i64(block[at]), block[at + 1], f32(block[at + 2]), f32(block[at + 3])
    tally, picks, squared, budget = i64(block[at + 4]), i64(block[at + 5]), f32(block[at + 6]), block[at + 7]
    threshold, min_distance, most = fraction(block[at + 8]), fraction(block[at + 9]), block[at + 10]
    last = tally[0] + most
    while tally[1] < budget:
        if tally[0] == last:
            return UNFINISHED
        far = balls[0]
        for i in range(1, count):
            if is_farther(tree.balls, balls[i], far):
                far = balls[i]
        d2 = tree.balls.far_d2[far]
        if d2 <= threshold:
            return UNFINISHED
        if d2 <= 0:
            return EXHAUSTED
        if root(d2) < min_distance:
            return TOO_NEAR
        row = tree.balls.far[far]
        centre = tally[0]
        for k in range(tree.width):
            centres[centre * tree.width + k] = tree.points[row * tree.width + k]
        picks[tally[1]] = row
        squared[tally[1]] = d2
        tally[1] += 1
        tally[0] = centre + 1
        for i in range(count):
            if squared_distance(near, i, centres, centre, tree.width) < tree.balls.reach2[balls[i]]:
                lower(tree, balls[i], centres, centre)
    return ENOUGH
