"""The online rule: which frames to write to scratch while they are decoded, before the selection is known.

A frame is kept when it has moved more than delta from each of the last few kept ones, so that a view that comes
back (a swing, two cameras in turn) is not kept again. Delta follows the share of frames that is wanted: within a
chunk, and from chunk to chunk of the whole job. A chunk starts from the delta
of the chunk that lies a fixed number of places before it, so that the outcome does not depend on how many
threads decode, or on which is faster.
"""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.packets import Stopped

#: How many kept frames a frame is compared with.
_LAST = 8
#: How many frames are kept for each that is wanted. With 1.5 the selection moved to kept frames was as good, on real
#: and generated clips, as with twice as many kept by the last kept frame alone.
_FOR_EACH = 1.5
#: Distance in the descriptor's space at which real clips kept a sixth of their frames.
_FIRST_DELTA = 0.12
_GAIN = 0.05
_LAG = 8
#: Above this share a second decode of what was selected is cheaper than keeping half as many again.
_MAX_SHARE = 0.4


class KeepRule:
    """Deltas of all chunks of a job, shared by the threads that decode them."""

    def __init__(self, expected_share: float, stop: threading.Event) -> None:
        self.share = _FOR_EACH * expected_share if 0 < expected_share <= _MAX_SHARE else 0.0
        self._ends: dict[int, float] = {}
        self._changed = threading.Condition()
        self._stop = stop

    def begin(self, sequence: int) -> ChunkRule:
        """The rule for one chunk; waits until the chunk it depends on is finished."""
        earlier = sequence - _LAG
        if not self.share or earlier < 0:
            return ChunkRule(self.share, _FIRST_DELTA)
        with self._changed:
            while earlier not in self._ends:
                if self._stop.is_set():
                    raise Stopped
                self._changed.wait(0.1)
            return ChunkRule(self.share, self._ends.pop(earlier))

    def finish(self, sequence: int, rule: ChunkRule) -> None:
        """Say how a chunk ended."""
        with self._changed:
            self._ends[sequence] = rule.mean_delta
            self._changed.notify_all()


class ChunkRule:
    """The rule within one chunk."""

    def __init__(self, share: float, delta: float) -> None:
        self._share = share
        self._delta = self._start = delta
        self._logarithms = 0.0
        self._count = 0
        self._kept = 0
        self._last = np.zeros((0, 0), np.float32)

    def copy(self) -> ChunkRule:
        """The same rule before it has seen a frame, to decode a chunk a second time."""
        return ChunkRule(self._share, self._start)

    def keeps(self, embedding: NDArray[np.float32]) -> bool:
        """Whether to keep the next frame, a unit vector float32 [d]. The first is always kept."""
        if not self._share:
            return False
        if not len(self._last):
            # Zeros are farther from a unit vector than delta may be.
            self._last = np.zeros((_LAST, len(embedding)), np.float32)
        nearest = float((self._last @ embedding).max())
        keep = 2 - 2 * nearest > self._delta * self._delta
        if keep:
            self._last[self._kept % _LAST] = embedding
            self._kept += 1
        self._delta *= math.exp(_GAIN * (keep - self._share))
        self._delta = min(max(self._delta, 1e-3), 1.0)
        self._logarithms += math.log(self._delta)
        self._count += 1
        return keep

    @property
    def mean_delta(self) -> float:
        """Geometric mean of delta over the chunk."""
        return math.exp(self._logarithms / self._count) if self._count else self._start
