"""`select`: what every strategy and engine promises."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightly_pipeline.worker.select import SelectionCancelled, SelectionError, balls, lazy, nearest_neighbours, select
from lightly_pipeline.worker.select.selection import Watch
from lightly_pipeline_tests.worker.select.vectors import unit, unit_vectors, walk

ENGINES = ("auto", "numba", "numpy", "mundig")


@pytest.fixture(scope="session")
def compiled():
    """Compiling takes some seconds on the very first use; it is cached after that."""
    select(unit_vectors(20, 8, seed=0), budget=5, pool=unit_vectors(4, 8, seed=1), engine="numba")


def test_the_farthest_row_is_picked_next_and_ties_go_to_the_lowest_index():
    line = np.array([[0.0], [1.0], [2.0], [4.0], [4.0]], dtype=np.float32)
    for engine in ENGINES:
        chosen = select(line, budget=5, engine=engine)
        # 1 and 2 are both 1 away when 0, 3 (=4) and 2 are taken; the copy of 3 is never taken.
        assert chosen.indices.tolist() == [0, 3, 2, 1], engine
        assert chosen.distances.tolist() == [np.inf, 4, 2, 1]
        assert chosen.stopped_by == "exhausted"


def test_min_distance_keeps_what_is_exactly_that_far():
    line = np.array([[0.0], [5.0], [10.0], [15.0], [17.0], [20.0]], dtype=np.float32)
    for engine in ENGINES:
        chosen = select(line, budget=6, min_distance=5, engine=engine)
        assert chosen.indices.tolist() == [0, 5, 2, 1, 3], engine
        assert chosen.stopped_by == "min_distance"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_pool_counts_as_already_chosen_but_not_for_the_budget(engine):
    pool = np.array([[0.0], [10.0]], dtype=np.float32)
    line = np.array([[0.0], [1.0], [5.0], [30.0], [10.0]], dtype=np.float32)
    chosen = select(line, budget=2, pool=pool, engine=engine)
    assert chosen.indices.tolist() == [3, 2]
    assert chosen.distances.tolist() == [20, 5]
    assert select(line, budget=5, pool=pool, engine=engine).indices.tolist() == [3, 2, 1]


def test_mundig_agrees_on_clustered_embeddings_with_and_without_a_pool():
    vectors = walk(4000, 32, seed=1)
    for pool in (None, walk(500, 32, seed=2)):
        ours = select(vectors, budget=400, pool=pool, engine="auto")
        theirs = select(vectors, budget=400, pool=pool, engine="mundig")
        overlap = len(set(ours.indices) & set(theirs.indices)) / 400
        assert overlap >= 0.99
        assert abs(float(ours.distances.min()) - float(theirs.distances.min())) < 1e-3


def test_every_strategy_keeps_its_distance_from_picks_and_pool():
    vectors = walk(1500, 24, seed=3)
    pool = vectors[::50] + np.float32(1e-3)
    for strategy in ("coreset", "balanced", "random"):
        chosen = select(vectors, budget=1500, min_distance=0.3, pool=pool, strategy=strategy, seed=4)
        picked = vectors[chosen.indices]
        gaps = np.linalg.norm(picked[:, None] - picked[None], axis=2)
        np.fill_diagonal(gaps, np.inf)
        assert gaps.min() >= 0.3 - 1e-6
        assert nearest_neighbours(picked, pool)[1].min() >= np.float32(0.3)
        # and nothing that could have been taken was left out
        left = np.setdiff1d(np.arange(1500), chosen.indices)
        assert nearest_neighbours(vectors[left], np.concatenate([picked, pool]))[1].max() < 0.3 + 1e-6
        assert chosen.stopped_by == "min_distance"


def test_the_same_seed_gives_the_same_random_choice_and_another_seed_another():
    vectors = unit_vectors(300, 16, seed=5)
    first = select(vectors, budget=30, strategy="random", seed=1).indices
    assert (first == select(vectors, budget=30, strategy="random", seed=1).indices).all()
    assert set(first) != set(select(vectors, budget=30, strategy="random", seed=2).indices)


def test_nothing_is_chosen_from_nothing_and_never_more_than_there_is():
    assert len(select(np.empty((0, 8), np.float32), budget=3)) == 0
    assert len(select(unit_vectors(5, 8, seed=6), budget=0)) == 0
    assert len(select(unit_vectors(5, 8, seed=6), budget=-1)) == 0
    assert sorted(select(unit_vectors(5, 8, seed=6), budget=99).indices) == [0, 1, 2, 3, 4]


def test_input_that_cannot_be_used_is_refused_with_a_sentence():
    vectors = unit_vectors(5, 8, seed=7)
    broken = vectors.copy()
    broken[3, 2] = np.nan
    with pytest.raises(SelectionError, match="Row 3 of the embeddings"):
        select(broken, budget=2)
    with pytest.raises(SelectionError, match="8 dimensions but the pool's have 4"):
        select(vectors, budget=2, pool=unit_vectors(2, 4, seed=8))
    with pytest.raises(SelectionError, match="no strategy 'kmeans'"):
        select(vectors, budget=2, strategy="kmeans")
    with pytest.raises(SelectionError, match="no engine 'gpu'"):
        select(vectors, budget=2, engine="gpu")
    with pytest.raises(SelectionError, match="weights has the shape"):
        select(vectors, budget=2, weights=np.ones(4))


def test_mundig_that_dies_becomes_a_sentence(monkeypatch, tmp_path):
    from lightly_pipeline.worker.select import mundig

    panicking = tmp_path / "child.py"
    panicking.write_text(
        "import json, sys\nfrom lightly_mundig import Selection\njson.load(sys.stdin)\n"
        "try:\n    s = Selection(); s.add_diversifying_strategy([[0.0], [1.0]], 1.0); s.run_selection([9], 2, 2)\n"
        "except BaseException as error:\n    sys.stderr.write(str(error)); sys.exit(1)\n"
    )
    monkeypatch.setattr(mundig, "_CHILD", panicking)
    with pytest.raises(SelectionError, match="lightly-mundig could not select"):
        select(unit_vectors(5, 8, seed=7), budget=2, engine="mundig")


@pytest.mark.parametrize("engine", ["numba", "numpy", "mundig"])
def test_a_cancelled_selection_ends_within_a_second(engine, compiled):
    vectors = unit_vectors(30_000, 128, seed=9)
    began = time.monotonic()
    with pytest.raises(SelectionCancelled):
        select(vectors, budget=25_000, engine=engine, cancelled=lambda: time.monotonic() - began > 1.5)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("engine", ["numba", "mundig"])
def test_an_interrupt_ends_the_selection_at_once_and_leaves_no_process(engine, compiled):
    """The engine must not hold the GIL for the whole selection: Ctrl-C was deaf for eight seconds."""
    program = textwrap.dedent("""
        import signal, sys
        # A parent that ignores Ctrl-C, such as a job in the background, hands that on.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        from lightly_pipeline.worker.select import select
        from lightly_pipeline_tests.worker.select.vectors import unit_vectors
        vectors = unit_vectors(30_000, 128, seed=9)
        def once(done, total):
            print("working", flush=True)
        try:
            select(vectors, budget=25_000, engine=sys.argv[1], on_progress=once)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    command = [sys.executable, "-c", program, engine]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "working\n"
    began = time.monotonic()
    os.kill(child.pid, signal.SIGINT)
    printed, said = child.communicate(timeout=10)
    assert printed.endswith("interrupted\n"), said
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("dimensions", [3, 16, 40])
def test_the_pruned_search_picks_what_the_brute_force_picks_bit_for_bit(dimensions, compiled):
    for rows, seed in ((walk(1500, dimensions, seed=1), 2), (unit_vectors(700, dimensions, seed=3), 4)):
        for pool in (None, walk(300, dimensions, seed=seed), rows[::5], rows[::7] + np.float32(1e-3)):
            for distance in (None, 0.2):
                slow = select(rows, budget=300, pool=pool, min_distance=distance, engine="numpy")
                fast = select(rows, budget=300, pool=pool, min_distance=distance, engine="numba")
                assert (slow.indices == fast.indices).all()
                assert (slow.distances == fast.distances).all()
                assert slow.stopped_by == fast.stopped_by


@pytest.mark.parametrize("alike", [0.0, 0.5, np.inf])
def test_how_rows_are_put_into_balls_and_rounds_does_not_change_the_picks(alike, compiled, monkeypatch):
    """Products by BLAS have a part in it, which differ from machine to machine."""
    monkeypatch.setattr(lazy, "_ROUND", 16)
    monkeypatch.setattr(lazy, "_PRODUCTS", 1 << 12)
    monkeypatch.setattr(balls, "_ALIKE", alike)
    same = np.round(walk(600, 8, seed=1) * 4).astype(np.float32)
    for rows in (
        walk(5000, 24, seed=1),
        np.random.default_rng(2).permutation(walk(3000, 24, seed=1)),
        unit_vectors(5000, 24, seed=2),
        same,
        np.tile(np.eye(3, 8, dtype="f4"), (2000, 1)),
    ):
        for pool in (None, walk(300, rows.shape[1], seed=3), rows[::9].copy()):
            slow = select(rows, budget=250, pool=pool, engine="numpy")
            fast = select(rows, budget=250, pool=pool, engine="numba")
            assert (slow.indices == fast.indices).all()
            assert (slow.distances == fast.distances).all()
            assert slow.stopped_by == fast.stopped_by


def test_the_pruned_search_reads_embeddings_from_a_file_it_cannot_write(tmp_path, compiled):
    rows = walk(600, 16, seed=1)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    chosen = select(mapped, budget=60, pool=mapped[::50], engine="numba")
    assert (chosen.indices == select(rows, budget=60, pool=rows[::50], engine="numpy").indices).all()


@given(
    rows=arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=st.integers(-3, 3)),
    known=arrays(np.float32, st.tuples(st.integers(0, 6), st.just(3)), elements=st.integers(-3, 3)),
    budget=st.integers(0, 45),
    distance=st.sampled_from([None, 1.0, 2.5]),
    strategy=st.sampled_from(["coreset", "balanced", "random", "weights"]),
    engine=st.sampled_from(["numpy", "numba"]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_input_budget_pool_and_distance_are_kept(
    compiled, rows, known, budget, distance, strategy, engine
):
    """On a grid of whole numbers, where duplicates and ties abound."""
    chosen = select(
        rows,
        budget=budget,
        pool=known,
        min_distance=distance,
        strategy=strategy,
        engine=engine,
        weights=np.arange(len(rows)) % 5 if strategy == "weights" else None,
        sharpness=np.arange(len(rows)) % 3 if strategy == "balanced" else None,
        groups=np.arange(len(rows)) // 7,
    )
    picked = rows[chosen.indices]
    assert len(chosen) <= max(0, budget)
    assert len(np.unique(picked, axis=0)) == len(picked)
    everything = np.concatenate([known, picked])
    for position, pick in enumerate(picked):
        earlier = everything[: len(known) + position]
        expected = np.linalg.norm(earlier - pick, axis=1).min() if len(earlier) else np.inf
        assert np.isclose(chosen.distances[position], expected, rtol=1e-6)
        assert expected > 0
        assert distance is None or expected >= distance - 1e-6
    again = select(rows, budget=budget, pool=known, min_distance=distance, strategy="coreset", engine=engine)
    shorter = select(rows, budget=budget // 2, pool=known, min_distance=distance, strategy="coreset", engine=engine)
    assert (again.indices[: len(shorter)] == shorter.indices).all()


def test_of_two_frames_that_show_the_same_the_sharper_is_taken():
    shown = np.repeat(unit_vectors(8, 16, seed=1), 3, axis=0)
    sharpness = np.tile([1.0, 3.0, 2.0], 8)
    chosen = select(shown, budget=8, strategy="balanced", sharpness=sharpness)
    assert (chosen.indices % 3 == 1).all()
    assert len(set(chosen.indices // 3)) == 8


@pytest.mark.parametrize("strategy", ["coreset", "balanced", "random", "weights"])
def test_a_budget_that_is_larger_than_what_there_is_is_not_what_ended_the_selection(strategy):
    rows, weights = unit_vectors(30, 8, seed=1), np.ones(30)
    for count, budget, ended in ((30, 30, "budget"), (30, 31, "exhausted"), (10, 40, "exhausted")):
        allowed = weights * (np.arange(30) < count)
        column = {"weights": allowed} if strategy in ("weights", "coreset") else {}
        chosen = select(rows if column else rows[:count], budget=budget, strategy=strategy, **column)
        assert (len(chosen), chosen.stopped_by) == (count, ended)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20])
def test_rows_that_cannot_be_multiplied_are_refused(value):
    rows = unit_vectors(30, 8, seed=1)
    rows[7, 3] = value
    with pytest.raises(SelectionError, match="Row 7 of the embeddings"):
        select(rows, budget=3)
    with pytest.raises(SelectionError, match="Row 7 of the pool"):
        select(unit_vectors(30, 8, seed=1), budget=3, pool=rows)


@pytest.mark.parametrize("min_distance", [0.0, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("seed", range(4))
def test_the_sharper_frame_is_not_taken_where_it_is_taken_already_or_too_near(seed, min_distance):
    """Doubled frames with noise, and a budget that is larger than the number of different ones."""
    rng = np.random.default_rng(seed)
    shown = unit(np.repeat(walk(300, 32, seed=seed, step=0.3), 2, axis=0) + rng.normal(size=(600, 32)) * 0.001)
    sharpness = rng.uniform(size=600).astype(np.float32)
    chosen = select(shown, budget=360, strategy="balanced", sharpness=sharpness, min_distance=min_distance)
    assert len(set(chosen.indices.tolist())) == len(chosen.indices)
    taken = shown[chosen.indices].astype(float)
    gaps = np.linalg.norm(taken[:, None] - taken[None], axis=2) + 9 * np.eye(len(taken))
    assert gaps.min() >= min_distance * (1 - 1e-6)
    before = [gaps[row, :row].min() for row in range(1, len(taken))]
    assert np.allclose(chosen.distances[1:], before, atol=1e-6)
    sharper = select(shown, budget=360, strategy="balanced", min_distance=min_distance)
    assert sharpness[chosen.indices].mean() > sharpness[sharper.indices].mean()


@pytest.mark.parametrize(("seed", "noise", "least"), [(0, 0.003, 0.08), (1, 0.003, 0.02), (2, 0.002, 0.05)])
def test_after_a_stop_at_min_distance_nothing_is_left_that_is_far_enough(seed, noise, least):
    """Moved to sharper frames, the picks left room for more, and a repetition took those."""
    rng = np.random.default_rng(seed)
    shown = unit(np.repeat(walk(200, 32, seed=seed, step=0.3), 3, axis=0) + rng.normal(size=(600, 32)) * noise)
    chosen = select(
        shown, budget=600, strategy="balanced", sharpness=rng.uniform(size=600).astype(np.float32), min_distance=least
    )
    assert chosen.stopped_by == "min_distance"
    assert nearest_neighbours(shown, shown[chosen.indices])[1].max() < least


@pytest.mark.parametrize("rows", [3_000, 24_000])
@pytest.mark.parametrize("budget", [6, 8, 14])
def test_few_picks_reach_every_scene(rows, budget):
    """One scene takes three quarters of the time, five others come back for moments: all picks went to the first."""
    rng = np.random.default_rng(0)
    scene = np.repeat(rng.choice(6, rows // 50, p=[0.75, 0.05, 0.05, 0.05, 0.05, 0.05]), 50)
    shown = unit(unit_vectors(6, 32, seed=3)[scene] + rng.normal(size=(rows, 32)) * 0.01)
    chosen = select(shown, budget=budget, strategy="balanced", groups=np.zeros(rows, np.int32))
    assert set(scene[chosen.indices]) == set(range(6))


def test_what_ended_mundig_is_told_as_of_the_others():
    same = np.tile(unit_vectors(1, 8, seed=1), (20, 1))
    for engine in ENGINES:
        assert select(same, budget=5, min_distance=0.1, engine=engine).stopped_by == "exhausted", engine


def test_a_film_that_runs_back_is_as_well_sorted_as_one_that_comes_again():
    """Its rows were compared with their own copies, so that nearly all of them were a ball of their own."""
    once = walk(2_000, 32, seed=1)
    nearly = unit(once + np.random.default_rng(0).normal(size=once.shape) * 1e-4)
    again = balls.build(np.concatenate([once, nearly]), 0.0, Watch())
    back = balls.build(np.concatenate([once, np.ascontiguousarray(nearly[::-1])]), 0.0, Watch())
    assert len(back.balls.begin) < 1.5 * len(again.balls.begin)


def test_weights_multiply_the_distance_and_leave_out_what_weighs_nothing():
    line = np.array([[0.0], [1.0], [2.0], [10.0]], dtype=np.float32)
    chosen = select(line, budget=4, weights=np.array([1.0, 0.5, 6.0, 0.0]))
    assert chosen.indices.tolist() == [2, 0, 1]
    heaviest = select(line, budget=2, strategy="weights", weights=np.array([1.0, 0.5, 6.0, 0.0]), min_distance=2)
    assert heaviest.indices.tolist() == [2, 0]
