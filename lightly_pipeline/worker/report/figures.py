"""The figures of the report that need no picture: distances, coverage, maps. Computed while frames are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.manifest import Distances
from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.report.charts import draw_histogram, draw_map
from lightly_pipeline.worker.report.coverage import Coverage, compare_coverage
from lightly_pipeline.worker.report.maps import NeighbourMap, pca_axes, project
from lightly_pipeline.worker.report.statistics import PairwiseDistances, measure_distances

#: Points on a map, at most, of frames, of selected ones among them, and of the pool.
_FRAMES, _SELECTED, _POOL = 1200, 600, 400
_NEIGHBOURS = (5, 15, 50)
_BINS = 60


@dataclass(frozen=True)
class Histogram:
    """Counts of pairs between edges; one more edge than counts."""

    counts: tuple[int, ...]
    edges: tuple[float, ...]


@dataclass(frozen=True)
class Map:
    """Places of frames (float32 [n, 2]) and of the pool ([m, 2])."""

    name: str
    places: NDArray[np.float32]
    pool: NDArray[np.float32]


@dataclass(frozen=True)
class Figures:
    """All of them. rows: int64 [n], the frames on the maps; selected: bool [n]; colours: number of the video."""

    distances: Distances
    before: Histogram
    after: Histogram
    coverage: tuple[Coverage, ...]
    rows: NDArray[np.int64]
    selected: NDArray[np.bool_]
    colours: tuple[int, ...]
    maps: tuple[Map, ...]


def make_figures(tree: Path, outcome: Outcome, memory_in_gb: float) -> Figures:
    """Compute all figures, and draw their plots into the tree."""
    before, after, distances = measure_distances(outcome, memory_in_gb)
    highest = max((float(side.pairs.max()) for side in (before, after) if len(side.pairs)), default=1.0)
    histograms = [_histogram(side, highest) for side in (before, after)]
    for name, title, histogram in zip(
        ("distance_distr_before", "distance_distr_after"),
        ("Distances between all frames", "Distances between selected frames"),
        histograms,
        strict=True,
    ):
        draw_histogram(tree, name, title, histogram.counts, histogram.edges)
    rows = _on_maps(outcome)
    selected = outcome.is_selected[rows]
    colours = tuple(int(number) for number in outcome.table.video[rows])
    maps = _maps(outcome, rows)
    for drawn in maps:
        title = "PCA of the embeddings" if drawn.name == "pca" else f"Neighbour map, {drawn.name.replace('_', ' ')}"
        draw_map(tree, f"scatter_{drawn.name}", title, drawn.places, colours, selected, drawn.pool)
        draw_map(tree, f"scatter_{drawn.name}_no_overlay", title, drawn.places, colours, None, drawn.pool[:0])
    return Figures(
        distances=distances,
        before=histograms[0],
        after=histograms[1],
        coverage=tuple(compare_coverage(outcome)),
        rows=rows,
        selected=selected,
        colours=colours,
        maps=maps,
    )


def _histogram(side: PairwiseDistances, highest: float) -> Histogram:
    counts, edges = np.histogram(side.pairs, bins=_BINS, range=(0.0, highest))
    return Histogram(tuple(map(int, counts)), tuple(round(float(edge), 4) for edge in edges))


def _on_maps(outcome: Outcome) -> NDArray[np.int64]:
    """Selected frames and others, evenly spread, so many that a map stays readable."""
    selected = _spread(outcome.selected, _SELECTED)
    others = _spread(np.flatnonzero(outcome.comparable & ~outcome.is_selected), _FRAMES - len(selected))
    return np.sort(np.concatenate([selected, others]))


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    if len(rows) <= count:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)], dtype=np.int64)


def _maps(outcome: Outcome, rows: NDArray[np.int64]) -> tuple[Map, ...]:
    pool_rows = _spread(np.arange(len(outcome.pool), dtype=np.int64), _POOL)
    pool = np.ascontiguousarray(outcome.pool[pool_rows])
    vectors = np.ascontiguousarray(outcome.table.embeddings[rows])
    everything = np.concatenate([vectors, pool]) if len(pool) else vectors
    if len(everything) < 2:
        nowhere = np.zeros((len(vectors), 2), np.float32)
        names: Sequence[str] = ("pca", *(f"umap_k_{k}" for k in _NEIGHBOURS))
        return tuple(Map(name, nowhere, np.zeros((len(pool), 2), np.float32)) for name in names)
    mean, axes = pca_axes(everything)
    maps = [Map("pca", project(vectors, mean, axes), project(pool, mean, axes))]
    for neighbours in _NEIGHBOURS:
        neighbour_map = NeighbourMap(everything, neighbours)
        maps.append(Map(f"umap_k_{neighbours}", neighbour_map.place(vectors), neighbour_map.place(pool)))
    return tuple(maps)
