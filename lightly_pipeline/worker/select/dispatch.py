"""`select`: check the input, choose the engine, run the strategy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.memory import let_go
from lightly_pipeline.worker.select.balanced import balanced
from lightly_pipeline.worker.select.distance import LARGEST, squared_norms
from lightly_pipeline.worker.select.engine import ENGINES, k_center
from lightly_pipeline.worker.select.in_order import in_order
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

STRATEGIES = ("coreset", "balanced", "random", "weights")


def select(
    embeddings: NDArray[np.floating],
    *,
    budget: int,
    min_distance: float | None = None,
    pool: NDArray[np.floating] | None = None,
    strategy: str = "coreset",
    weights: NDArray[np.floating] | None = None,
    sharpness: NDArray[np.floating] | None = None,
    groups: NDArray[np.integer] | None = None,
    seconds: NDArray[np.floating] | None = None,
    seed: int = 0,
    engine: str = "auto",
    spare: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Selection:
    """Choose at most `budget` rows of `embeddings` (float32 [n, d], unit length) on top of `pool` (float32 [m, d]).

    `budget` counts new rows only, never the pool. No row is chosen that is identical to another chosen one or to a
    pool vector, and with `min_distance` (Euclidean; 0 to 2 for unit vectors) none nearer than that, whatever the
    strategy. `groups` (int [n]) numbers the video of each row and `seconds` (float [n]) its time; rows of one video
    come in display order. The result depends on the input alone: not on threads, machine or engine (mundig rounds
    differently).

    Strategies: "coreset" is Lightly's greedy k-center; with `weights` (float [n], not negative) the row with the
    largest distance times weight is next, and rows of weight 0 are left out. "balanced" spends 0.6 of the budget on
    representatives along each video, and of frames that show the same it takes the one with the largest `sharpness`
    (float [n]); the last `spare` of its picks are proposals, which the others neither rely on nor keep away from.
    "random" draws by `seed`. "weights" takes the heaviest rows. The pool and the distances hold for all.

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
    _check_column("sharpness", sharpness, len(points))
    if min_distance is not None and not np.isfinite(min_distance):
        raise SelectionError(f"min_distance is {min_distance}: give a number, 0 to 2 for unit vectors.")
    distance = max(0.0, float(min_distance or 0.0))
    wanted = int(budget)
    budget = min(wanted, len(points))
    watch = Watch(on_progress or quietly, cancelled or never)
    if weights is not None and len(weights) and not (np.isfinite(weights).all() and weights.min() >= 0):
        raise SelectionError("Weights must be finite and not negative.")
    notes: list[str] = []
    if budget <= 0:
        picks, distances, stopped_by = np.empty(0, np.int64), np.empty(0, np.float32), _BUDGET
    elif strategy in ("random", "weights"):
        order = _order(strategy, len(points), weights, seed)
        picks, distances, stopped_by = in_order(points, known, order, budget, distance, watch)
    elif strategy == "balanced":
        picks, distances, stopped_by = balanced(
            points,
            known,
            budget,
            distance,
            watch,
            k_center=k_center(engine, notes),
            groups=groups,
            sharpness=sharpness,
            spare=spare,
        )
    else:
        picks, distances, stopped_by = k_center(engine, notes, weights)(points, known, budget, distance, watch)
    if len(picks) == budget < wanted:
        stopped_by = "exhausted"
    return Selection(picks, distances, stopped_by, strategy, engine, tuple(notes))


_BUDGET: StoppedBy = "budget"


def _order(strategy: str, rows: int, weights: NDArray[np.floating] | None, seed: int) -> Indices:
    if strategy == "random":
        return np.random.default_rng(seed).permutation(rows)
    if weights is None:
        raise SelectionError("The strategy 'weights' needs weights: give one per embedding.")
    heaviest: Indices = np.argsort(-weights, kind="stable")
    return heaviest[weights[heaviest] > 0]


def _checked(name: str, vectors: NDArray[np.floating]) -> Floats:
    """Contiguous float32 rows (the given array itself where it already is that), all of them finite."""
    if vectors.ndim != 2:
        raise SelectionError(f"The {name} must be a table of rows and dimensions, but have the shape {vectors.shape}.")
    rows: Floats = np.ascontiguousarray(vectors, dtype=np.float32)
    for start in range(0, len(rows), 65536):
        # Beyond this products of two rows are no numbers any more.
        finite = squared_norms(rows[start : start + 65536]) < LARGEST
        let_go(rows)
        if not finite.all():
            raise SelectionError(
                f"Row {start + int(finite.argmin())} of the {name} holds a value that is not a finite number, or too "
                "large a one: its embedding failed. Leave that row out or embed it again."
            )
    return rows


def _check_column(name: str, column: NDArray[np.generic] | None, rows: int) -> None:
    if column is not None and column.shape != (rows,):
        raise SelectionError(f"There are {rows} embeddings but {name} has the shape {column.shape}: give one each.")
