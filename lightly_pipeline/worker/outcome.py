"""What a selection decided: the typed value between choosing and writing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.frames import FrameTable

#: The names of `Outcome.status`: where several are true of a frame, the first one counts.
STATUS = ("selected", "corrupt", "duplicate", "masked", "no embedding", "threshold", "not selected")


@dataclass(frozen=True)
class Outcome:
    """Every frame's fate.

    usable: bool [n], not corrupt. masked: bool [n], the user's embeddings file says to leave it out. embedded: bool
    [n], has an embedding, as every frame does that this file does not lack. original: int64 [n], the frame that stands
    for all with the same pixels (itself where it is that): the first that the user's file selected, else the first
    that it neither masks nor lacks, else the first. allowed: bool [n], passes the thresholds. picks: int64 [k],
    selected rows in the order of picking. distances: float32 [k], of each pick to the nearest earlier pick or pool
    vector when it was picked (infinite for the first without a pool, NaN where it is not known). stopped_by: "budget",
    "min_distance" or "exhausted". notes: sentences for the reader. sequences: int64 [s, length], the selected
    sequences, where sequences were selected.
    """

    table: FrameTable
    usable: NDArray[np.bool_]
    masked: NDArray[np.bool_]
    embedded: NDArray[np.bool_]
    original: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    picks: NDArray[np.int64]
    distances: NDArray[np.float32]
    stopped_by: str
    strategy: str
    engine: str
    budget: int
    min_distance: float | None
    pool: NDArray[np.float32]
    notes: tuple[str, ...] = ()
    sequences: NDArray[np.int64] | None = None

    @property
    def unique(self) -> NDArray[np.bool_]:
        """bool [n]: usable, and not the copy of an earlier frame."""
        first: NDArray[np.bool_] = self.original == np.arange(len(self.original))
        return self.usable & first

    @property
    def comparable(self) -> NDArray[np.bool_]:
        """bool [n]: unique, and with an embedding that counts; those of other frames mean nothing."""
        return self.unique & self.embedded & ~self.masked

    @property
    def candidates(self) -> NDArray[np.bool_]:
        """bool [n]: what could be selected."""
        return self.comparable & self.allowed

    @property
    def selected(self) -> NDArray[np.int64]:
        """The selected rows in the order of the input."""
        return np.sort(self.picks)

    @property
    def status(self) -> NDArray[np.int8]:
        """int8 [n]: the place in STATUS."""
        true = [self.is_selected, ~self.usable, ~self.unique, self.masked, ~self.embedded, ~self.allowed]
        return np.select(true, range(len(true)), default=len(true)).astype(np.int8)

    @property
    def is_selected(self) -> NDArray[np.bool_]:
        """bool [n]: selected."""
        chosen = np.zeros(len(self.table), dtype=np.bool_)
        chosen[self.picks] = True
        return chosen
