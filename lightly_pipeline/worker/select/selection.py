"""What a selection is, and how one can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
StoppedBy = Literal["budget", "min_distance", "exhausted"]


class SelectionError(ValueError):
    """The selection cannot be made; the message says why and what to do."""


class SelectionCancelled(Exception):
    """The caller's `cancelled` said so; nothing was selected."""


@dataclass(frozen=True)
class Selection:
    """The chosen rows, in the order in which they were picked.

    `distances[i]` is the Euclidean distance of pick i to the nearest earlier pick or pool vector, infinity for a
    first pick without a pool. `stopped_by` is "budget" (as many as were asked for), "min_distance" (every row left
    is nearer than that to a pick or the pool) or "exhausted" (every row left is identical to a pick or the pool).
    `notes` are sentences for the log and the report: what a reader of the result has to know.
    """

    indices: Indices
    distances: Floats
    stopped_by: StoppedBy
    strategy: str
    engine: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many rows were chosen."""
        return len(self.indices)


def never() -> bool:
    """Nobody asks to stop."""
    return False


def quietly(done: int, total: int) -> None:
    """Nobody listens."""
    del done, total


@dataclass(frozen=True)
class Watch:
    """How a long selection talks to its caller: `progress(picked, budget)` now and then, `cancelled()` to stop."""

    progress: Callable[[int, int], None] = quietly
    cancelled: Callable[[], bool] = never

    def beat(self, done: int, total: int) -> None:
        """Report progress (none while preparing: a total of 0); raise SelectionCancelled when asked to stop."""
        if self.cancelled():
            raise SelectionCancelled("The selection was cancelled: nothing was selected.")
        if total:
            self.progress(done, total)
