"""Balls over rows that are alike.

Frames that look alike fit, a few at a time, into a leaf that is much smaller than the radius of the selection, and a
few leaves into a ball. A new centre can lower the distance of a row only if it is nearer than that; so a whole ball is
left out when the centre is farther from the ball's middle than the ball's radius plus the largest distance of its rows
(triangle inequality). Measured from the middle of a *tight* ball that excludes far more than measured from the centre
that its rows have been nearest to: already when the radius of the selection is two thirds of the distance between
unrelated frames.

All of this only decides which distances need not be computed, with margins above any rounding error. The distances
themselves are those of `distance.py`, so the picks are those of the brute force, bit for bit.
"""

from __future__ import annotations

import numpy as np

from lightly_pipeline.worker.select.compiled import kernels
from lightly_pipeline.worker.select.distance import squared_distances, squared_norms
from lightly_pipeline.worker.select.kernels.layout import Balls, Floats, Ints, Level
from lightly_pipeline.worker.select.order import alike
from lightly_pipeline.worker.select.selection import Watch

_SAMPLE = 2_000  # rows from which the usual distance of two is estimated
# As shares of the distance of any two rows: how far a row may be from the next in its leaf, and a leaf from the first
# one of its ball.
_STEP, _BALL = 0.35, 0.42
_ALIKE = 0.5  # leaves per row from which on there is no use in them
_BLOCK, _COLUMNS = 512, 4096  # a block of a matrix product


def build(points: Floats, margin: float, watch: Watch, *, join: bool = True) -> Balls:
    """Balls over `points`, with infinite `d2`; every row its own where few are alike.

    Without `join` every leaf is a ball: of a pool only the leaves are wanted.
    """
    call = kernels().call
    n, width = points.shape
    step = max(1, n // _SAMPLE)
    some = points[::step]
    # By chance: rows of a film that comes back, forwards or backwards, would be compared with themselves.
    others = some[np.random.default_rng(0).permutation(len(some))]
    usual2 = float(squared_distances(some, others).mean(dtype=np.float64))
    order = alike(points, watch)
    begin = np.empty(n + 1, dtype=np.int64)
    steps = np.empty(n, dtype=np.float32)
    begin = begin[: call("cut", points, width, order, n, begin, steps, _STEP**2 * usual2) + 1].copy()
    middle = np.empty((len(begin) - 1, width), dtype=np.float32)
    mean = np.empty(width)
    call("average", points, width, order, np.ones(n), begin, len(middle), middle, mean)
    if len(middle) > _ALIKE * n:
        single = _level(np.arange(n + 1), points)
        d2, apart = np.full(n, np.inf, dtype=np.float32), np.zeros(n, dtype=np.float32)
        return Balls(points, np.arange(n), d2, apart, single, single, margin, width)
    home = _balls_of(middle, _BALL**2 * usual2, watch) if join else np.arange(len(middle))
    leaves = np.argsort(home, kind="stable")
    sizes = np.diff(begin)[leaves]
    shift = begin[:-1][leaves] - (np.cumsum(sizes) - sizes)
    order = order[np.arange(n) + np.repeat(shift, sizes)]
    begin = np.concatenate([[0], np.cumsum(sizes)])
    middle = middle[leaves]
    above = np.concatenate([[0], np.cumsum(np.bincount(home))])
    over = np.empty((len(above) - 1, width), dtype=np.float32)
    call("average", middle, width, np.arange(len(middle)), sizes.astype(np.float64), above, len(over), over, mean)
    made = Balls(
        points, order, np.full(n, np.inf, np.float32), np.empty(n, np.float32), _level(begin, middle),
        _level(above, over), margin, width,
    )  # fmt: skip
    call("measure", made, len(over))
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
    home = np.zeros(len(middles), dtype=np.int64)
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
        # All, while there is none.
        alone = np.flatnonzero((2 * (norms[part] - nearest) > within2) | (count == 0))
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
