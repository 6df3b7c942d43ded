"""From the table of frames to the outcome: what is left out, what is selected, on top of which pool."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.budget import Plan, make_plan
from lightly_pipeline.worker.duplicates import first_of_equal
from lightly_pipeline.worker.errors import OptionError
from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.given_embeddings import GivenEmbeddings
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.scan import snap_in_stages, snap_to_kept
from lightly_pipeline.worker.scanning import exact_frames
from lightly_pipeline.worker.select import (
    LONG,
    REPRESENTATIVES,
    Selection,
    SelectionCancelled,
    SelectionError,
    balanced_in_stretches,
    distances_when_picked,
    nearest_neighbours,
    select,
)
from lightly_pipeline.worker.sequences import Sequences, cut_sequences

log = logging.getLogger(__name__)

#: Vectors of a pool from which it pays to find out which of them matter.
_LARGE_POOL = 1000
#: Picks up to which their distances are measured again after they were moved; rows that are measured at a time.
_REMEASURED = 8192


def choose(
    table: FrameTable,
    options: Options,
    pool: NDArray[np.float32],
    progress: Progress,
    given: GivenEmbeddings | None = None,
) -> Outcome:
    """Leave out corrupt frames and copies, then select from the rest on top of the pool's vectors (float32 [m, d])."""
    usable = table.frames["ok"].copy()
    original = np.arange(len(table), dtype=np.int64)
    if options.remove_exact_duplicates and options.selected_sequence_length == 1:
        original = first_of_equal(table.frames["pixel_hash"], usable)
        if given is not None:
            for preferred in (given.embedded & ~given.masked, given.selected):
                original = _first_of(original, usable & preferred)
        log.info("Found %d exact duplicates.", int((original != np.arange(len(table))).sum()))
    plan = make_plan(options, table)
    log.info(
        "Sampling dataset with stopping condition: n_samples=%d%s",
        plan.budget,
        "" if plan.min_distance is None else f", min_distance={plan.min_distance}",
    )
    everything = np.ones(len(table), dtype=np.bool_)
    start = Outcome(
        table=table,
        usable=usable,
        masked=~everything if given is None else given.masked,
        embedded=everything if given is None else given.embedded,
        original=original,
        allowed=plan.allowed,
        picks=np.empty(0, dtype=np.int64),
        distances=np.empty(0, dtype=np.float32),
        stopped_by="budget",
        strategy=plan.strategy,
        engine=options.engine,
        budget=plan.budget,
        min_distance=plan.min_distance,
        pool=pool,
    )
    preselected = np.flatnonzero(start.candidates & (given.selected if given is not None else ~everything))
    if len(preselected):
        start = replace(
            start,
            picks=preselected,
            distances=np.full(len(preselected), np.inf, dtype=np.float32),
            budget=max(plan.budget, len(preselected)),
        )
    if options.selected_sequence_length > 1:
        if len(preselected):
            raise OptionError(
                f"embeddings={options.embeddings} marks {len(preselected)} frames as selected, which does not go "
                f"with sequences: leave out its column 'selected', or selected_sequence_length."
            )
        outcome = _choose_sequences(start, plan, options, progress)
    else:
        outcome = _choose_frames(start, plan, options, progress)
    log.info("Sampled %d images.", len(outcome.picks))
    for note in outcome.notes:
        log.info("%s", note)
    return outcome


def _first_of(original: NDArray[np.int64], preferred: NDArray[np.bool_]) -> NDArray[np.int64]:
    """With the first preferred one as the original of its copies, where one of them is."""
    rows = np.flatnonzero(preferred)
    originals, places = np.unique(original[rows], return_index=True)
    instead = np.arange(len(original))
    instead[originals] = rows[places]
    return instead[original]


def _choose_frames(start: Outcome, plan: Plan, options: Options, progress: Progress) -> Outcome:
    """Single frames; those that the user selected already are there first and count."""
    table = start.table
    candidates = start.candidates & ~start.is_selected
    rows = np.flatnonzero(candidates)
    pool = start.pool
    if plan.strategy == "balanced" and len(pool) > _LARGE_POOL:
        pool = _that_matters(table.embeddings, rows, pool, progress)
    if len(start.picks):
        pool = np.concatenate([pool, table.embeddings[start.picks]])
    selection = _select(
        table.embeddings,
        rows,
        replace(plan, budget=max(0, plan.budget - len(start.picks))),
        pool,
        options,
        progress,
        weights=None if plan.weights is None else plan.weights[rows],
        sharpness=table.frames["sharpness"][rows],
        groups=table.runs[rows],
        seconds=table.frames["seconds"][rows],
    )
    picks, distances = rows[selection.indices], selection.distances
    if len(picks) and not exact_frames(options) and plan.min_distance is None:
        moved = _snap(table, candidates, rows, picks, plan, pool, progress)
        if not np.array_equal(moved, picks):
            distances = np.full(len(moved), np.nan, np.float32)
            if len(moved) <= _REMEASURED:
                distances = distances_when_picked(table.embeddings[moved], pool)
        picks = moved
    outcome = _with(
        start, selection, np.concatenate([start.picks, picks]), np.concatenate([start.distances, distances])
    )
    if options.remove_exact_duplicates or plan.weights is not None or plan.min_distance is not None:
        return outcome
    return _with_copies(outcome, candidates)


def _with_copies(outcome: Outcome, candidates: NDArray[np.bool_]) -> Outcome:
    """Where the budget is larger than the number of different frames: copies of them, too, as in Lightly's worker.

    None of what the pool holds: that is known.
    """
    if outcome.stopped_by != "exhausted":
        return outcome
    copies = np.flatnonzero(candidates & ~outcome.is_selected)
    copies = copies[~_in_pool(outcome.table.embeddings, copies, outcome.pool)][: outcome.budget - len(outcome.picks)]
    if not len(copies):
        return outcome
    picks = np.concatenate([outcome.picks, copies])
    return replace(
        outcome,
        picks=picks,
        distances=np.concatenate([outcome.distances, np.zeros(len(copies), np.float32)]),
        stopped_by="budget" if len(picks) == outcome.budget else "exhausted",
    )


def _choose_sequences(start: Outcome, plan: Plan, options: Options, progress: Progress) -> Outcome:
    """Whole sequences; a fraction of the frames is rounded up to the next sequence, as in Lightly's worker.

    The pool holds frames: a sequence of nothing but these is left out.
    """
    table, length = start.table, options.selected_sequence_length
    sequences = cut_sequences(table, start.candidates, length, normalize=options.normalize_embeddings)
    known = _in_pool(table.embeddings, sequences.rows.reshape(-1), start.pool).reshape(sequences.rows.shape)
    sequences = Sequences(sequences.rows[~known.all(axis=1)], sequences.embeddings[~known.all(axis=1)])
    budget = -(-plan.budget // length)
    selection = _select(
        sequences.embeddings,
        np.arange(len(sequences.embeddings)),
        replace(plan, budget=budget),
        start.pool,
        options,
        progress,
        weights=None if plan.weights is None else plan.weights[sequences.rows].mean(axis=1),
        sharpness=table.frames["sharpness"][sequences.rows].mean(axis=1, dtype=np.float32),
        groups=table.runs[sequences.rows[:, 0]],
        seconds=table.frames["seconds"][sequences.rows[:, 0]],
    )
    chosen = sequences.rows[selection.indices]
    log.info("Selected %d of %d sequences of %d frames.", len(chosen), len(sequences.rows), length)
    outcome = _with(start, selection, chosen.reshape(-1), np.repeat(selection.distances, length))
    return replace(outcome, budget=budget * length, sequences=chosen)


def _with(start: Outcome, selection: Selection, picks: NDArray[np.int64], distances: NDArray[np.float32]) -> Outcome:
    return replace(
        start,
        picks=picks,
        distances=distances,
        stopped_by=selection.stopped_by,
        strategy=selection.strategy,
        engine=selection.engine,
        notes=selection.notes,
    )


def _select(
    embeddings: NDArray[np.float32],
    rows: NDArray[np.int64],
    plan: Plan,
    pool: NDArray[np.float32],
    options: Options,
    progress: Progress,
    *,
    weights: NDArray[np.float32] | None,
    sharpness: NDArray[np.float32],
    groups: NDArray[np.int32],
    seconds: NDArray[np.float64],
) -> Selection:
    """Among the `rows` of the embeddings, one value for each of which the columns hold; the answer counts in them."""
    with progress.stage("select", min(plan.budget, len(rows))) as stage:
        try:
            if plan.strategy == "balanced" and len(rows) > LONG:
                return balanced_in_stretches(
                    embeddings,
                    rows,
                    budget=plan.budget,
                    min_distance=plan.min_distance,
                    pool=pool if len(pool) else None,
                    sharpness=sharpness,
                    groups=groups,
                    engine=options.engine,
                    on_progress=stage.at,
                    cancelled=progress.interrupted,
                )
            selection = select(
                embeddings if len(rows) == len(embeddings) else embeddings[rows],
                budget=plan.budget,
                min_distance=plan.min_distance,
                pool=pool if len(pool) else None,
                strategy=plan.strategy,
                weights=weights,
                sharpness=sharpness,
                groups=groups,
                seconds=seconds,
                seed=plan.seed,
                engine=options.engine,
                on_progress=stage.at,
                cancelled=progress.interrupted,
            )
            stage.at(len(selection), len(selection))
            return selection
        except SelectionCancelled:
            progress.check()
            raise
        except SelectionError as error:
            raise OptionError(str(error)) from error


def _snap(
    table: FrameTable,
    candidates: NDArray[np.bool_],
    rows: NDArray[np.int64],
    picks: NDArray[np.int64],
    plan: Plan,
    pool: NDArray[np.float32],
    progress: Progress,
) -> NDArray[np.int64]:
    """Move picks to the nearest frames whose pictures were kept while decoding: no second decode for them."""
    kept = np.zeros(len(table), dtype=np.bool_)
    for scanned, start in zip(table.scanned, table.starts[:-1], strict=True):
        kept[start + scanned.scan.kept] = True
    kept &= candidates
    kept &= ~_known(table.embeddings, kept, picks, pool)
    if not kept.any():
        return picks
    if plan.weights is not None or plan.strategy not in ("coreset", "balanced") or len(rows) > LONG:
        return snap_to_kept(table.embeddings, kept, picks)

    def choose_more(taken: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Greedy k-center on top of the taken frames (whose copies are at distance 0, and thus never chosen)."""
        known = np.concatenate([pool, table.embeddings[taken]])
        try:
            more = select(table.embeddings[rows], budget=count, pool=known, cancelled=progress.interrupted)
        except SelectionCancelled:
            progress.check()
            raise
        return rows[more.indices]

    return snap_in_stages(table.embeddings, kept, picks, choose_more, settled=REPRESENTATIVES)


def _known(
    embeddings: NDArray[np.float32], kept: NDArray[np.bool_], picks: NDArray[np.int64], pool: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which kept frames are nearer to the pool than any pick is: not to be selected in the place of one."""
    known = np.zeros(len(kept), dtype=np.bool_)
    if len(pool) and len(picks):
        least = min(distances.min() for _, _, distances in _to_pool(embeddings, picks, pool))
        for rows, _, distances in _to_pool(embeddings, np.flatnonzero(kept), pool):
            known[rows] = distances < least
    return known


def _in_pool(embeddings: NDArray[np.float32], rows: NDArray[np.int64], pool: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of some rows the pool holds, to the bit: bool [k].

    By their digests: that costs k + m, where distances cost k * m.
    """
    return np.isin(_digests(embeddings, rows), _digests(pool, np.arange(len(pool)))) if len(pool) else rows < 0


def _digests(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each of some rows, uint64 [k]: the same for the same vector, and for no other."""
    digests = np.empty(len(rows), dtype=np.uint64)
    for place in range(0, len(rows), _REMEASURED):
        block = vectors[rows[place : place + _REMEASURED]] + np.float32(0)  # of zeros there are two
        content = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in block)
        digests[place : place + len(block)] = np.frombuffer(content, dtype=np.uint64)
    return digests


def _that_matters(
    embeddings: NDArray[np.float32], rows: NDArray[np.int64], pool: NDArray[np.float32], progress: Progress
) -> NDArray[np.float32]:
    """The pool's vectors of which each is the nearest to one of the rows.

    A selection asks again and again how far rows are from the pool: these give the same answers, to the bit, and are
    no more than there are rows.
    """
    matters = np.zeros(len(pool), dtype=np.bool_)
    for _, nearest, _ in _to_pool(embeddings, rows, pool):
        matters[nearest] = True
        progress.check()
    return pool[np.flatnonzero(matters)]


def _to_pool(
    embeddings: NDArray[np.float32], rows: NDArray[np.int64], pool: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Some rows at a time, with their nearest vectors of the pool and the distances to these."""
    for start in range(0, len(rows), _REMEASURED):
        block = rows[start : start + _REMEASURED]
        yield block, *nearest_neighbours(embeddings[block], pool)
