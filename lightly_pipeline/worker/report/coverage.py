"""How well the selection stands for everything: against every N-th frame and random ones of the same number.

For each frame that could be selected the distance to its nearest selected one, or to the datapool: the worst, the 99th
percentile, the mean; and how many of the selected frames are nearly the same as another. Less is better in all four.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.select import nearest_neighbours

#: Frames at which coverage is looked at, and multiplications per candidate selection, at most.
COVERED_FRAMES = 4000
_WORK = 4e9


@dataclass(frozen=True)
class Coverage:
    """One selection's figures, in the embedder's distances."""

    name: str
    worst: float
    p99: float
    mean: float
    redundant: float


def compare_coverage(outcome: Outcome) -> list[Coverage]:
    """This selection, every N-th frame, random frames; empty where there is nothing to compare."""
    everything, selected = np.flatnonzero(outcome.candidates), outcome.selected
    count = len(selected)
    if count < 2 or count >= len(everything):
        return []
    vectors = outcome.table.embeddings
    frames = min(COVERED_FRAMES, len(everything), int(_WORK / (max(1, len(outcome.pool)) * vectors.shape[1])))
    if frames < 2 or count > _WORK / (COVERED_FRAMES * vectors.shape[1]):
        # More vectors than can be compared with in no time: the report does without.
        return []
    seen = everything[:: -(-len(everything) // frames)]
    points = np.ascontiguousarray(vectors[seen])
    near = 0.1 * _typical_distance(points)
    random = np.sort(np.random.default_rng(0).choice(everything, count, replace=False))
    every = everything[np.linspace(0, len(everything) - 1, count).round().astype(np.int64)]
    rows = {"this selection": selected, f"every N-th frame, N = {len(everything) / count:.0f}": every, "random": random}
    # What the pool shows need not be shown again.
    known = nearest_neighbours(points, outcome.pool)[1]
    return [
        _coverage(name, points, known, np.ascontiguousarray(vectors[chosen]), near) for name, chosen in rows.items()
    ]


def _coverage(
    name: str, points: NDArray[np.float32], known: NDArray[np.float32], chosen: NDArray[np.float32], near: float
) -> Coverage:
    gaps = np.minimum(known, nearest_neighbours(points, chosen)[1])
    among = nearest_neighbours(chosen, chosen, without="itself")[1]
    return Coverage(
        name=name,
        worst=round(float(gaps.max()), 4),
        p99=round(float(np.percentile(gaps, 99)), 4),
        mean=round(float(gaps.mean()), 4),
        redundant=round(float((among < near).mean()), 4),
    )


def _typical_distance(points: NDArray[np.float32]) -> float:
    """The median distance of two random frames."""
    generator = np.random.default_rng(0)
    one, other = generator.integers(0, len(points), (2, 2000))
    gaps = np.linalg.norm(points[one] - points[other], axis=1)
    return float(np.median(gaps))
