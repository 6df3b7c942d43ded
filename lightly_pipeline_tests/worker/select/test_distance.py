"""Distances: the same to the last bit however they are found, and few of them computed."""

import numpy as np
import pytest

from lightly_pipeline.worker.select import brute_force, distance, nearest_neighbours, select
from lightly_pipeline.worker.select.distance import squared_distances
from lightly_pipeline_tests.worker.select.vectors import unit, unit_vectors, walk


def static(n, *, seed, views=1, dimensions=64, noise=0.001):
    """Frames of cameras that do not move, one after the other: the same views with every seed, other noise."""
    shown = unit(np.random.default_rng(99).normal(size=(views, dimensions)))
    return unit(shown[np.arange(n) * views // n] + np.random.default_rng(seed).normal(size=(n, dimensions)) * noise)


KINDS = {
    "static": (static(700, seed=1), static(900, seed=2)),
    "three views": (static(700, seed=1, views=3), static(900, seed=2, views=3)),
    "walk": (walk(700, 32, seed=1), walk(900, 32, seed=2)),
    "directions": (unit_vectors(700, 16, seed=1), unit_vectors(900, 16, seed=2)),
    "copies": (np.repeat(static(70, seed=1), 10, 0), np.repeat(static(70, seed=1), 13, 0)),
    "integers": tuple(np.random.default_rng(s).integers(0, 3, (700, 5)).astype(np.float32) for s in (1, 2)),
    "large": (walk(700, 32, seed=1) * 3000, walk(900, 32, seed=2) * 3000),
    "far away": (static(700, seed=1) + 500, static(900, seed=2) + 500),
    "tiny": (walk(700, 32, seed=1) * 1e-15, walk(900, 32, seed=2) * 1e-15),
    "one": (static(1, seed=1), static(1, seed=2)),
    "equal": (np.ones((600, 8), np.float32), np.ones((700, 8), np.float32)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_is_that_of_all_pairs_to_the_bit_and_ties_go_to_the_lowest(kind):
    queries, references = (rows.astype(np.float32) for rows in KINDS[kind])
    index, found = nearest_neighbours(queries, references)
    for row, query in enumerate(queries):
        every = squared_distances(references, query)
        assert index[row] == every.argmin()
        assert found[row] == np.sqrt(every.min())


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_earlier_row_is_found_too(kind):
    rows = KINDS[kind][0].astype(np.float32)
    index, found = nearest_neighbours(rows, rows, without="later")
    assert (index[0], found[0]) == (-1, np.inf)
    for row in range(1, len(rows)):
        every = squared_distances(rows[:row], rows[row])
        assert index[row] == every.argmin()
        assert found[row] == np.sqrt(every.min())


@pytest.mark.parametrize("count", [0, 1, 2, 511, 512, 513, 1100])
def test_the_nearest_other_row_is_that_of_a_comparison_with_all(count):
    rows = np.random.default_rng(count).integers(0, 40, (count, 3)).astype(np.float32)
    index, found = nearest_neighbours(rows, rows, without="itself")
    assert index.tolist() == ([-1] * count if count < 2 else index.tolist())
    for row in range(count if count > 1 else 0):
        every = squared_distances(rows, rows[row])
        every[row] = np.inf
        assert (index[row], found[row]) == (every.argmin(), np.sqrt(every.min()))


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_picks_are_those_of_all_pairs_to_the_bit(kind):
    rows = KINDS[kind][0].astype(np.float32)
    chosen = select(rows, budget=80, strategy="coreset", engine="numpy")
    nearest = np.full(len(rows), np.inf, np.float32)
    for pick, found in zip(chosen.indices, chosen.distances, strict=True):
        assert pick == nearest.argmax()
        assert found == np.sqrt(nearest[pick])
        nearest = np.minimum(nearest, squared_distances(rows, rows[pick]))
    assert len(chosen.indices) == 80 or nearest.max() == 0


@pytest.mark.parametrize("views", [1, 4])
def test_frames_of_cameras_that_do_not_move_are_told_apart_without_computing_every_pair(views, monkeypatch):
    rows, pool = static(2400, seed=1, views=views), static(2000, seed=2, views=views)
    computed = []

    def counted(points, others):
        computed.append(len(points))
        return squared_distances(points, others)

    monkeypatch.setattr(distance, "squared_distances", counted)
    monkeypatch.setattr(brute_force, "squared_distances", counted)
    nearest_neighbours(rows, pool)
    assert sum(computed) < 0.05 * len(rows) * len(pool)
    computed.clear()
    chosen = select(rows, budget=240, strategy="coreset", engine="numpy")
    assert sum(computed) < 0.2 * len(rows) * len(chosen.indices)
