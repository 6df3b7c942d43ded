"""The cache: what it gives back, what it drops, and what it never drops."""

import fcntl
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

import pytest

from lightly_pipeline.pexels import VideoCache, VideoRecord


def put(cache: VideoCache, key: str, size: int, used: float) -> None:
    hold = cache.hold(key)
    path = cache.path_for(key)
    path.write_bytes(bytes(size))
    cache.write(key, record_of(path))
    for file in path.parent.iterdir():
        os.utime(file, (used, used))
    cache.write(key, record_of(path))
    os.utime(path.with_name("video.json"), (used, used))
    hold.release()


def record_of(path: Path) -> VideoRecord:
    return VideoRecord(
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        bytes=path.stat().st_size,
        mtime_ns=path.stat().st_mtime_ns,
        width=1,
        height=1,
        codec="h264",
        seconds=1.0,
        fps=None,
        page_url="https://www.pexels.com/video/1/",
        creator="Zoë",
        creator_url="",
        licence="",
        link="",
        max_height=1080,
    )


def kept(cache: VideoCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


def test_the_least_recently_used_go_first(tmp_path: Path):
    cache = VideoCache(tmp_path, 10**6)
    for age, key in enumerate(("new", "middle", "old")):
        put(cache, key, 20_000, used=1_000_000 - age)
    assert cache.read("old") is not None, "reading is using"
    cache.max_bytes = 50_000
    assert cache.make_room() == ["middle"]
    assert kept(cache) == {"new", "old"}


def test_what_another_process_holds_is_never_evicted(tmp_path: Path):
    put(VideoCache(tmp_path, 10**6), "held", 20_000, used=1)
    hold = (
        "import sys; from pathlib import Path; from lightly_pipeline.pexels import VideoCache;"
        "hold = VideoCache(Path(sys.argv[1]), 1).hold('held'); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    cache = VideoCache(tmp_path, 1)
    assert cache.make_room() == []
    assert cache.read("held") is not None
    holder.kill()
    holder.communicate()
    assert cache.make_room() == ["held"]
    assert kept(cache) == set()


def test_a_hold_ends_with_the_object(tmp_path: Path):
    cache = VideoCache(tmp_path, 1)
    put(cache, "video", 20_000, used=1)
    hold = cache.hold("video")
    assert cache.make_room() == []
    del hold
    assert cache.make_room() == ["video"]


def test_who_waits_for_an_eviction_holds_an_entry_that_is_there(tmp_path: Path):
    """An eviction between opening the folder and locking it would leave a hold on a folder that is gone."""
    cache = VideoCache(tmp_path, 10**6)
    put(cache, "video", 2000, used=1)
    entry = cache.path_for("video").parent
    evictor = os.open(entry, os.O_RDONLY)
    fcntl.flock(evictor, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(cache.hold, "video")
        with pytest.raises(FutureTimeout):
            holding.result(timeout=0.3)
        entry.rename(tmp_path / ".evicted-1")
        os.close(evictor)
        hold = holding.result(timeout=10)
    assert entry.is_dir()
    assert VideoCache(tmp_path, 0).make_room() == []
    hold.release()


def test_a_file_that_is_not_what_was_recorded_is_not_given_out(tmp_path: Path):
    cache = VideoCache(tmp_path, 10**6)
    put(cache, "video", 2000, used=1)
    path = cache.path_for("video")
    os.utime(path)
    assert cache.read("video") is not None, "only touched: the content is the same"
    path.write_bytes(b"x" * 2000)
    assert cache.read("video") is None
    path.write_bytes(bytes(1000))
    assert cache.read("video") is None
    path.unlink()
    assert cache.read("video") is None


@pytest.mark.parametrize("text", ["", "{", '{"sha256": "1"}', "[]"])
def test_a_record_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str):
    cache = VideoCache(tmp_path, 10**6)
    put(cache, "video", 2000, used=1)
    cache.path_for("video").with_name("video.json").write_text(text)
    assert cache.read("video") is None


def test_what_a_killed_eviction_left_is_removed(tmp_path: Path):
    cache = VideoCache(tmp_path, 10**6)
    (tmp_path / ".evicted-1" / "video").mkdir(parents=True)
    cache.make_room()
    assert kept(cache) == set()


@pytest.mark.parametrize("key", ["", ".", "..", "../up", "a/b", "/etc", "a\0b", ".evicted-1"])
def test_a_key_never_leads_out_of_the_folder(tmp_path: Path, key: str):
    with pytest.raises(ValueError, match="not a video key"):
        VideoCache(tmp_path, 1).path_for(key)
