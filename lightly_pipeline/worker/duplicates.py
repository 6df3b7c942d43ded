"""Exact duplicates: frames whose decoded pixels are identical, within a video and across videos.

Lightly's worker compared embeddings; pixels say it exactly and do not depend on the embedder.
"""

import numpy as np
from numpy.typing import NDArray


def first_of_equal(pixel_hash: NDArray[np.void], usable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each frame the first usable frame with the same pixels: itself where it is the first.

    pixel_hash: 16 bytes [n]. usable: bool [n]; frames that are not count for nobody and stand for themselves.
    """
    first = np.arange(len(pixel_hash), dtype=np.int64)
    rows = np.flatnonzero(usable)
    if not len(rows):
        return first
    halves = np.ascontiguousarray(pixel_hash[rows]).view(np.uint64).reshape(-1, 2)
    # Stable: equal hashes stay in the order of the rows, so each run begins with its first frame.
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ordered = halves[order]
    begins = np.ones(len(rows), dtype=np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    leader = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    first[rows[order]] = rows[order[leader]]
    return first
