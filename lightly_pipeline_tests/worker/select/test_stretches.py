"""A long input, selected from stretch by stretch, gets what it would get at once."""

import numpy as np
import pytest

from lightly_pipeline.worker.select import (
    SelectionCancelled,
    balanced_in_stretches,
    nearest_neighbours,
    select,
    stretches,
)
from lightly_pipeline_tests.worker.select.vectors import unit, walk


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(stretches, "_STRETCH", 700)


def chosen(vectors, budget, rows=None, **more):
    rows = np.arange(len(vectors)) if rows is None else rows
    columns = {"sharpness": np.ones(len(rows), np.float32), "groups": np.zeros(len(rows), np.int32)}
    return balanced_in_stretches(vectors, rows, budget=budget, engine="numpy", **columns, **more)


def covered(vectors, picks):
    """The worst and the mean distance of a row to its nearest pick."""
    distances = nearest_neighbours(vectors, vectors[picks])[1]
    return distances.max(), distances.mean()


def loops(n, times):
    once = walk(n, 32, seed=6).astype(np.float64)
    noise = np.random.default_rng(7)
    return np.concatenate([unit(once + noise.normal(size=once.shape) * 1e-4) for _ in range(times)])


@pytest.mark.parametrize("vectors", [walk(4000, 32, seed=5), loops(1600, 3)], ids=["new scenes", "scenes that return"])
def test_it_covers_the_input_as_well_as_a_selection_at_once(vectors):
    one = {"sharpness": np.ones(len(vectors), np.float32), "groups": np.zeros(len(vectors), np.int32)}
    at_once = select(vectors, budget=400, strategy="balanced", engine="numpy", **one)
    in_parts = chosen(vectors, 400)
    worst, mean = covered(vectors, at_once.indices)
    worst_in_parts, mean_in_parts = covered(vectors, in_parts.indices)
    assert worst_in_parts < 1.2 * worst
    assert mean_in_parts < 1.1 * mean
    assert (in_parts.stopped_by, in_parts.strategy) == ("budget", "balanced")
    assert f"{-(-len(vectors) // 700)} stretches" in in_parts.notes[0]


@pytest.mark.parametrize("budget", [0, 1, 7, 399, 2100, 2990, 3000])
def test_the_budget_is_used_up_and_never_exceeded(budget):
    vectors = walk(3000, 16, seed=8)
    picks = chosen(vectors, budget).indices
    assert len(picks) == len(set(picks.tolist())) == budget


def test_a_stretch_in_which_nothing_happens_gets_little():
    vectors = walk(2800, 32, seed=9)
    vectors[700:1400] = unit(vectors[700] + np.random.default_rng(1).normal(size=(700, 32)) * 1e-3)
    picks = chosen(vectors, 280).indices
    assert ((picks >= 700) & (picks < 1400)).sum() < 20


def test_only_the_rows_asked_for_are_taken_and_counted_in():
    vectors = walk(3000, 16, seed=10)
    rows = np.arange(0, 3000, 2)
    vectors[1::2] = np.nan  # which no selection accepts
    selection = chosen(vectors, 150, rows)
    assert len(selection) == 150
    assert selection.indices.max() < len(rows)


def test_the_minimum_distance_holds_across_stretches_and_to_the_pool():
    vectors = loops(800, 4)
    pool = vectors[:40]
    selection = chosen(vectors, 3000, pool=pool, min_distance=0.2)
    picked = vectors[selection.indices]
    gaps = np.linalg.norm(picked[:, None] - picked[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert gaps.min() >= np.float32(0.2) - 1e-6
    assert nearest_neighbours(picked, pool)[1].min() >= np.float32(0.2)
    assert selection.stopped_by == "min_distance"
    worst = np.minimum(nearest_neighbours(vectors, picked)[1], nearest_neighbours(vectors, pool)[1]).max()
    assert worst < np.float32(0.2), "nothing that could have been taken is left"


def test_what_is_identical_is_taken_once_and_what_the_pool_has_not_at_all():
    once = walk(900, 16, seed=11)
    selection = chosen(np.concatenate([once, once, once]), 2700, pool=once[:100])
    assert len(selection) == 800
    assert selection.stopped_by == "exhausted"


def test_it_is_the_same_every_time_and_can_be_cancelled():
    vectors = walk(3000, 16, seed=12)
    assert chosen(vectors, 300).indices.tolist() == chosen(vectors, 300).indices.tolist()
    told = []
    chosen(vectors, 300, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (300, 300)
    with pytest.raises(SelectionCancelled):
        chosen(vectors, 300, cancelled=lambda: True)
