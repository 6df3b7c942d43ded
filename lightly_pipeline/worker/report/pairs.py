"""Examples for the eye: a retained frame beside its nearest removed one.

Pairs that look alike say that more could be removed; pairs that look different, that too much was.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.nearest import Nearest
from lightly_pipeline.worker.outcome import Outcome


@dataclass(frozen=True)
class Pair:
    """Rows of a retained and a removed frame, and their distance."""

    retained: int
    removed: int
    distance: float


def choose_pairs(outcome: Outcome, nearest: Nearest, count: int, at_hand: NDArray[np.int64]) -> list[Pair]:
    """At most `count` pairs, from the nearest to the farthest, each retained frame once.

    Where pictures of enough removed frames are `at_hand`, only those are shown: any other would have to be decoded
    again.
    """
    removed = np.flatnonzero(outcome.comparable & ~outcome.is_selected & (nearest.index >= 0))
    quick = removed[np.isin(removed, at_hand)]
    removed = quick if len(quick) >= count else removed
    by_gap: NDArray[np.int64] = removed[np.argsort(nearest.distance[removed], kind="stable")]
    _, first = np.unique(nearest.index[by_gap], return_index=True)
    closest = by_gap[np.sort(first)]
    if len(closest) > count:
        closest = closest[np.linspace(0, len(closest) - 1, count).round().astype(np.int64)]
    selected = outcome.selected
    return [
        Pair(int(selected[nearest.index[row]]), int(row), round(float(nearest.distance[row]), 4)) for row in closest
    ]
