"""For every frame the nearest selected one: who stands for it in the result, and how well."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.outcome import Outcome

#: Multiplications up to which this is worked out: some seconds of one core.
_WORK = 1e11
_BLOCK = 1024


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
    rows = np.flatnonzero(outcome.comparable)
    if not len(selected) or len(rows) * len(selected) * table.embeddings.shape[1] > _WORK:
        return Nearest(index, distance)
    chosen = np.ascontiguousarray(table.embeddings[selected])
    squares = np.einsum("ij,ij->i", chosen, chosen)
    place = np.full(len(table), -1, dtype=np.int64)
    place[selected] = np.arange(len(selected))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        vectors = table.embeddings[block]
        gaps = vectors @ chosen.T
        gaps *= -2.0
        gaps += squares
        own = np.flatnonzero(place[block] >= 0)
        gaps[own, place[block[own]]] = np.inf
        best = gaps.argmin(axis=1)
        value = gaps[np.arange(len(block)), best] + np.einsum("ij,ij->i", vectors, vectors)
        index[block] = np.where(np.isfinite(value), best, -1)
        distance[block] = np.sqrt(np.maximum(value, 0.0))
    return Nearest(index, distance)
