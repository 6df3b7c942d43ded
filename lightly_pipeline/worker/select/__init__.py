"""Choosing frames: from the embeddings of all of them to the few that are kept.

Strategies, engines and their exactness live here; pixels, files and the datapool's storage do not.
`select`, and `balanced_in_stretches` for long inputs, are the whole interface: what they return is in the order of
picking.
"""

from lightly_pipeline.worker.select.balanced import REPRESENTATIVES
from lightly_pipeline.worker.select.dispatch import STRATEGIES, select
from lightly_pipeline.worker.select.distance import LARGEST, distances_when_picked, nearest_neighbours
from lightly_pipeline.worker.select.engine import ENGINES
from lightly_pipeline.worker.select.selection import Selection, SelectionCancelled, SelectionError
from lightly_pipeline.worker.select.stretches import LONG, balanced_in_stretches

__all__ = [
    "ENGINES",
    "LARGEST",
    "LONG",
    "REPRESENTATIVES",
    "STRATEGIES",
    "Selection",
    "SelectionCancelled",
    "SelectionError",
    "balanced_in_stretches",
    "distances_when_picked",
    "nearest_neighbours",
    "select",
]
