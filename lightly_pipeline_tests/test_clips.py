"""The clips that other tests stand on are what they are called."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from lightly_pipeline_tests.clips import FORMATS, clip_in, flipped, rotated, sound_only, truncated


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_decodes_to_frames_that_all_differ(name: str, tmp_path: Path):
    path = clip_in(tmp_path, name, frames=24)
    how = FORMATS[name]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert {frame.shape for frame in frames} == {(how.height, how.width, 3)}
    assert len({frame.tobytes() for frame in frames}) == len(frames) == 24
    steps = [np.abs(one.astype(int) - other).mean() for one, other in itertools.pairwise(frames)]
    assert int(np.argmax(steps)) == 11, "the cut is the largest step"


def test_times_make_a_variable_frame_rate(tmp_path: Path):
    times = [0, 1, 5, 6, 7, 20]
    path = clip_in(tmp_path, "h264", frames=6, times=times)
    with av.open(str(path)) as container:
        assert [round(frame.time * 25) for frame in container.decode(video=0)] == times


def test_a_rotated_clip_says_so_and_has_the_same_frames(tmp_path: Path):
    plain = clip_in(tmp_path, "h264", frames=3)
    turned = rotated(plain, tmp_path / "turned.mp4")
    with av.open(str(turned)) as container, av.open(str(plain)) as other:
        pairs = list(zip(container.decode(video=0), other.decode(video=0), strict=True))
    assert all(abs(one.rotation) == 90 and other.rotation == 0 for one, other in pairs)
    assert all(np.array_equal(one.to_ndarray(), other.to_ndarray()) for one, other in pairs)


def test_damaged_copies_are_damaged_the_same_way_each_time(tmp_path: Path):
    source = clip_in(tmp_path, "h264", frames=6)
    content = source.read_bytes()
    assert truncated(source, tmp_path / "cut.mp4", 0.5).read_bytes() == content[: len(content) // 2]
    one = flipped(source, tmp_path / "a.mp4", seed=1, count=9, begin=0.5).read_bytes()
    assert one == flipped(source, tmp_path / "b.mp4", seed=1, count=9, begin=0.5).read_bytes()
    places = [place for place, (a, b) in enumerate(zip(content, one, strict=True)) if a != b]
    assert len(places) == 9
    assert min(places) >= len(content) // 2


def test_sound_alone_has_no_video(tmp_path: Path):
    with av.open(str(sound_only(tmp_path))) as container:
        assert not container.streams.video
        assert len(container.streams.audio) == 1
