"""Which engine does a greedy k-center. All give the same picks; they differ in what they are fast at.

- numba: exact pruning in compiled code.
- numpy: brute force through BLAS; it alone weighs rows.
- mundig: Lightly's own, as the reference.
- auto: numba, and numpy for weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.select.brute_force import brute_force
from lightly_pipeline.worker.select.mundig import mundig
from lightly_pipeline.worker.select.pruned import pruned
from lightly_pipeline.worker.select.selection import Floats, Indices, SelectionError, StoppedBy, Watch

ENGINES = ("auto", "numba", "numpy", "mundig")
KCenter = Callable[[Floats, "Floats | None", int, float, Watch], tuple[Indices, Floats, StoppedBy]]


def k_center(engine: str, notes: list[str], weights: NDArray[np.floating] | None = None) -> KCenter:
    """The greedy k-center of that name; it adds to `notes` what a reader of the result has to know."""
    if weights is not None:
        if engine in ("mundig", "numba"):
            raise SelectionError(f"The engine '{engine}' does not weigh rows: choose engine 'auto'.")
        factor = weights
        return lambda points, pool, budget, distance, watch: brute_force(points, pool, budget, distance, watch, factor)
    if engine == "numpy":
        return brute_force
    if engine == "mundig":
        return mundig
    return pruned
