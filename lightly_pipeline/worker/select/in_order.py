"""Taking rows in a given order, skipping what is identical or too near to what is already there.

Random selection is this with a random order; representatives are this with the order of their gain.
"""

from __future__ import annotations

import numpy as np

from lightly_pipeline.worker.select.distance import nearest_neighbours, squared_distances
from lightly_pipeline.worker.select.selection import Floats, Indices, StoppedBy, Watch

_BLOCK = 512


def in_order(
    points: Floats, pool: Floats | None, order: Indices, budget: int, min_distance: float, watch: Watch
) -> tuple[Indices, Floats, StoppedBy]:
    """The first `budget` rows of `order` that keep their distance, with that distance, and why it stopped."""
    taken = np.empty(min(budget, len(order)), dtype=np.int64)
    distances = np.empty(len(taken), dtype=np.float32)
    chosen = np.empty((len(taken), points.shape[1]), dtype=np.float32)
    count = 0
    too_near = 0
    for start in range(0, len(order), _BLOCK):
        if count == len(taken):
            break
        candidates = order[start : start + _BLOCK]
        block = points[candidates]
        nearest = nearest_neighbours(block, chosen[:count])[1]
        if pool is not None:
            nearest = np.minimum(nearest, nearest_neighbours(block, pool)[1])
        for position, row in enumerate(candidates):
            distance = nearest[position]
            if distance <= 0 or distance < np.float32(min_distance):
                too_near += bool(distance > 0)
                continue
            taken[count], distances[count], chosen[count] = row, distance, block[position]
            count += 1
            if count == len(taken):
                break
            after = slice(position + 1, None)
            to_this = np.sqrt(squared_distances(block[after], block[position]))
            nearest[after] = np.minimum(nearest[after], to_this)
        watch.beat(count, budget)
    stopped_by: StoppedBy = "budget"
    if count < budget:
        stopped_by = "min_distance" if too_near else "exhausted"
    return taken[:count], distances[:count], stopped_by
