"""For every frame the nearest selected one: who stands for it in the result, and how well.

In the arithmetic of `select.distance`, which is the same on every machine, and exact for vectors of any length.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.select import nearest_neighbours

#: Multiplications up to which this is worked out: some seconds of one core.
_WORK = 1e11
_BLOCK = 8192


@dataclass(frozen=True)
class Nearest:
    """index: int64 [n] into the selected frames in input order, of a selected frame the nearest other one; -1 where
    it is unknown. distance: float32 [n], Euclidean, infinite where it is unknown."""

    index: NDArray[np.int64]
    distance: NDArray[np.float32]


def find_nearest(outcome: Outcome) -> Nearest:
    """For every unique frame with an embedding, unless that would take longer than the rest of the run."""
    table, selected = outcome.table, outcome.selected
    index = np.full(len(table), -1, dtype=np.int64)
    distance = np.full(len(table), np.inf, dtype=np.float32)
    rows = np.flatnonzero(outcome.comparable & ~outcome.is_selected)
    if not len(selected) or (len(rows) + len(selected)) * len(selected) * table.embeddings.shape[1] > _WORK:
        return Nearest(index, distance)
    chosen = np.ascontiguousarray(table.embeddings[selected])
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        index[block], distance[block] = nearest_neighbours(table.embeddings[block], chosen)
    index[selected], distance[selected] = nearest_neighbours(chosen, chosen, without="itself")
    return Nearest(index, distance)
