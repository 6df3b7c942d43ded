"""The arrays of balls over rows that are alike (`select.balls`), and what a round of picks returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

#: How many parameters balls take.
BALLS = 18
#: Rows in a leaf at most; fewer where one differs from the next much more than usual.
LEAF = 16
#: Pivots among which rows are divided at most, and rows among which these are looked for.
PIVOTS, SAMPLE = 16, 128
#: What a round of picks returns.
UNFINISHED, ENOUGH, TOO_NEAR, EXHAUSTED = range(4)


class Level(NamedTuple):
    """Leaves or balls, b of them. `reach2`: a centre not nearer to the middle than that (squared) cannot matter."""

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
    width: int  # d
