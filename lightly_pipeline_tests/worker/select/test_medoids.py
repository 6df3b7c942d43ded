"""Picks that go to the medoids of what they stand for, against the definition and against what they must not lose."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightly_pipeline.worker.select import SelectionCancelled, medoids, nearest_neighbours, select
from lightly_pipeline.worker.select.medoids import to_medoids
from lightly_pipeline.worker.select.selection import Watch
from lightly_pipeline_tests.worker.select.vectors import unit, walk


def scattered(rows, seed):
    return unit(np.random.default_rng(seed).normal(size=(rows, 24)))


def twice(rows, seed):
    """Every row a second time: the nearest of a row is as near as another."""
    return np.repeat(walk(rows // 2, 24, seed=seed), 2, axis=0)


def drawn(rows, count, seed):
    return np.random.default_rng(seed).permutation(rows)[:count]


def moved(points, picks, *, to_pool=None, shots=None, apart=0.0, watch=None):
    shots = np.zeros(len(points), np.int64) if shots is None else shots
    return to_medoids(points, to_pool, picks, shots, apart, watch or Watch())


@pytest.mark.parametrize("near", [1, 4, 16, 500])
@pytest.mark.parametrize(
    ("points", "count"), [(walk(3000, 24, seed=1), 300), (scattered(800, 2), 90), (twice(600, 3), 80)]
)
def test_every_row_belongs_to_its_nearest_pick(points, count, near, monkeypatch):
    monkeypatch.setattr(medoids, "_NEAR", near)
    picks = np.unique(points, axis=0, return_index=True)[1][drawn(len(points) // 2, count, 4)]
    home, cost = medoids._Near(points, picks, Watch()).clusters()
    index, distance = nearest_neighbours(points, points[picks])
    assert home.tolist() == index.tolist()
    assert cost.tolist() == distance.tolist()


def test_a_pick_goes_to_the_member_with_the_least_sum_of_distances():
    """Rows on two arcs, each picked at its end: the least sum is in the middle of the denser part."""
    places = np.sort(np.concatenate([np.linspace(0, 0.6, 25), np.linspace(0.35, 0.45, 16), np.linspace(2, 2.5, 21)]))
    points = np.stack([np.cos(places), np.sin(places)], axis=1).astype(np.float32)
    picks = moved(points, np.array([0, 61]))
    for pick, own in zip(picks, (np.arange(41), np.arange(41, 62)), strict=True):
        sums = np.linalg.norm(points[own][:, None] - points[own], axis=2).sum(axis=0)
        assert sums[pick - own[0]] == pytest.approx(sums.min())


@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(2, 120),
    share=st.floats(0.05, 1),
    apart=st.sampled_from([0.0, 0.1, 0.5]),
    kind=st.sampled_from([walk, scattered, twice]),
    with_pool=st.booleans(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_moves_nothing_is_lost(seed, rows, share, apart, kind, with_pool):
    points = walk(rows, 24, seed=seed) if kind is walk else kind(rows, seed)
    different = np.unique(points, axis=0, return_index=True)[1]
    picks = different[drawn(len(different), max(1, int(len(different) * share)), seed)]
    to_pool = None
    if with_pool:
        to_pool = nearest_neighbours(points, scattered(3, seed + 1))[1]
        picks = picks[to_pool[picks] > 0]
    shots = np.arange(len(points)) * 3 // len(points)
    after = moved(points, picks, to_pool=to_pool, shots=shots, apart=apart)
    known = np.full(len(points), np.inf, np.float32) if to_pool is None else to_pool
    cost_before, cost_after = (np.minimum(nearest_neighbours(points, points[p])[1], known) for p in (picks, after))
    assert cost_after.sum(dtype=np.float64) <= cost_before.sum(dtype=np.float64) + 1e-6
    assert cost_after.max() <= cost_before.max()
    assert shots[after].tolist() == shots[picks].tolist()
    before_apart, after_apart = (
        nearest_neighbours(points[p], points[p], without="itself")[1].min(initial=np.inf) for p in (picks, after)
    )
    assert after_apart >= min(before_apart, np.float32(apart))
    assert after_apart > 0
    assert (known[after] >= np.minimum(known[picks], np.float32(apart))).all()


def test_a_balanced_selection_is_nearer_to_what_it_stands_for(monkeypatch):
    points = walk(4000, 32, seed=5)
    groups = np.zeros(len(points), np.int32)

    def covered():
        picks = select(points, budget=400, strategy="balanced", groups=groups).indices
        assert len(set(picks.tolist())) == 400
        distances = nearest_neighbours(points, points[picks])[1]
        return distances.mean(), distances.max()

    mean, worst = covered()
    monkeypatch.setattr(medoids, "_ONCE", 0)
    greedy_mean, greedy_worst = covered()
    assert mean < 0.95 * greedy_mean
    assert worst <= greedy_worst


def test_rows_that_do_not_lie_in_clusters_are_not_looked_at_forever(monkeypatch):
    monkeypatch.setattr(medoids, "_FAR", 1000)
    points = scattered(500, 6)
    picks = drawn(500, 100, 7)
    assert moved(points, picks).tolist() == picks.tolist()


def test_it_can_be_cancelled():
    with pytest.raises(SelectionCancelled):
        moved(walk(500, 24, seed=8), np.arange(0, 500, 10), watch=Watch(cancelled=lambda: True))
