"""From an id to a file in the cache, against the stand-in."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from lightly_pipeline.pexels import CacheUnusable, NotAVideo, NoUsableFile, PexelsSource, TooLarge, UnknownVideo
from lightly_pipeline.sandbox.pexels import Fault, PexelsStandIn
from lightly_pipeline_tests.clips import FOOTAGE_CACHE, rendered
from lightly_pipeline_tests.pexels.conftest import API_KEY, client_of, source_of


def test_a_video_is_fetched_with_all_that_attribution_needs(source: PexelsSource, pexels: PexelsStandIn):
    video = source.fetch(857195)
    content = video.path.read_bytes()
    assert video.path.name == "pexels-857195.mp4"
    assert (video.sha256, video.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert content == rendered("drift")[0].files[0].read_bytes()
    assert (video.width, video.height, video.codec, video.fps, video.seconds) == (854, 480, "h264", 25.0, 5.4)
    assert video.page_url == f"{pexels.root}/video/a-slow-camera-that-comes-to-rest-857195/"
    assert (video.creator, video.creator_url) == ("Ada Sandbox", f"{pexels.root}/@ada-sandbox")
    assert video.licence.startswith("Pexels License, https://")
    assert video.downloaded


def test_the_second_time_nothing_is_asked(source: PexelsSource, pexels: PexelsStandIn):
    first = source.fetch(857195)
    pexels.requests.clear()
    second = source.fetch(857195)
    assert not pexels.requests
    assert not second.downloaded
    assert (second.sha256, second.path, second.creator) == (first.sha256, first.path, first.creator)


def test_under_another_limit_another_file_is_fetched(pexels: PexelsStandIn, tmp_path: Path):
    assert source_of(pexels, tmp_path).fetch(857195).height == 480
    small = source_of(pexels, tmp_path, max_height=400).fetch(857195)
    assert (small.height, small.downloaded) == (240, True)
    assert small.path.read_bytes() == rendered("drift")[0].files[1].read_bytes()


def test_portrait_videos_are_measured_by_their_short_side(pexels: PexelsStandIn, tmp_path: Path):
    assert source_of(pexels, tmp_path, max_height=480).fetch(3129671).height == 854


def test_where_the_largest_is_too_large_a_smaller_one_is_taken(pexels: PexelsStandIn, tmp_path: Path):
    large, small = (path.stat().st_size for path in rendered("drift")[0].files)
    assert source_of(pexels, tmp_path, max_bytes=large - 1).fetch(857195).height == 240
    with pytest.raises(TooLarge, match=f"at most {small - 1} are allowed"):
        source_of(pexels, tmp_path / "other", max_bytes=small - 1).fetch(857195)


def test_a_failed_fetch_leaves_no_trace(source: PexelsSource, pexels: PexelsStandIn):
    with pytest.raises(UnknownVideo):
        source.fetch(12345)
    pexels.faults.add("files", Fault(status=200, body=b"no video"))
    with pytest.raises(NotAVideo):
        source.fetch(857195)
    assert list(source.cache.folder.iterdir()) == []


def test_an_unusable_video_is_named_by_its_page(tmp_path: Path):
    videos = tmp_path / "videos"
    videos.mkdir()
    cut = rendered("return")[0].files[0].read_bytes()[:400]
    for name, content in {"holiday.mp4": b"text", "empty one.mp4": b"", "empty-one.mov": cut}.items():
        (videos / name).write_bytes(content)
    with PexelsStandIn(videos, cache=FOOTAGE_CACHE, api_key=API_KEY) as standin:
        source = source_of(standin, tmp_path / "cache")
        for video in client_of(standin).popular().videos:
            with pytest.raises(NotAVideo, match=rf"video {video.id} \(.*/(holiday|empty-one)-{video.id}/\) cannot be"):
                source.fetch(video.id)


def test_a_cache_that_cannot_be_written_to_is_named(pexels: PexelsStandIn, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CacheUnusable, match=r"cache .*/file/cache cannot be used .*LIGHTLY_VIDEO_CACHE"):
        source_of(pexels, tmp_path / "file" / "cache").fetch(857195)


def test_the_cache_stays_within_its_size_but_keeps_what_is_in_use(pexels: PexelsStandIn, tmp_path: Path):
    source = source_of(pexels, tmp_path, cache_bytes=1)
    first = source.fetch(857195)
    second = source.fetch(2169880)
    assert first.path.exists()
    assert second.path.exists()
    del first
    source.fetch(3129671)
    assert {path.name for path in tmp_path.iterdir()} == {"pexels-2169880", "pexels-3129671"}
    assert second.path.exists()


FETCH = """
import sys
from pathlib import Path
from lightly_pipeline.pexels import AllowedHosts, PexelsClient, PexelsSource, VideoCache
root, key, hosts, folder = sys.argv[1:]
source = PexelsSource(PexelsClient(key, root=root), VideoCache(Path(folder), 10**9),
    allowed_hosts=AllowedHosts.parse(hosts), max_height=1080, max_bytes=10**9)
video = source.fetch(857195)
print(video.sha256, video.downloaded)
"""


def fetch_in_process(pexels: PexelsStandIn, folder: Path) -> "subprocess.Popen[str]":
    arguments = [pexels.root, API_KEY, pexels.file_hosts, str(folder)]
    return subprocess.Popen([sys.executable, "-c", FETCH, *arguments], stdout=subprocess.PIPE, text=True)


def test_of_several_processes_one_downloads_and_all_get_the_file(pexels: PexelsStandIn, tmp_path: Path):
    pexels.faults.add("files", Fault(bytes_per_second=1_000_000))
    processes = [fetch_in_process(pexels, tmp_path) for _ in range(3)]
    answers = [process.communicate(timeout=30)[0].split() for process in processes]
    assert sorted(answer[1] for answer in answers) == ["False", "False", "True"]
    assert len({answer[0] for answer in answers}) == 1
    assert len([request for request in pexels.requests if request.where == "files"]) == 1
    assert all("Authorization" not in request.headers for request in pexels.requests if request.where == "files")


def test_after_a_kill_in_the_middle_the_next_fetch_resumes(pexels: PexelsStandIn, source: PexelsSource):
    pexels.faults.add("files", Fault(bytes_per_second=400_000))
    process = fetch_in_process(pexels, source.cache.folder)
    path = source.cache.path_for("pexels-857195")
    part = path.with_name(path.name + ".part")
    deadline = time.monotonic() + 30
    while not part.exists() or part.stat().st_size < 200_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not path.exists()
    pexels.requests.clear()
    video = source.fetch(857195)
    assert video.path.read_bytes() == rendered("drift")[0].files[0].read_bytes()
    (request,) = (request for request in pexels.requests if request.where == "files")
    assert int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")) >= 200_000


def test_a_video_without_an_mp4_file_is_told(source: PexelsSource, pexels: PexelsStandIn):
    headers = {"Authorization": API_KEY, "User-Agent": "test"}
    video = requests.get(f"{pexels.root}/v1/videos/videos/857195", headers=headers, timeout=5).json()
    video["video_files"] = [file for file in video["video_files"] if file["width"] is None]
    pexels.faults.add("api", Fault(status=200, body=json.dumps(video).encode()))
    with pytest.raises(NoUsableFile, match=r"video 857195 .* has no mp4 file .* choose another video"):
        source.fetch(857195)
    assert list(source.cache.folder.iterdir()) == []
