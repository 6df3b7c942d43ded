"""The download against the stand-in's file host: broken lines, lying servers, hostile links, killed processes."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightly_pipeline.pexels import (
    AllowedHosts,
    BlockedUserAgent,
    BrokenDownload,
    CacheUnusable,
    DownloadedVideo,
    ForbiddenHost,
    NotAVideo,
    PexelsUnavailable,
    RefusedRequest,
    TooLarge,
    download,
)
from lightly_pipeline.sandbox.pexels import Fault, PexelsStandIn
from lightly_pipeline_tests.clips import FOOTAGE_CACHE, rendered
from lightly_pipeline_tests.pexels.conftest import API_KEY, client_of

MIB = 1024 * 1024


class FileHost:
    """One video of the stand-in, and how to download it into a folder of its own."""

    def __init__(self, standin: PexelsStandIn, content: bytes, folder: Path):
        self.standin, self.content = standin, content
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.target = folder / "video.mp4"
        self.pauses: list[float] = []
        video = client_of(standin).video(next(iter(standin.library)))
        self.link = next(file.link for file in video.video_files if file.width == video.width)
        standin.requests.clear()

    def download(self, **how: Any) -> DownloadedVideo:
        given: dict[str, Any] = {
            "allowed_hosts": AllowedHosts.parse(self.standin.file_hosts),
            "max_bytes": 10**9,
            "sleep": self.pauses.append,
            "timeout": (5.0, 5.0),
        }
        link = how.pop("link", self.link)
        return download(link, self.target, **{**given, **how})

    def fault(self, times: int = 1, **parts: Any) -> None:
        self.standin.faults.add("files", Fault(**parts), times)

    @property
    def ranges(self) -> list[str | None]:
        return [request.headers.get("Range") for request in self.standin.requests]

    @property
    def left(self) -> set[str]:
        return {path.name for path in self.target.parent.iterdir()}


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PexelsStandIn, bytes]]:
    """A clip of 6 MiB: the mp4 box `free` may hold anything, and readers skip it."""
    content = padded(rendered("return")[0].files[0].read_bytes(), 6 * MIB)
    folder = tmp_path_factory.mktemp("videos")
    (folder / "clip.mp4").write_bytes(content)
    with PexelsStandIn(folder, cache=FOOTAGE_CACHE, api_key=API_KEY) as standin:
        yield standin, content


def padded(mp4: bytes, size: int) -> bytes:
    length = size - len(mp4)
    return mp4 + length.to_bytes(4, "big") + b"free" + bytes(length - 8)


@pytest.fixture
def host(big: tuple[PexelsStandIn, bytes], tmp_path: Path) -> Iterator[FileHost]:
    folder = tmp_path / "target"
    folder.mkdir()
    yield FileHost(*big, folder)
    big[0].faults.clear()


def test_a_file_arrives_whole_with_its_digest_and_what_it_is(host: FileHost):
    arrived = host.download(declared_bytes=len(host.content))
    assert arrived.path == host.target
    assert (arrived.sha256, arrived.bytes) == (host.sha256, len(host.content))
    assert host.target.read_bytes() == host.content
    assert (arrived.probe.codec, arrived.probe.width, arrived.probe.height) == ("h264", 640, 480)
    assert host.left == {"video.mp4"}
    (request,) = host.standin.requests
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in request.headers


def test_a_line_that_breaks_off_is_resumed_where_it_broke(host: FileHost):
    host.fault(break_off_after=2 * MIB)
    host.fault(break_off_after=MIB)
    assert host.download().sha256 == host.sha256
    assert host.ranges == [None, f"bytes={2 * MIB}-", f"bytes={3 * MIB}-"]
    assert host.target.read_bytes() == host.content


def test_as_long_as_it_gets_on_there_is_no_limit_to_the_attempts(host: FileHost):
    host.fault(times=5, break_off_after=MIB)
    assert host.download(attempts=2).sha256 == host.sha256


def test_a_server_without_ranges_is_asked_from_the_beginning(host: FileHost):
    host.fault(break_off_after=2 * MIB)
    host.fault(no_range=True)
    assert host.download().sha256 == host.sha256
    assert host.target.read_bytes() == host.content


def test_a_file_that_changed_meanwhile_is_not_joined_to_what_came_before(host: FileHost):
    host.fault(break_off_after=2 * MIB, etag="an-older-one")
    assert host.download().sha256 == host.sha256
    assert host.standin.requests[1].headers["If-Range"] == '"an-older-one"'


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 500}, {"status": 429}, {"drop": True}])
def test_failures_that_pass_are_waited_out_with_growing_pauses(host: FileHost, fault: dict[str, Any]):
    host.fault(times=3, **fault)
    assert host.download().sha256 == host.sha256
    assert len(host.pauses) == 3
    assert all(0.5 * 2**n <= pause <= 2**n for n, pause in enumerate(host.pauses))


def test_retry_after_is_honoured_within_a_bound(host: FileHost):
    host.fault(status=429, headers={"Retry-After": "7"})
    host.fault(status=503, headers={"Retry-After": "86400"})
    host.download()
    assert host.pauses == [7.0, 30.0]


def test_failures_that_stay_end_in_a_sentence_and_leave_nothing(host: FileHost):
    host.fault(times=5, status=503)
    with pytest.raises(PexelsUnavailable, match=r"HTTP 503\): try again later"):
        host.download()
    assert len(host.standin.requests) == 5
    host.fault(status=404)
    with pytest.raises(RefusedRequest, match=r"HTTP 404\): the link may have expired"):
        host.download()
    host.fault(status=403, headers={"Content-Type": "text/html"})
    with pytest.raises(BlockedUserAgent, match="user agent 'lightly-pipeline/"):
        host.download()
    assert host.left == set()


def test_more_announced_than_sent_is_a_broken_download_and_no_file(host: FileHost):
    host.fault(times=10, add_length=1000, no_range=True)
    with pytest.raises(BrokenDownload, match="broke off"):
        host.download(attempts=3)
    assert not host.target.exists()


def test_less_announced_than_declared_is_a_broken_download_and_leaves_nothing(host: FileHost):
    """A proxy that cuts a file and announces the cut length is found out by the API's size alone."""
    host.fault(times=5, add_length=-1000)
    with pytest.raises(BrokenDownload, match=f"{len(host.content) - 1000} bytes where Pexels declares"):
        host.download(declared_bytes=len(host.content))
    assert host.left == set()


def test_a_file_without_length_or_of_odd_declared_size_is_measured(host: FileHost):
    host.fault(no_length=True)
    assert host.download().sha256 == host.sha256
    with pytest.raises(BrokenDownload, match="declares 5"):
        host.download(declared_bytes=5, attempts=2)
    assert host.target.read_bytes() == host.content, "what was there before stays"


def test_compressed_data_is_not_taken_for_the_file(host: FileHost):
    host.fault(times=5, gzip=True)
    with pytest.raises(BrokenDownload, match="sent gzip data"):
        host.download()
    assert host.left == set()


class TestTooLarge:
    SAYS = r"too large \(.*, at most 1000 are allowed\): raise PEXELS_MAX_BYTES"

    def test_by_the_api_is_known_before_anything_is_asked(self, host: FileHost):
        with pytest.raises(TooLarge, match=self.SAYS):
            host.download(max_bytes=1000, declared_bytes=1001)
        assert not host.standin.requests

    def test_by_the_announced_length_is_known_before_anything_is_stored(self, host: FileHost):
        with pytest.raises(TooLarge, match=self.SAYS):
            host.download(max_bytes=1000)
        assert host.left == set()

    def test_without_announcement_ends_at_the_limit(self, host: FileHost):
        host.fault(no_length=True)
        with pytest.raises(TooLarge, match=self.SAYS):
            host.download(max_bytes=1000)
        assert host.left == set()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Please log in</html>",
        b"",
        b"\0" * 5000,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    ],
)
def test_what_is_no_video_never_gets_the_name_of_one(host: FileHost, body: bytes):
    host.fault(status=200, body=body, headers={"Content-Type": "video/mp4"})
    with pytest.raises(NotAVideo, match=rf"{re.escape(host.link)} \({len(body)} bytes\) is not a video"):
        host.download()
    assert host.left == set()


def test_a_truncated_mp4_without_its_index_is_no_video(host: FileHost):
    host.fault(status=200, body=host.content[:400])
    with pytest.raises(NotAVideo, match="damaged, incomplete or something else"):
        host.download()


class TestRedirects:
    def test_within_the_allowed_hosts_are_followed(self, host: FileHost):
        host.fault(status=302, headers={"Location": host.link.split("/", 3)[3].join(["/", ""])})
        host.fault(status=307, headers={"Location": host.link})
        assert host.download().sha256 == host.sha256

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_to_any_other_host_are_not(self, host: FileHost, status: int):
        with PexelsStandIn(cache=FOOTAGE_CACHE) as foreign:
            host.fault(status=status, headers={"Location": f"http://{foreign.file_hosts}/video-files/1/a.mp4"})
            with pytest.raises(ForbiddenHost, match=re.escape(foreign.file_hosts)):
                host.download()
            assert not foreign.requests
        assert host.left == set()

    def test_to_local_files_are_not(self, host: FileHost):
        host.fault(status=302, headers={"Location": "file:///etc/passwd"})
        with pytest.raises(ForbiddenHost):
            host.download()

    def test_that_never_end_are_given_up(self, host: FileHost):
        host.fault(times=20, status=302, headers={"Location": host.link})
        with pytest.raises(RefusedRequest, match="redirects more than 5 times"):
            host.download()


def test_a_link_to_a_foreign_host_is_not_even_asked(host: FileHost):
    with pytest.raises(ForbiddenHost):
        host.download(link=host.link.replace("127.0.0.1", "localhost"))
    assert not host.standin.requests


def test_a_line_that_trickles_is_given_up_in_time_and_resumed_by_the_next_call(host: FileHost):
    host.fault(bytes_per_second=MIB)
    with pytest.raises(BrokenDownload, match="did not arrive in time"):
        host.download(deadline_seconds=0.5)
    assert host.left == {"video.mp4.part", "video.mp4.part.json"}
    assert host.download().sha256 == host.sha256
    assert re.fullmatch(r"bytes=\d{5,}-", host.ranges[-1] or "")
    assert host.left == {"video.mp4"}


def test_a_part_of_another_link_is_dropped(host: FileHost):
    host.fault(break_off_after=MIB)
    with pytest.raises(BrokenDownload):
        host.download(attempts=1)
    assert host.download(link=host.link + "?token=2").sha256 == host.sha256
    assert host.ranges == [None, None]


def test_a_part_whose_bytes_went_bad_does_not_become_the_file(host: FileHost):
    host.fault(break_off_after=MIB)
    with pytest.raises(BrokenDownload):
        host.download(attempts=1)
    part = host.target.with_name("video.mp4.part")
    part.write_bytes(bytes(MIB))
    assert host.download().sha256 == host.sha256


def test_a_part_that_is_longer_than_the_file_is_dropped(host: FileHost):
    host.fault(break_off_after=MIB)
    with pytest.raises(BrokenDownload):
        host.download(attempts=1)
    with host.target.with_name("video.mp4.part").open("ab") as part:
        part.write(bytes(8 * MIB))
    assert host.download().sha256 == host.sha256


def test_a_folder_that_cannot_be_written_to_is_named(host: FileHost):
    host.target = host.target.parent / "missing" / "video.mp4"
    with pytest.raises(CacheUnusable, match=r"missing/video\.mp4 cannot be written .*LIGHTLY_VIDEO_CACHE"):
        host.download()


# A process of its own: link, target, allowed hosts and bytes that it may write are its arguments.
CHILD = """
import resource, sys
from pathlib import Path
from lightly_pipeline.pexels import AllowedHosts, PexelsError, download
link, target, hosts, file_limit = sys.argv[1:]
if int(file_limit):
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_limit),) * 2)
def peak():
    # getrusage would tell the peak of the process that this one was forked from.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else ["VmHWM: 0"]
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
try:
    arrived = download(link, Path(target), allowed_hosts=AllowedHosts.parse(hosts), max_bytes=10**9)
except PexelsError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(arrived.sha256, peak() - before)
"""


def child(host: FileHost, file_limit: int = 0) -> "subprocess.Popen[str]":
    arguments = [host.link, str(host.target), host.standin.file_hosts, str(file_limit)]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_size(path: Path, size: int) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < deadline, f"{path} did not grow"
        time.sleep(0.01)


def test_a_killed_download_leaves_no_half_file_and_the_next_one_resumes(host: FileHost):
    host.fault(bytes_per_second=4 * MIB)
    process = child(host)
    part = host.target.with_name("video.mp4.part")
    wait_for_size(part, MIB)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    process.communicate()
    assert not host.target.exists()
    arrived_before = part.stat().st_size
    assert MIB <= arrived_before < len(host.content)
    assert host.download().sha256 == host.sha256
    assert host.ranges == [None, f"bytes={arrived_before}-"]
    assert host.left == {"video.mp4"}
    assert host.target.read_bytes() == host.content


def test_the_lock_of_a_killed_process_keeps_nobody_waiting(host: FileHost):
    host.fault(bytes_per_second=MIB)
    first, second = child(host), None
    wait_for_size(host.target.with_name("video.mp4.part"), 64 * 1024)
    second = child(host)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    out, err = second.communicate(timeout=20)
    assert out.split()[0] == host.sha256, err


def test_two_processes_that_download_the_same_at_once_both_get_it(host: FileHost):
    both = [child(host) for _ in range(2)]
    answers = [process.communicate(timeout=30) for process in both]
    assert [answer[0].split()[0] for answer in answers] == [host.sha256] * 2, answers
    assert host.left == {"video.mp4"}
    assert host.target.read_bytes() == host.content


def test_a_full_disk_is_told_and_not_kept_full(host: FileHost):
    out, err = child(host, file_limit=2 * MIB).communicate(timeout=30)
    assert not out
    assert re.search(r"CacheUnusable: .*video\.mp4 cannot be written \(File too large\): free space", err), err
    assert host.left == set()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    content = padded(rendered("return")[0].files[1].read_bytes(), 100 * MIB)
    videos, target = tmp_path / "videos", tmp_path / "target"
    videos.mkdir()
    target.mkdir()
    (videos / "clip.mp4").write_bytes(content)
    with PexelsStandIn(videos, cache=FOOTAGE_CACHE, api_key=API_KEY) as standin:
        host = FileHost(standin, content, target)
        out, err = child(host).communicate(timeout=60)
    sha256, kilobytes = out.split()
    assert sha256 == host.sha256, err
    assert 0 < int(kilobytes) < 40 * 1024
