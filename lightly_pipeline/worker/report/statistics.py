"""Figures of a selection: pairwise distances before and after, and whether its promises were kept.

Pairs are quadratic, so they are taken over an evenly spread subset, bounded by memory_requirement_in_GB and by what
a report may cost beside decoding.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.manifest import Checks, Distances, Spread
from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.select import distances_when_picked, nearest_neighbours

#: Frames whose pairs are looked at, at most: half a million pairs give every percentile to a thousandth.
PAIRED_FRAMES = 1000
#: Multiplications up to which nearest neighbours are computed in full.
_WORK = 4e10
#: What a distance in float32 may lack of a minimum that is given in more digits, as a share of it.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class PairwiseDistances:
    """All distances between the frames of a subset, float32 [pairs], and each one's to its nearest, [frames]."""

    pairs: NDArray[np.float32]
    nearest: NDArray[np.float32]

    def spread(self) -> Spread | None:
        """As figures; None where there is no pair."""
        if not len(self.pairs):
            return None
        p10, p90 = np.percentile(self.pairs, [10, 90])
        return Spread(
            mean=round(float(self.pairs.mean()), 6),
            min=round(float(self.pairs.min()), 6),
            max=round(float(self.pairs.max()), 6),
            p10=round(float(p10), 6),
            p90=round(float(p90), 6),
            nearest_min=round(float(self.nearest.min()), 6),
            nearest_mean=round(float(self.nearest.mean()), 6),
            samples=len(self.nearest),
        )


def subset(rows: NDArray[np.int64], memory_in_gb: float) -> NDArray[np.int64]:
    """Evenly spread rows, so many that their distance matrix stays within the bounds."""
    limit = min(PAIRED_FRAMES, int(math.sqrt(memory_in_gb * 1e9 / 16)))
    if len(rows) <= limit:
        return rows
    places = np.linspace(0, len(rows) - 1, max(1, limit)).round().astype(np.int64)
    return np.asarray(rows[places], dtype=np.int64)


def pairwise_distances(vectors: NDArray[np.float32]) -> PairwiseDistances:
    """Euclidean distances between all pairs of rows of float32 [m, d]."""
    if len(vectors) < 2:
        return PairwiseDistances(np.empty(0, np.float32), np.empty(0, np.float32))
    # Around their middle and in float64: differences of large squares would else be nothing but rounding.
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->i", centred, centred)
    matrix = centred @ centred.T
    matrix *= -2.0
    matrix += squares[:, None]
    matrix += squares
    np.maximum(matrix, 0.0, out=matrix)
    np.sqrt(matrix, out=matrix)
    distances = matrix.astype(np.float32)
    pairs = np.concatenate([row[place + 1 :] for place, row in enumerate(distances)])
    np.fill_diagonal(distances, np.inf)
    return PairwiseDistances(pairs, distances.min(axis=1))


def measure_distances(outcome: Outcome, memory_in_gb: float) -> tuple[PairwiseDistances, PairwiseDistances, Distances]:
    """Distances among the unique frames before, and among the selected ones after."""
    vectors = outcome.table.embeddings
    before = pairwise_distances(vectors[subset(np.flatnonzero(outcome.comparable), memory_in_gb)])
    after = pairwise_distances(vectors[subset(outcome.selected, memory_in_gb)])
    to_pool = None
    if len(outcome.pool) and len(outcome.picks):
        some = vectors[subset(outcome.selected, memory_in_gb)]
        if some.size * len(outcome.pool) <= _WORK:
            to_pool = round(float(nearest_neighbours(some, outcome.pool)[1].min()), 6)
    return before, after, Distances(before=before.spread(), after=after.spread(), nearest_to_pool=to_pool)


def check(outcome: Outcome, *, duplicates_removed: bool) -> Checks:
    """The promises, measured on the result itself where that is affordable; without copies if these were removed."""
    table = outcome.table
    hashes = table.frames["pixel_hash"][outcome.picks]
    distinct = len({bytes(value) for value in hashes}) == len(hashes)
    return Checks(
        budget_kept=len(outcome.picks) <= outcome.budget,
        no_exact_duplicates=distinct or not duplicates_removed,
        min_distance_kept=_least_distance(outcome) >= (outcome.min_distance or 0.0) * (1 - TOLERANCE),
    )


def _least_distance(outcome: Outcome) -> float:
    """The smallest distance of a selected frame to another or to the pool.

    Where computing it would take long it is the smallest that the picking saw, which is the same for frames that
    were taken one after the other; of sequences it is that between their means.
    """
    count = len(outcome.picks)
    if not count or outcome.min_distance is None:
        return math.inf
    size = count * outcome.table.embeddings.shape[1]
    if outcome.sequences is not None or size * (count + len(outcome.pool)) > _WORK:
        return float(outcome.distances.min())
    nearest = distances_when_picked(outcome.table.embeddings[outcome.picks], outcome.pool)
    # What the user selected beforehand, at an infinite distance, was not asked to keep any.
    return float(nearest[np.isfinite(outcome.distances)].min(initial=np.inf))
