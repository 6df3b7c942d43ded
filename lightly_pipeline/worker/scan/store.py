"""Embeddings of a file that grows: in memory while it is short, in a file of scratch when it is long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.memory import mapped_rows

#: Frames from which the embeddings of one file are memory-mapped (100,000 x 128 float32 are 51 MB).
MEMORY_MAPPED_FROM = 100_000


class EmbeddingStore:
    """Takes float32 [m, d] blocks in order; `finish` gives them as one array."""

    def __init__(self, file: Path, dimensions: int) -> None:
        self._file = file
        self._dimensions = dimensions
        self._blocks: list[NDArray[np.float32]] = []
        self._count = 0
        self._spilled = False

    def append(self, block: NDArray[np.float32]) -> None:
        """Add rows at the end."""
        if not len(block):
            return
        self._blocks.append(block)
        self._count += len(block)
        if self._spilled or self._count > MEMORY_MAPPED_FROM:
            with open(self._file, "ab") as stream:
                for held in self._blocks:
                    stream.write(np.ascontiguousarray(held, np.float32).tobytes())
            self._blocks = []
            self._spilled = True

    def finish(self) -> NDArray[np.float32]:
        """All rows, float32 [n, d]; a read-only memory map when there are more than fit comfortably."""
        if self._spilled:
            return mapped_rows(self._file, (self._count, self._dimensions))
        if not self._blocks:
            return np.zeros((0, self._dimensions), np.float32)
        return np.concatenate(self._blocks)
