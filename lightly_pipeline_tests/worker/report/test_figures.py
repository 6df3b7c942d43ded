"""The figures of the report, held against all pairs in float64."""

from types import SimpleNamespace

import numpy as np
import pytest

from lightly_pipeline.worker.report.coverage import COVERED_FRAMES, compare_coverage
from lightly_pipeline.worker.report.statistics import pairwise_distances
from lightly_pipeline_tests.worker.select.vectors import unit, unit_vectors, walk


@pytest.mark.parametrize(
    "vectors",
    [walk(200, 32, seed=1) + np.float32(500), unit(1 + np.random.default_rng(0).normal(size=(200, 32)) * 2e-5)],
    ids=["far from the origin", "nearly the same"],
)
def test_small_distances_of_large_vectors_are_measured_and_not_their_rounding(vectors):
    measured = pairwise_distances(vectors)
    truth = np.linalg.norm(vectors[:, None].astype(float) - vectors.astype(float), axis=2)
    np.testing.assert_allclose(measured.pairs, truth[np.triu_indices(200, 1)], rtol=1e-5, atol=1e-9)
    np.fill_diagonal(truth, np.inf)
    np.testing.assert_allclose(measured.nearest, truth.min(axis=1), rtol=1e-5, atol=1e-9)


def outcome(vectors, selected, *, candidates=None, pool=None):
    """What the comparison looks at."""
    return SimpleNamespace(
        candidates=np.ones(len(vectors), bool) if candidates is None else candidates,
        selected=np.asarray(selected),
        table=SimpleNamespace(embeddings=vectors),
        pool=vectors[:0] if pool is None else pool,
    )


def test_coverage_is_that_of_the_frames_that_could_be_selected():
    vectors, allowed = walk(900, 16, seed=2), np.arange(900) < 300
    rows = compare_coverage(outcome(vectors, range(0, 300, 10), candidates=allowed))
    alone = compare_coverage(outcome(vectors[:300], range(0, 300, 10)))
    assert rows[0] == alone[0]
    assert rows[1].name == "every N-th frame, N = 10"
    assert rows[1].worst == alone[1].worst


def test_what_the_pool_shows_needs_no_selected_frame():
    vectors = walk(600, 16, seed=3)
    # The first half is known: the selection is of the second alone.
    rows = compare_coverage(outcome(vectors, range(300, 600, 10), pool=vectors[:300]))
    assert rows[0].worst < compare_coverage(outcome(vectors, range(300, 600, 10)))[0].worst
    nearest = np.linalg.norm(vectors[300:, None].astype(float) - vectors[300:600:10].astype(float), axis=2).min(axis=1)
    known = np.linalg.norm(vectors[300:, None].astype(float) - vectors[:300].astype(float), axis=2).min(axis=1)
    assert rows[0].worst == pytest.approx(np.minimum(nearest, known).max(), abs=1e-4)
    assert rows[0].mean == pytest.approx(np.minimum(nearest, known).sum() / 600, abs=1e-4)


def test_a_pool_that_is_too_large_to_look_at_in_no_time_is_looked_at_by_fewer_frames():
    vectors, pool = walk(2 * COVERED_FRAMES, 16, seed=4), unit_vectors(400_000, 16, seed=5)
    rows = compare_coverage(outcome(vectors, range(0, len(vectors), 80), pool=pool))
    assert [row.name for row in rows[:1]] == ["this selection"]
    assert rows[0].worst > 0
