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
_VIEW, _HELD = 0, 1
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
        self._kept = 0
        #: Whether the last frame belongs to a view; otherwise it is like a kept one.
        self._in_view = False
        #: Of the view: the square of its sum of vectors, and that sum times the vector of the frame that is held.
        self._square = self._with_held = 0.0
        #: float64 [2 + _LAST, d]: the view's sum, the held frame, the last kept ones; zeros, farther from a unit vector
        #: than delta may be, where there are none yet.
        self._vectors: NDArray[np.float64] | None = None

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
        if selectable:
            vectors, vector = self._room(len(embedding)), embedding.astype(np.float64)
            # Not by BLAS, which adds in an order of its own on each processor.
            to_view, to_held, *to_last = np.einsum("ij,j->i", vectors, vector).tolist()
            if self._in_view:
                if self._is_far(to_view / math.sqrt(self._square)):
                    keep, self._in_view = True, False
                    place = self._kept % _LAST
                    vectors[2 + place], to_last[place] = vectors[_HELD], to_held
                    self._kept += 1
                else:
                    vectors[_VIEW] += vector
                    self._square += 2 * to_view + 1
                    self._with_held += to_held
                    # Of two frames both are as near to their mean, up to rounding: the first.
                    if to_view + 1 > (1 + _ROUNDING) * self._with_held:
                        vectors[_HELD], self._with_held, hold = vector, to_view + 1, True
            if not self._in_view and self._is_far(max(to_last)):
                vectors[_VIEW] = vectors[_HELD] = vector
                self._square = self._with_held = 1.0
                self._in_view = hold = begins = True
        self._delta *= math.exp(_GAIN * (begins - self._share))
        self._delta = min(max(self._delta, 1e-3), 1.0)
        self._logarithms += math.log(self._delta)
        self._count += 1
        return keep, hold

    def _room(self, width: int) -> NDArray[np.float64]:
        if self._vectors is None:
            self._vectors = np.zeros((2 + _LAST, width))
        return self._vectors

    def _is_far(self, cosine: float) -> bool:
        return 2 - 2 * cosine > self._delta * self._delta

    @property
    def holds(self) -> bool:
        """Whether a frame is held."""
        return self._in_view

    @property
    def mean_delta(self) -> float:
        """Geometric mean of delta over the chunk."""
        return math.exp(self._logarithms / self._count) if self._count else self._start
