"""`select`: check the input, choose the engine, run the strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.select.brute_force import brute_force
from lightly_pipeline.worker.select.in_order import in_order
from lightly_pipeline.worker.select.mundig import mundig
from lightly_pipeline.worker.select.selection import (
    Floats,
    Indices,
    Selection,
    SelectionError,
    StoppedBy,
    Watch,
    never,
    quietly,
)

STRATEGIES = ("coreset", "random")
ENGINES = ("auto", "numpy", "mundig")


class Engine(Protocol):
    """Greedy k-center of `points` on top of `pool`."""

    def __call__(  # noqa: D102
        self, points: Floats, pool: Floats | None, budget: int, min_distance: float, watch: Watch
    ) -> tuple[Indices, Floats, StoppedBy]: ...


_ENGINES: dict[str, Engine] = {"auto": brute_force, "numpy": brute_force, "mundig": mundig}


def select(
    embeddings: NDArray[np.floating],
    *,
    budget: int,
    min_distance: float | None = None,
    pool: NDArray[np.floating] | None = None,
    strategy: str = "coreset",
    weights: NDArray[np.floating] | None = None,
    groups: NDArray[np.integer] | None = None,
    seconds: NDArray[np.floating] | None = None,
    seed: int = 0,
    engine: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Selection:
    """Choose at most `budget` rows of `embeddings` (float32 [n, d], unit length) on top of `pool` (float32 [m, d]).

    `budget` counts new rows only, never the pool. No row is chosen that is identical to another chosen one or to a
    pool vector, and with `min_distance` (Euclidean; 0 to 2 for unit vectors) none nearer than that, whatever the
    strategy. `groups` (int [n]) numbers the video of each row and `seconds` (float [n]) its time; rows of one video
    come in display order. `weights` (float [n], not negative), such as sharpness, decide between equal rows.
    The result depends on the input alone: not on threads, machine or engine (mundig rounds differently).

    `on_progress(picked, budget)` is called now and then; `cancelled()` returning true raises SelectionCancelled
    within a fraction of a second, and so does Ctrl-C with KeyboardInterrupt.

    Raises SelectionError with a sentence when the input cannot be used.
    """
    points = _checked("embeddings", embeddings)
    known = None if pool is None else _checked("pool", pool)
    if known is not None and len(known) and len(points) and known.shape[1] != points.shape[1]:
        raise SelectionError(
            f"The embeddings have {points.shape[1]} dimensions but the pool's have {known.shape[1]}: they were made "
            "by different embedders. Select with the pool's embedder, or on another pool."
        )
    if strategy not in STRATEGIES:
        raise SelectionError(f"There is no strategy '{strategy}': choose one of {', '.join(STRATEGIES)}.")
    if engine not in ENGINES:
        raise SelectionError(f"There is no engine '{engine}': choose one of {', '.join(ENGINES)}.")
    _check_column("weights", weights, len(points))
    _check_column("groups", groups, len(points))
    _check_column("seconds", seconds, len(points))
    if min_distance is not None and not np.isfinite(min_distance):
        raise SelectionError(f"min_distance is {min_distance}: give a number, 0 to 2 for unit vectors.")
    distance = max(0.0, float(min_distance or 0.0))
    budget = min(int(budget), len(points))
    watch = Watch(on_progress or quietly, cancelled or never)
    if budget <= 0:
        return Selection(np.empty(0, np.int64), np.empty(0, np.float32), "budget", strategy=strategy, engine=engine)
    if strategy == "random":
        order = np.random.default_rng(seed).permutation(len(points))
        picks, distances, stopped_by = in_order(points, known, order, budget, distance, watch)
        return Selection(picks, distances, stopped_by, strategy=strategy, engine="numpy")
    picks, distances, stopped_by = _ENGINES[engine](points, known, budget, distance, watch)
    return Selection(picks, distances, stopped_by, strategy=strategy, engine=engine)


def _checked(name: str, vectors: NDArray[np.floating]) -> Floats:
    """Contiguous float32 rows (the given array itself where it already is that), all of them finite."""
    if vectors.ndim != 2:
        raise SelectionError(f"The {name} must be a table of rows and dimensions, but have the shape {vectors.shape}.")
    rows: Floats = np.ascontiguousarray(vectors, dtype=np.float32)
    for start in range(0, len(rows), 65536):
        finite = np.isfinite(rows[start : start + 65536]).all(axis=1)
        if not finite.all():
            raise SelectionError(
                f"Row {start + int(finite.argmin())} of the {name} holds a value that is not a finite number: "
                "its embedding failed. Leave that row out or embed it again."
            )
    return rows


def _check_column(name: str, column: NDArray[np.generic] | None, rows: int) -> None:
    if column is not None and column.shape != (rows,):
        raise SelectionError(f"There are {rows} embeddings but {name} has the shape {column.shape}: give one each.")
