"""The online rule: which frames to write to scratch while they are decoded, before the selection is known.

Frames that stay within delta of their mean are a view, of which the frame nearest to the mean is kept: it stands for
the others better than the first, which is still on its way there. A view that comes back within the next few of its
chunk (a swing, two cameras in turn) is not kept again. Delta follows the share of frames that is wanted: slowly
within a chunk, and from chunk to chunk of the whole job. A chunk starts from the delta of the chunk that lies a fixed
number of places before it, so that the outcome does not depend on how many threads decode, or on which is faster.
"""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.packets import Stopped

#: How many kept frames a new view is compared with.
_LAST = 8
#: How many frames are kept for each that is wanted: with 1.5 the selection that is moved to them covers, on real and
#: generated clips, as well as with twice as many of those that first left delta.
_FOR_EACH = 1.5
#: Distance in the descriptor's space at which real clips kept a sixth of their frames.
_FIRST_DELTA = 0.1
_GAIN = 0.02
_ROUNDING = 1e-6
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
        #: The last kept frames; zeros, farther from a unit vector than delta may be, where there are none yet.
        self._last: NDArray[np.float32] | None = None
        self._kept = 0
        #: Sum of the vectors of the view, None when its frames are like kept ones.
        self._view: NDArray[np.float32] | None = None
        self._held: NDArray[np.float32] | None = None

    def copy(self) -> ChunkRule:
        """The same rule before it has seen a frame, to decode a chunk a second time."""
        return ChunkRule(self._share, self._start)

    def see(self, embedding: NDArray[np.float32], *, selectable: bool = True) -> tuple[bool, bool]:
        """Look at the next frame, a unit vector float32 [d]: whether to keep the frame that is held, and whether to
        hold this one instead. What is held after the last frame is to be kept.

        selectable: neither corrupt nor a copy of an earlier frame; another counts, and is never held.
        """
        if not self._share:
            return False, False
        keep = hold = begins = False
        if selectable and self._view is not None and self._held is not None:
            if self._is_far(_products(self._view, embedding) / math.sqrt(_products(self._view, self._view))):
                keep = True
                self._remember(self._held)
                self._view = None
            else:
                self._view += embedding
                # Of two frames both are as near to their mean, up to rounding: the first.
                if _products(self._view, embedding) > (1 + _ROUNDING) * _products(self._view, self._held):
                    self._held, hold = embedding, True
        if selectable and self._view is None and self._differs(embedding):
            self._view, self._held = embedding.copy(), embedding
            hold = begins = True
        self._delta *= math.exp(_GAIN * (begins - self._share))
        self._delta = min(max(self._delta, 1e-3), 1.0)
        self._logarithms += math.log(self._delta)
        self._count += 1
        return keep, hold

    def _differs(self, embedding: NDArray[np.float32]) -> bool:
        """Whether a frame is like none of the last kept ones."""
        return self._last is None or self._is_far(float(_each_product(self._last, embedding).max()))

    def _is_far(self, cosine: float) -> bool:
        return 2 - 2 * cosine > self._delta * self._delta

    def _remember(self, embedding: NDArray[np.float32]) -> None:
        if self._last is None:
            self._last = np.zeros((_LAST, len(embedding)), np.float32)
        self._last[self._kept % _LAST] = embedding
        self._kept += 1

    @property
    def holds(self) -> bool:
        """Whether a frame is held."""
        return self._view is not None

    @property
    def mean_delta(self) -> float:
        """Geometric mean of delta over the chunk."""
        return math.exp(self._logarithms / self._count) if self._count else self._start


def _products(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The sum of products, the same on every processor: BLAS adds in an order of its own on each."""
    return float(_each_product(one, other))


def _each_product(rows: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """That of each of some rows, float64."""
    sums: NDArray[np.float64] = np.multiply(rows, vector, dtype=np.float64).sum(axis=-1)
    return sums
