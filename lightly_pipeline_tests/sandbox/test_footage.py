"""The footage's ground truth, checked by decoding every frame of every file."""

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from lightly_pipeline.sandbox import footage as module
from lightly_pipeline.sandbox.footage import Clip, clips, footage, ground_truth
from lightly_pipeline.sandbox.storyboard import SCRIPTS
from lightly_pipeline_tests.clips import rendered

NAMES = [script.name for script in SCRIPTS]


def decoded(path: Path) -> list[np.ndarray]:
    """Luma and chroma of every frame, [height * 3 / 2, width] uint8."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def first_equal(frames: list[np.ndarray]) -> list[int]:
    seen: dict[bytes, int] = {}
    return [seen.setdefault(hashlib.sha256(frame.tobytes()).digest(), at) for at, frame in enumerate(frames)]


@pytest.fixture(params=NAMES)
def clip(request: pytest.FixtureRequest) -> Clip:
    return rendered(request.param)[0]


def test_exactly_the_frames_that_the_ground_truth_names_are_bit_identical(clip: Clip):
    truth = ground_truth(clip)
    for path in clip.files:
        frames = decoded(path)
        assert len(frames) == truth.frames == clip.frames
        assert first_equal(frames) == truth.first_equal(), path.name


def test_the_shots_tile_the_clip_and_every_cut_is_a_jump(clip: Clip):
    truth = ground_truth(clip)
    spans = [shot.span for shot in truth.shots]
    assert spans[0].start == 0
    assert spans[-1].end == truth.frames
    assert all(one.end == other.start for one, other in itertools.pairwise(spans))
    luma = [frame[: frame.shape[0] * 2 // 3].astype(np.int16) for frame in decoded(clip.files[-1])]
    steps = [float(np.abs(a - b).mean()) for a, b in itertools.pairwise(luma)]
    cuts = {span.start for span in spans[1:]}
    within = [step for at, step in enumerate(steps, start=1) if at not in cuts]
    # No camera is so fast that it could be taken for a cut.
    assert min(steps[cut - 1] for cut in cuts) > max(within)


def test_near_duplicates_look_alike_and_differ():
    checked = 0
    for clip in rendered(*(name for name in NAMES if ground_truth(name).near_duplicates)):
        for span in ground_truth(clip).near_duplicates:
            frames = [frame.astype(np.int16) for frame in decoded(clip.files[0])[slice(*span)]]
            for one, other in itertools.pairwise(frames):
                error = float(np.square(one - other).mean())
                assert 0 < error < 12, "not within 37 dB of each other"
                checked += 1
    assert checked > 20


def test_the_clips_are_moving_colourful_h264_of_some_seconds(clip: Clip):
    with av.open(str(clip.files[0])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", clip.width, clip.height)
        assert stream.average_rate == clip.fps
        assert stream.codec_context.pix_fmt == "yuv420p"
    assert 3 <= clip.frames / clip.fps <= 8
    frames = decoded(clip.files[0])
    assert np.mean([frame[: clip.height].std() for frame in frames]) > 15


def test_the_set_covers_static_repeated_and_near_duplicate_frames_and_portrait():
    truths = [ground_truth(name) for name in NAMES]
    assert 6 <= len(truths) <= 10
    assert any(truth.static for truth in truths)
    assert any(truth.repeats for truth in truths)
    assert any(truth.near_duplicates for truth in truths)
    assert any(not truth.exact_duplicates() and not truth.near_duplicates for truth in truths)
    assert any(script.height > script.width for script in SCRIPTS)
    assert len({script.id for script in SCRIPTS}) == len(SCRIPTS)


def test_two_processes_that_render_at_once_both_get_whole_clips(tmp_path: Path):
    render = (
        "import sys; from pathlib import Path; from lightly_pipeline.sandbox.footage import footage;"
        "footage(Path(sys.argv[1]), 'return')"
    )
    both = [subprocess.Popen([sys.executable, "-c", render, str(tmp_path)]) for _ in range(2)]
    try:
        assert [process.wait(60) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    clip = next(clip for clip in clips(tmp_path) if clip.name == "return")
    assert len(decoded(clip.files[1])) == clip.frames
    assert [path.name for path in clip.files[0].parent.parent.iterdir()] == ["return"]


def test_a_killed_rendering_leaves_nothing_behind_for_long(tmp_path: Path):
    (clip,) = footage(tmp_path, "return")
    scratch = clip.files[0].parent.with_name(".drift-abcd")
    scratch.mkdir()
    (scratch / "854x480.mp4").touch()
    footage(tmp_path, "slide-show")
    assert {path.name for path in scratch.parent.iterdir()} == {"return", "slide-show"}


def test_a_second_call_renders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (clip,) = footage(tmp_path, "return")
    before = [path.stat().st_mtime_ns for path in clip.files]
    monkeypatch.setattr(module, "_render", None)
    assert footage(tmp_path, "return") == (clip,)
    assert [path.stat().st_mtime_ns for path in clip.files] == before


def test_an_unknown_name_is_answered_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"no footage named nosferatu: the clips are drift, .*slide-show"):
        ground_truth("nosferatu")
