"""The stand-in by plain requests: what Pexels does, and what its documentation does not say."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import requests

from lightly_pipeline.sandbox.footage import clips
from lightly_pipeline.sandbox.pexels import Fault, NoVideos, PexelsStandIn, PortTaken
from lightly_pipeline_tests.clips import FOOTAGE_CACHE, rendered

AGENT = {"User-Agent": "test/1"}
KEYED = {**AGENT, "Authorization": "sandbox"}


@pytest.fixture(scope="module")
def running() -> Iterator[PexelsStandIn]:
    with PexelsStandIn(cache=FOOTAGE_CACHE) as standin:
        yield standin


@pytest.fixture
def pexels(running: PexelsStandIn) -> Iterator[PexelsStandIn]:
    yield running
    running.faults.clear()


def get(pexels: PexelsStandIn, path: str, **query: Any) -> dict[str, Any]:
    answer = requests.get(f"{pexels.root}/v1/videos/{path}", query, headers=KEYED, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()


def mp4_link(pexels: PexelsStandIn, video_id: int) -> str:
    files = get(pexels, f"videos/{video_id}")["video_files"]
    return next(file["link"] for file in files if file["link"].endswith(".mp4"))


def test_popular_is_paged_and_links_are_absent_at_the_ends(pexels: PexelsStandIn):
    count = len(pexels.library)
    first = get(pexels, "popular", per_page=3)
    assert (first["page"], first["per_page"], first["total_results"]) == (1, 3, count)
    assert "prev_page" not in first
    pages = [first]
    while "next_page" in pages[-1]:
        pages.append(requests.get(pages[-1]["next_page"], headers=KEYED, timeout=10).json())
    assert len(pages) == -(-count // 3)
    assert all("prev_page" in page for page in pages[1:])
    assert [video["id"] for page in pages for video in page["videos"]] == list(pexels.library)
    assert get(pexels, "popular", page=100)["videos"] == []


def test_no_page_is_longer_than_80(pexels: PexelsStandIn):
    assert get(pexels, "popular", per_page=500)["per_page"] == 80


def test_search_finds_by_title_and_needs_a_query(pexels: PexelsStandIn):
    assert [video["id"] for video in get(pexels, "search", query="slide show")["videos"]] == [6981411]
    assert get(pexels, "search", query="unheard of")["total_results"] == 0
    assert requests.get(f"{pexels.root}/v1/videos/search", headers=KEYED, timeout=10).status_code == 400


def test_a_video_has_the_real_schema_with_its_quirks(pexels: PexelsStandIn):
    videos = [get(pexels, f"videos/{video_id}") for video_id in pexels.library]
    for video in videos:
        assert {"id", "width", "height", "duration", "full_res", "tags", "url", "image", "user"} <= set(video)
        assert isinstance(video["duration"], int)
        assert set(video["user"]) == {"id", "name", "url"}
        (hls,) = (file for file in video["video_files"] if file["link"].endswith(".m3u8"))
        assert hls["file_type"] == "video/mp4"
        assert hls["width"] is hls["height"] is hls["size"] is None
    files = [file for video in videos for file in video["video_files"] if file["width"]]
    assert any("fps" not in file for file in files)
    assert any(isinstance(file.get("fps"), float) for file in files)
    assert any("size" not in file for file in files)
    # Neither the best nor the worst file is reliably the first.
    assert len({video["video_files"][0]["quality"] for video in videos}) > 1
    first = [next(file["width"] for file in video["video_files"] if file["width"]) for video in videos]
    largest_first = [width == video["width"] for width, video in zip(first, videos, strict=True)]
    assert len(set(largest_first)) == 2


def test_it_offers_the_same_in_every_run(pexels: PexelsStandIn, tmp_path: Path):
    def offered(standin: PexelsStandIn) -> str:
        text = str(get(standin, "popular", per_page=80))
        return text.replace(standin.root, "ROOT").replace(standin.file_hosts, "FILES")

    rendered()
    with PexelsStandIn(cache=FOOTAGE_CACHE) as other:
        assert offered(other) == offered(pexels)


@pytest.mark.parametrize("agent", ["python-requests/2.32.0", "Python-urllib/3.11", "curl/8.1", ""])
def test_default_user_agents_get_a_page_from_both_hosts(pexels: PexelsStandIn, agent: str):
    for url in (f"{pexels.root}/v1/videos/popular", mp4_link(pexels, 857195)):
        answer = requests.get(url, headers={**KEYED, "User-Agent": agent}, timeout=10)
        assert answer.status_code == 403
        assert answer.headers["Content-Type"].startswith("text/html")


def test_a_missing_or_wrong_key_and_an_unknown_id_are_told_in_json(pexels: PexelsStandIn):
    url = f"{pexels.root}/v1/videos/popular"
    for headers in (AGENT, {**AGENT, "Authorization": "guess"}):
        answer = requests.get(url, headers=headers, timeout=10)
        assert (answer.status_code, answer.json()["status"]) == (401, 401)
        assert not any(name.startswith("X-Ratelimit") for name in answer.headers)
    missing = requests.get(f"{pexels.root}/v1/videos/videos/1", headers=KEYED, timeout=10)
    assert (missing.status_code, missing.json()["status"]) == (404, 404)


def test_the_quota_is_told_on_success_only(pexels: PexelsStandIn):
    url = f"{pexels.root}/v1/videos/popular"
    pexels.faults.add("api", Fault(status=429, headers={"Retry-After": "7"}))
    refused, answered = (requests.get(url, headers=KEYED, timeout=10) for _ in range(2))
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    assert "X-Ratelimit-Remaining" not in refused.headers
    assert answered.status_code == 200
    assert int(answered.headers["X-Ratelimit-Remaining"]) < int(answered.headers["X-Ratelimit-Limit"])
    assert int(answered.headers["X-Ratelimit-Reset"]) > time.time()


def test_files_are_served_whole_and_in_ranges_with_validators(pexels: PexelsStandIn):
    link = mp4_link(pexels, 857195)
    whole = requests.get(link, headers=AGENT, timeout=30)
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert int(whole.headers["Content-Length"]) == len(whole.content)
    assert "Last-Modified" in whole.headers
    etag = whole.headers["ETag"]
    part = requests.get(link, headers={**AGENT, "Range": "bytes=1000-", "If-Range": etag}, timeout=10)
    assert part.status_code == 206
    assert part.content == whole.content[1000:]
    changed = requests.get(link, headers={**AGENT, "Range": "bytes=1000-", "If-Range": '"old"'}, timeout=10)
    assert (changed.status_code, changed.content) == (200, whole.content)
    beyond = {**AGENT, "Range": f"bytes={len(whole.content)}-"}
    assert requests.get(link, headers=beyond, timeout=10).status_code == 416
    assert requests.head(link, headers=AGENT, timeout=10).headers["Content-Length"] == str(len(whole.content))


def test_each_link_leads_to_the_clip_of_its_size(pexels: PexelsStandIn, tmp_path: Path):
    for file in get(pexels, "videos/3129671")["video_files"]:
        if file["width"]:
            target = tmp_path / "clip.mp4"
            target.write_bytes(requests.get(file["link"], headers=AGENT, timeout=30).content)
            with av.open(str(target)) as container:
                stream = container.streams.video[0]
                assert (stream.width, stream.height) == (file["width"], file["height"])


def test_faults_come_as_often_as_asked_for(pexels: PexelsStandIn):
    link = mp4_link(pexels, 857195)
    size = int(requests.head(link, headers=AGENT, timeout=30).headers["Content-Length"])
    pexels.faults.add("files", Fault(break_off_after=1000))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(link, headers=AGENT, timeout=10)
    pexels.faults.add("files", Fault(drop=True))
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(link, headers=AGENT, timeout=10)
    pexels.faults.add("files", Fault(status=503), times=2)
    codes = [requests.get(link, headers=AGENT, timeout=10).status_code for _ in range(3)]
    assert codes == [503, 503, 200]
    pexels.faults.add("files", Fault(add_length=-10))
    assert len(requests.get(link, headers=AGENT, timeout=10).content) == size - 10
    pexels.faults.add("files", Fault(no_length=True, no_range=True))
    answer = requests.get(link, headers={**AGENT, "Range": "bytes=5-"}, timeout=10)
    assert "Content-Length" not in answer.headers
    assert len(answer.content) == size


def test_stopping_ends_a_slow_answer_at_once():
    with PexelsStandIn(cache=FOOTAGE_CACHE) as standin:
        link = mp4_link(standin, 857195)
        standin.faults.add("files", Fault(bytes_per_second=1000))
        answer = requests.get(link, headers=AGENT, timeout=10, stream=True)
        began = time.monotonic()
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        assert answer.content
    assert time.monotonic() - began < 5


def test_a_folder_is_offered_with_subfolders_and_unreadable_files_but_nothing_else(tmp_path: Path):
    (clip,) = rendered("return")
    folder = tmp_path / "my videos"
    (folder / "sub").mkdir(parents=True)
    (folder / "holiday.mp4").write_bytes(clip.files[1].read_bytes())
    (folder / "sub" / "holiday.mp4").write_bytes(clip.files[0].read_bytes())
    (folder / "broken.MOV").write_text("no video")
    (folder / "empty.webm").touch()
    (folder / "notes.txt").write_text("not offered")
    (folder / ".hidden.mp4").touch()

    def offered() -> dict[str, Any]:
        with PexelsStandIn(folder, cache=tmp_path / "cache") as standin:
            return {
                video["id"]: {
                    requests.get(file["link"], headers=AGENT, timeout=10).content
                    for file in video["video_files"]
                    if file["width"]
                }
                for video in get(standin, "popular")["videos"]
            }

    first = offered()
    assert set().union(*first.values()) == {
        clip.files[1].read_bytes(),
        clip.files[0].read_bytes(),
        b"no video",
        b"",
    }
    assert len(first) == 4
    (folder / "another.mp4").write_bytes(clip.files[1].read_bytes())
    again = offered()
    assert set(first) < set(again), "ids do not depend on what else is in the folder"
    (folder / "another.mp4").write_bytes(clip.files[0].read_bytes())
    assert len(set(again) - set(offered())) == 1, "another video under the same name has another id"


def test_a_title_in_an_unknown_encoding_and_a_playlist_spoil_no_listing(tmp_path: Path):
    (clip,) = rendered("return")
    with av.open(str(tmp_path / "plain.mp4"), "w") as titled, av.open(str(clip.files[1])) as source:
        titled.metadata["title"] = "caf_"
        stream = titled.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                titled.mux(packet)
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "latin.mp4").write_bytes((tmp_path / "plain.mp4").read_bytes().replace(b"caf_", b"caf\xe9"))
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{clip.files[0]}'\n")
    with PexelsStandIn(folder, cache=tmp_path / "cache") as standin:
        sizes = {video["url"].rsplit("/", 2)[1]: video["width"] for video in get(standin, "popular")["videos"]}
    assert {name.partition("-")[0]: width for name, width in sizes.items()} == {
        "latin": clip.width // 4 * 2,
        "list": 1280,
    }


def test_an_empty_folder_a_missing_one_and_a_taken_port_are_told_in_a_sentence(tmp_path: Path):
    with pytest.raises(NoVideos, match="holds no video"):
        PexelsStandIn(tmp_path, cache=tmp_path)
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        PexelsStandIn(tmp_path / "nowhere", cache=tmp_path)
    with PexelsStandIn(cache=tmp_path) as standin:
        port = int(standin.root.rsplit(":", 1)[1])
        with pytest.raises(PortTaken, match=f"Port {port} of 127.0.0.1 .*another port"):
            PexelsStandIn(cache=tmp_path, port=port).start()


def test_starting_renders_nothing(tmp_path: Path):
    with PexelsStandIn(cache=tmp_path) as standin:
        get(standin, "popular")
        assert not any(path.exists() for clip in clips(tmp_path) for path in clip.files)
