"""What opens as video, by content."""

import shutil
from pathlib import Path

import pytest

from lightly_pipeline.pexels import NotAVideo, probe
from lightly_pipeline_tests.clips import FORMATS, clip_in, rendered, sound_only


def test_a_clip_is_described_whatever_its_name(tmp_path: Path):
    (clip,) = rendered("return")
    renamed = tmp_path / "clip.part"
    shutil.copy(clip.files[0], renamed)
    seen = probe(renamed)
    assert (seen.width, seen.height, seen.codec, seen.frames) == (640, 480, "h264", clip.frames)
    assert seen.fps == pytest.approx(24)
    assert seen.seconds == pytest.approx(clip.frames / 24, abs=0.05)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:4,\nclip.mp4\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile clip.mp4\n"),
    ],
)
def test_a_playlist_does_not_make_it_open_the_file_that_it_names(tmp_path: Path, name: str, text: str):
    shutil.copy(rendered("return")[0].files[1], tmp_path / "clip.mp4")
    (tmp_path / name).write_text(text)
    with pytest.raises(NotAVideo):
        probe(tmp_path / name)


def test_sound_alone_is_no_video(tmp_path: Path):
    with pytest.raises(NotAVideo, match="no video stream"):
        probe(sound_only(tmp_path))


def test_pictures_that_are_all_damaged_are_no_video(tmp_path: Path):
    content = bytearray(rendered("return")[0].files[1].read_bytes())
    begin = content.index(b"mdat") + 4
    content[begin:] = b"\xff" * (len(content) - begin)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    with pytest.raises(NotAVideo, match=r"damaged\.mp4 .*no frame"):
        probe(path)


def test_a_missing_file_is_not_taken_for_a_broken_one(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize("length", [0, 8, 40, 100, 200, 300, 400, 450, 500, 600, 800, 1000, 1200, 1400, 1600])
def test_a_file_that_ends_in_its_index_is_no_video(tmp_path: Path, length: int):
    """PyAV 17 ended the process at a stream without decoder, which such a file has."""
    path = tmp_path / "cut.mp4"
    path.write_bytes(rendered("return")[0].files[0].read_bytes()[:length])
    with pytest.raises(NotAVideo):
        probe(path)


@pytest.mark.parametrize("name", FORMATS)
def test_the_usual_formats_open(tmp_path: Path, name: str):
    seen = probe(clip_in(tmp_path, name, frames=6))
    assert (seen.width, seen.height) == (FORMATS[name].width, FORMATS[name].height)
    assert seen.seconds == pytest.approx(6 / 25, abs=0.05)
