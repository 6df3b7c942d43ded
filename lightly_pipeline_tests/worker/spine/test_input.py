"""What is taken for input: which files are left out, why, and who is told."""

import os
import socket

import pytest

from lightly_pipeline.worker import select_frames
from lightly_pipeline.worker.errors import OptionError
from lightly_pipeline_tests.worker.spine.conftest import run_worker, write_clip


def listed(out, name):
    return (out / f"filenames/{name}_filenames.txt").read_text().splitlines()


@pytest.fixture
def folder(tmp_path):
    """a.mp4 (12 frames) and sub/b.mp4 (10), to be changed."""
    write_clip(tmp_path / "in/a.mp4", frames=12, seed=1)
    write_clip(tmp_path / "in/sub/b.mp4", frames=10, seed=2)
    return tmp_path / "in"


def test_what_is_no_file_is_listed_and_never_waited_for(folder, tmp_path, monkeypatch):
    """A pipe that was named like a video once stopped a run for ever."""
    os.mkfifo(folder / "pipe.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")
    monkeypatch.chdir(folder)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.mp4")
    ended = run_worker(folder, tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert listed(tmp_path / "out", "corrupt") == ["device.mp4", "pipe.mp4", "socket.mp4"]
    assert "3 unreadable files" in ended.stdout
    assert run_worker(folder, tmp_path / "out").stdout.startswith("Found 2 input videos")


@pytest.mark.parametrize("option", ["relevant_filenames_file", "embeddings"])
@pytest.mark.parametrize("name", ["nope", "sub"])
def test_a_list_that_cannot_be_read_is_a_wrong_option(folder, tmp_path, option, name):
    with pytest.raises(OptionError, match=f"{name} (cannot be read|is no file)"):
        select_frames(folder, tmp_path / "out", {option: name})
