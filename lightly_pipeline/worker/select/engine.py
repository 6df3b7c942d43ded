"""Which engine does a greedy k-center. All give the same picks; they differ in what they are fast at.

- numpy: brute force through BLAS; nothing to compile, best up to some 20,000 rows.
- numba: exact pruning in compiled code, for more.
- mundig: Lightly's own, as the reference.
- auto: numpy while that takes less than about a second, else numba.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.select.brute_force import brute_force
from lightly_pipeline.worker.select.mundig import mundig
from lightly_pipeline.worker.select.selection import Floats, Indices, SelectionError, StoppedBy, Watch

ENGINES = ("auto", "numba", "numpy", "mundig")
KCenter = Callable[[Floats, "Floats | None", int, float, Watch], tuple[Indices, Floats, StoppedBy]]

# Row visits (rows x picks) that BLAS does in about a second.
_SMALL = 60_000_000


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
    if engine == "numba":
        from lightly_pipeline.worker.select.pruned import pruned

        return pruned
    return _automatic


def _automatic(
    points: Floats, pool: Floats | None, budget: int, min_distance: float, watch: Watch
) -> tuple[Indices, Floats, StoppedBy]:
    if len(points) * (budget + (0 if pool is None else len(pool) / 8)) <= _SMALL:
        return brute_force(points, pool, budget, min_distance, watch)
    # Importing the compiler takes longer than most selections.
    from lightly_pipeline.worker.select.pruned import pruned

    return pruned(points, pool, budget, min_distance, watch)
