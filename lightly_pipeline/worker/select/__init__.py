"""Choosing frames: from the embeddings of all of them to the few that are kept.

Strategies, engines and their exactness live here; pixels, files and the datapool's storage do not.
`select` is the whole interface: everything it returns is in the order of picking.
"""

from lightly_pipeline.worker.select.dispatch import STRATEGIES, select
from lightly_pipeline.worker.select.distance import nearest_neighbours
from lightly_pipeline.worker.select.engine import ENGINES
from lightly_pipeline.worker.select.selection import Selection, SelectionCancelled, SelectionError

__all__ = [
    "ENGINES",
    "STRATEGIES",
    "Selection",
    "SelectionCancelled",
    "SelectionError",
    "nearest_neighbours",
    "select",
]
