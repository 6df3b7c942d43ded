"""The built-in descriptor: one 128-dimensional unit vector per frame, without weights to download.

It combines what changes between pictures worth keeping: gradients (histograms of 8 unsigned orientations in
4 x 4 cells of the 64 x 64 luma), a tiny picture (8 x 8 luma, 4 x 4 chroma) and colour (luma and chroma
histograms on a 2 x 2 grid), 416 numbers; each part alone is blind to what another sees. A fixed projection
(random signs, Walsh-Hadamard transform, 128 of 512 coordinates) then keeps the distances to about 5 %. The
projection is defined by a seed, not learned: vectors made anywhere, at any time, by the same version can be
compared.

The arithmetic is `kernels._describe`; here are its tables and its name.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.types import EmbedderIdentity

#: The version changes whenever the vectors do: then pools made before are refused, not mixed.
BUILT_IN = EmbedderIdentity(name="lightly-pipeline-descriptor", version="1", dimensions=128)

_SEED = 2
_MASK = (1 << 64) - 1


def split_mix(seed: int, count: int) -> NDArray[np.uint64]:
    """`count` numbers of SplitMix64 (Steele, Lea, Flood 2014): the same on every platform, for ever."""
    numbers, state = [], seed
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        numbers.append(z ^ (z >> 31))
    return np.array(numbers, dtype=np.uint64)


@cache
def projection() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Signs float32 [512] and coordinates int64 [128] of the projection."""
    numbers = split_mix(_SEED, 1024)
    signs = np.where(numbers[:512] >> np.uint64(63), np.float32(1), np.float32(-1)).astype(np.float32)
    rows = np.sort(np.argsort(numbers[512:], kind="stable")[: BUILT_IN.dimensions]).astype(np.int64)
    return signs, rows
