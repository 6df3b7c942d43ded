"""Which frames are kept while they are decoded: of each view the one nearest to its mean."""

import threading

import numpy as np
import pytest

from lightly_pipeline.worker.scan.keep import ChunkRule, KeepRule


def at(*degrees: float) -> list[np.ndarray]:
    """Unit vectors in a plane, float32 [2]."""
    return [np.array([np.cos(angle), np.sin(angle)], np.float32) for angle in np.radians(degrees)]


def kept(rule: ChunkRule, vectors, selectable=None) -> list[int]:
    """The numbers of the frames that the rule keeps."""
    chosen, held = [], -1
    for number, vector in enumerate(vectors):
        keep, hold = rule.see(vector, selectable=selectable is None or selectable[number])
        chosen += [held] if keep else []
        held = number if hold else held
    return chosen + ([held] if rule.holds else [])


def rule(delta: float = 0.2) -> ChunkRule:
    """0.2 are 11.5 degrees."""
    return ChunkRule(0.15, delta)


def test_of_a_view_the_frame_nearest_to_its_mean_is_kept():
    # The camera rests from the fourth frame on.
    [still] = kept(rule(), at(0, 2, 5, 8, 8.1, 8, 8.2, 8.1))
    assert still >= 3
    # Views of one frame each.
    assert kept(rule(), at(0, 40, 80)) == [0, 1, 2]


def test_a_view_that_comes_back_is_not_kept_again_until_eight_others_were():
    assert kept(rule(), at(*[0, 40] * 20)) == [0, 1]
    assert kept(rule(), at(*range(0, 320, 40), 0)) == list(range(8))
    assert kept(rule(), at(*range(0, 351, 39), 0)) == [*range(9), 9]


def test_the_last_view_of_a_chunk_has_its_picture():
    assert kept(rule(), at(0, 1, 90)) == [0, 2]
    assert kept(rule(), at(7)) == [0]
    assert kept(rule(), []) == []


def test_a_copy_or_a_corrupt_frame_is_never_held():
    vectors = at(0, 5, 5.5, 4.5)
    assert kept(rule(), vectors) == [3]
    assert kept(rule(), vectors, [True, False, True, False]) in ([0], [2])
    # A view that begins with one begins a frame later.
    assert kept(rule(), at(0, 50, 51), [True, False, True]) == [0, 2]
    assert kept(rule(), at(0, 50), [False, False]) == []


def test_nothing_is_kept_where_a_second_decode_is_cheaper():
    stop = threading.Event()
    for share in (0.0, 0.41, 1.0):
        assert kept(KeepRule(share, stop).begin(0), at(*range(0, 300, 20))) == []
    assert len(kept(KeepRule(0.4, stop).begin(0), at(*range(0, 300, 20)))) > 5


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize("speed", [0.02, 0.3])
def test_delta_follows_the_share_that_is_wanted(share, speed):
    """Chunk after chunk; half as many again are kept as are wanted, whatever the speed of the camera."""
    rng = np.random.default_rng(0)
    keeping, chosen, frames = KeepRule(share, threading.Event()), 0, 0
    position = rng.normal(size=64)
    for sequence in range(120):
        chunk = keeping.begin(sequence)
        vectors = []
        for _ in range(100):
            position = 0.999 * position + speed * rng.normal(size=64)
            vectors.append((position / np.linalg.norm(position)).astype(np.float32))
        count = len(kept(chunk, vectors))
        keeping.finish(sequence, chunk)
        if sequence >= 60:
            chosen, frames = chosen + count, frames + len(vectors)
    assert 1.25 * share < chosen / frames < 1.7 * share


def test_a_chunk_decoded_again_keeps_the_same():
    first = ChunkRule(0.15, 0.1)
    rng = np.random.default_rng(1)
    vectors = [vector / np.linalg.norm(vector) for vector in np.cumsum(rng.normal(size=(80, 8)), 0).astype(np.float32)]
    again = first.copy()
    assert kept(first, vectors) == kept(again, vectors) == kept(first.copy(), vectors)
    assert first.mean_delta != ChunkRule(0.15, 0.1).mean_delta
