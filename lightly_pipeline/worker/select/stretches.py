"""The balanced strategy for long inputs: stretch by stretch, in memory that hardly grows with their length.

A spread of all frames is selected from first and tells how many picks each stretch deserves. Every stretch then makes
some more than these on its own, and those are left out that show what another stretch has shown already; the best of
the further ones take their places. Where content comes back again and again that leaves picks over: they go, one
stretch after the other, to what is farthest from all that is there by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.memory import give_back
from lightly_pipeline.worker.select.balanced import APART
from lightly_pipeline.worker.select.dispatch import select
from lightly_pipeline.worker.select.in_order import in_order
from lightly_pipeline.worker.select.selection import Floats, Indices, Selection, StoppedBy, Watch, never, quietly

#: Rows from which on `balanced_in_stretches` is the way (100,000 x 128 float32 are 51 MB).
LONG = 100_000
_STRETCH = 50_000
_BLOCK = 8192
# Picks beyond its share that a stretch makes.
_SPARE = 1 / 8


def balanced_in_stretches(
    embeddings: NDArray[np.float32],
    rows: Indices,
    *,
    budget: int,
    min_distance: float | None = None,
    pool: NDArray[np.float32] | None = None,
    sharpness: NDArray[np.floating],
    groups: NDArray[np.integer],
    engine: str = "auto",
    on_progress: Callable[[int, int], None] = quietly,
    cancelled: Callable[[], bool] = never,
) -> Selection:
    """Choose at most `budget` of the `rows` (int64 [n], ascending) of `embeddings`, which may be mapped.

    As `select` otherwise. `sharpness` and `groups` have one value for each of `rows`, and so do the indices of the
    answer count in `rows`. A distance is the one to the nearest earlier pick or pool vector, or that within the stretch
    where it is smaller.
    """
    wanted = budget
    budget = min(wanted, len(rows))
    if budget <= 0:
        return Selection(np.empty(0, np.int64), np.empty(0, np.float32), "budget", "balanced", engine)
    job = _Stretches(
        embeddings, rows, sharpness, groups, max(0.0, min_distance or 0.0), engine, Watch(on_progress, cancelled)
    )
    picks, distances = job.balanced(pool, budget)
    if len(picks) < budget:
        picks, distances = job.farthest(pool, picks, distances, budget)
    stopped_by: StoppedBy = "budget"
    if len(picks) < budget:
        stopped_by = "min_distance" if min_distance else "exhausted"
    elif budget < wanted:
        stopped_by = "exhausted"
    note = f"The selection was made in {len(job.bounds) - 1} stretches of some {_STRETCH:,} frames."
    return Selection(picks, distances, stopped_by, "balanced", engine, (note,))


class _Known:
    """The vectors of the pool and of the picks so far, in one piece from the start."""

    def __init__(self, pool: Floats | None, budget: int, dimensions: int) -> None:
        self._count = 0 if pool is None else len(pool)
        self._all = np.empty((self._count + budget, dimensions), np.float32)
        if pool is not None:
            self._all[: self._count] = pool

    @property
    def vectors(self) -> Floats:
        """float32 [m, d]."""
        return self._all[: self._count]

    def add(self, vectors_of: Callable[[Indices], Floats], picks: Indices) -> None:
        """Take the vectors of further picks."""
        for start in range(0, len(picks), _BLOCK):
            some = picks[start : start + _BLOCK]
            self._all[self._count : self._count + len(some)] = vectors_of(some)
            self._count += len(some)


@dataclass
class _Stretches:
    embeddings: NDArray[np.float32]
    rows: Indices
    sharpness: NDArray[np.floating]
    groups: NDArray[np.integer]
    min_distance: float
    engine: str
    watch: Watch
    bounds: Indices = field(init=False)

    def __post_init__(self) -> None:
        self.bounds = np.linspace(0, len(self.rows), -(-len(self.rows) // _STRETCH) + 1).astype(np.int64)

    def balanced(self, pool: Floats | None, budget: int) -> tuple[Indices, Floats]:
        """At most `budget` picks, balanced within each stretch, and none nearly the same as one of another."""
        first, further, gaps = [], [], []
        for part, share in self._shared(pool, budget, "balanced", budget):
            chosen = self._select(part, share, pool, "balanced", spare=int(share * _SPARE) + 1)
            first.append((part[chosen.indices[:share]], chosen.distances[:share]))
            further.append((part[chosen.indices[share:]], chosen.distances[share:]))
            if len(chosen) and np.isfinite(chosen.distances[-1]):
                gaps.append(chosen.distances[-1])
        picks, distances = (np.concatenate(column) for column in zip(*first, strict=True))
        more, their_distances = (np.concatenate(column) for column in zip(*further, strict=True))
        order = np.argsort(-their_distances, kind="stable")
        picks, distances = np.concatenate([picks, more[order]]), np.concatenate([distances, their_distances[order]])
        apart = max(self.min_distance, APART * float(np.median(gaps)) if gaps else 0.0)
        # By their rows, so that the vectors of all picks are in memory once.
        watch = Watch(cancelled=self.watch.cancelled)
        taken, nearest, _ = in_order(self.embeddings, None, self.rows[picks], budget, apart, watch)
        kept = np.searchsorted(self.rows, taken)
        within = np.empty(len(self.rows), np.float32)
        within[picks] = distances
        return kept, np.minimum(nearest, within[kept])

    def farthest(self, pool: Floats | None, picks: Indices, distances: Floats, budget: int) -> tuple[Indices, Floats]:
        """With further picks up to `budget`, each stretch on top of all before it."""
        known = _Known(pool, budget, self.embeddings.shape[1])
        known.add(self._vectors, picks)
        for part, share in self._shared(known.vectors, budget - len(picks), "coreset", budget):
            picks, distances = self._add(part, share, picks, distances, known)
        for part in self._parts():
            # A share may be more than its stretch has left, and another's too little.
            if len(picks) < budget:
                picks, distances = self._add(part, budget - len(picks), picks, distances, known)
        return picks, distances

    def _add(
        self, part: Indices, count: int, picks: Indices, distances: Floats, known: _Known
    ) -> tuple[Indices, Floats]:
        chosen = self._select(part, count, known.vectors, "coreset")
        new = part[chosen.indices]
        known.add(self._vectors, new)
        return np.concatenate([picks, new]), np.concatenate([distances, chosen.distances])

    def _parts(self) -> Iterator[Indices]:
        """The stretches, as places in `rows`."""
        for begin, end in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            yield np.arange(begin, end)

    def _shared(self, pool: Floats | None, picks: int, strategy: str, total: int) -> Iterator[tuple[Indices, int]]:
        """Each stretch (places in `rows`) with its share of `picks`, by where those among a spread of all rows lie."""
        spread = np.arange(0, len(self.rows), -(-len(self.rows) // _STRETCH))
        scout = self._select(spread, max(1, round(picks * len(spread) / len(self.rows))), pool, strategy)
        weight = np.histogram(spread[scout.indices], self.bounds)[0].astype(np.float64)
        lengths = np.diff(self.bounds)
        exact = picks * (weight / weight.sum() if weight.sum() else lengths / lengths.sum())
        shares = np.minimum(np.floor(exact).astype(np.int64), lengths)
        # What rounding and stretches that are too short have left over goes to where there is room.
        room = lengths - shares
        shares += (picks - int(shares.sum())) * room // max(1, int(room.sum()))
        shares[np.flatnonzero(shares < lengths)[: picks - int(shares.sum())]] += 1
        done = total - picks
        for part, share in zip(self._parts(), shares.tolist(), strict=True):
            if share:
                yield part, share
            done += share
            give_back()
            self.watch.beat(done, total)

    def _select(self, places: Indices, budget: int, pool: Floats | None, strategy: str, *, spare: int = 0) -> Selection:
        return select(
            self._vectors(places),
            budget=budget + spare,
            spare=spare,
            min_distance=self.min_distance,
            pool=pool,
            strategy=strategy,
            sharpness=self.sharpness[places],
            groups=self.groups[places],
            engine=self.engine,
            cancelled=self.watch.cancelled,
        )

    def _vectors(self, places: Indices) -> Floats:
        vectors: Floats = self.embeddings[self.rows[places]]
        return vectors
