"""From the table of frames to the outcome: what is left out, what is selected, on top of which pool."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.budget import Plan, make_plan
from lightly_pipeline.worker.datapool import Datapool, DatapoolError
from lightly_pipeline.worker.duplicates import first_of_equal
from lightly_pipeline.worker.errors import DatapoolUnusable, OptionError
from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.scan import snap_to_kept
from lightly_pipeline.worker.scanning import exact_frames
from lightly_pipeline.worker.select import Selection, SelectionCancelled, SelectionError, select

log = logging.getLogger(__name__)


def choose(table: FrameTable, options: Options, pool: NDArray[np.float32], progress: Progress) -> Outcome:
    """Leave out corrupt frames and copies, then select from the rest on top of the pool's vectors (float32 [m, d])."""
    usable = table.frames["ok"].copy()
    original = np.arange(len(table), dtype=np.int64)
    if options.remove_exact_duplicates:
        original = first_of_equal(table.frames["pixel_hash"], usable)
        log.info("Found %d exact duplicates.", int((original != np.arange(len(table))).sum()))
    plan = make_plan(options, table)
    rows = np.flatnonzero(usable & plan.allowed & (original == np.arange(len(table))))
    log.info(
        "Sampling dataset with stopping condition: n_samples=%d%s",
        plan.budget,
        "" if plan.min_distance is None else f", min_distance={plan.min_distance}",
    )
    selection = _select(table, rows, plan, pool, options, progress)
    picks = rows[selection.indices]
    if len(picks) and not exact_frames(options) and plan.min_distance is None:
        picks = _snap(table, rows, picks)
    log.info("Sampled %d images.", len(picks))
    for note in selection.notes:
        log.info("%s", note)
    return Outcome(
        table=table,
        usable=usable,
        original=original,
        allowed=plan.allowed,
        picks=picks,
        distances=selection.distances,
        stopped_by=selection.stopped_by,
        strategy=selection.strategy,
        engine=selection.engine,
        budget=plan.budget,
        min_distance=plan.min_distance,
        pool=pool,
        notes=selection.notes,
    )


def load_pool(datapool: Datapool | None, part: str, table: FrameTable, folder: Path) -> NDArray[np.float32]:
    """What other inputs contributed to the pool: float32 [m, d], empty without a pool."""
    if datapool is None:
        return np.empty((0, table.embedder.dimensions), dtype=np.float32)
    try:
        vectors = datapool.load(table.embedder, without=part, scratch=folder).embeddings
    except DatapoolError as error:
        raise DatapoolUnusable(str(error)) from error
    log.info("The datapool '%s' holds %d frames of other inputs.", datapool.name, len(vectors))
    return vectors


def _select(
    table: FrameTable,
    rows: NDArray[np.int64],
    plan: Plan,
    pool: NDArray[np.float32],
    options: Options,
    progress: Progress,
) -> Selection:
    everything = len(rows) == len(table)
    embeddings = table.embeddings if everything else table.embeddings[rows]
    with progress.stage("select", min(plan.budget, len(rows))) as stage:
        try:
            return select(
                embeddings,
                budget=plan.budget,
                min_distance=plan.min_distance,
                pool=pool if len(pool) else None,
                strategy=plan.strategy,
                weights=None if plan.weights is None else plan.weights[rows],
                groups=table.video[rows],
                seconds=table.frames["seconds"][rows],
                seed=plan.seed,
                engine=options.engine,
                on_progress=stage.at,
                cancelled=progress.interrupted,
            )
        except SelectionCancelled:
            progress.check()
            raise
        except SelectionError as error:
            raise OptionError(str(error)) from error


def _snap(table: FrameTable, rows: NDArray[np.int64], picks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Move picks to the nearest frames whose pictures were kept while decoding: no second decode for them."""
    kept = np.zeros(len(table), dtype=np.bool_)
    for scanned, start in zip(table.scanned, table.starts[:-1], strict=True):
        kept[start + scanned.scan.kept] = True
    may = np.zeros(len(table), dtype=np.bool_)
    may[rows] = True
    kept &= may
    if not kept.any():
        return picks
    return snap_to_kept(table.embeddings, kept, picks)
