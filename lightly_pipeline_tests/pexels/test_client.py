"""The client against the stand-in over HTTP: what it finds, what it survives, and how it says that it cannot."""

import json
import logging
import random
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from urllib3.response import HTTPResponse

from lightly_pipeline.pexels import (
    BlockedUserAgent,
    MalformedAnswer,
    MissingKey,
    PexelsClient,
    PexelsError,
    PexelsUnavailable,
    QuotaExceeded,
    RefusedRequest,
    UnknownVideo,
    WrongKey,
)
from lightly_pipeline.pexels.connection import LONGEST_WAIT_SECONDS, _BoundedRetry, new_session
from lightly_pipeline.sandbox.pexels import Fault, PexelsStandIn
from lightly_pipeline_tests.clips import FOOTAGE_CACHE, rendered
from lightly_pipeline_tests.pexels.conftest import API_KEY, client_of


def test_a_video_is_found_by_its_id(client: PexelsClient, pexels: PexelsStandIn):
    video = client.video(857195)
    assert (video.id, video.width, video.height, video.duration) == (857195, 854, 480, 5)
    assert video.user.name == "Ada Sandbox"
    assert requests.get(video.url, headers={"User-Agent": "test"}, timeout=5).status_code == 200
    (request,) = (request for request in pexels.requests if request.path.startswith("/v1/"))
    assert request.path == "/v1/videos/videos/857195?page=1&per_page=15"
    assert request.headers["User-Agent"].startswith("lightly-pipeline/")


def test_listings_are_paged(client: PexelsClient, pexels: PexelsStandIn):
    pages = [client.popular(page=page, per_page=3) for page in (1, 2, 3)]
    assert [page.has_next for page in pages] == [True, True, False]
    assert [video.id for page in pages for video in page.videos] == list(pexels.library)
    assert {page.total for page in pages} == {len(pexels.library)}
    assert client.popular(page=9).videos == []


def test_search_words_arrive_as_they_are(client: PexelsClient, pexels: PexelsStandIn):
    assert [video.id for video in client.search("slide show").videos] == [6981411]
    assert client.search("a&page=2 #?%").videos == []
    assert "query=a%26page%3D2+%23%3F%25" in pexels.requests[-1].path


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(status=429), Fault(drop=True), Fault(status=500)])
def test_failures_that_pass_are_waited_out(client: PexelsClient, pexels: PexelsStandIn, fault: Fault):
    pexels.faults.add("api", fault, times=3)
    assert client.video(857195).id == 857195


def test_retry_after_is_honoured(client: PexelsClient, pexels: PexelsStandIn):
    pexels.faults.add("api", Fault(status=429, headers={"Retry-After": "1"}))
    began = time.monotonic()
    client.video(857195)
    assert time.monotonic() - began >= 1


def test_no_server_can_make_it_wait_for_long():
    answer = HTTPResponse(status=429, headers={"Retry-After": "86400"})
    assert _BoundedRetry().get_retry_after(answer) == LONGEST_WAIT_SECONDS


def raised(call: Callable[[], object]) -> PexelsError:
    with pytest.raises(PexelsError) as caught:
        call()
    return caught.value


def always(status: int, **headers: str) -> Fault:
    return Fault(status=status, headers=headers)


PAGE = {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("fault", "error", "transient", "says"),
    [
        (always(429, **{"Retry-After": "0"}), QuotaExceeded, True, "quota is used up"),
        (always(503), PexelsUnavailable, True, "HTTP 503 in each of 5 attempts"),
        (Fault(drop=True), PexelsUnavailable, True, "check the network and PEXELS_API_ROOT"),
        (Fault(status=403, headers=PAGE, body=b"<html>"), BlockedUserAgent, False, "user agent 'lightly-pipeline/"),
        (Fault(status=401, headers=PAGE, body=b"<html>"), BlockedUserAgent, False, "another network"),
        (always(400), RefusedRequest, False, "HTTP 400 when asked for video 857195"),
        (always(302, Location="https://example.com/"), RefusedRequest, False, "redirect that is not followed"),
        (Fault(status=200, body=b"<html>hello"), MalformedAnswer, False, "no JSON document"),
        (Fault(status=200, body=b'{"id": 857195, "url": '), MalformedAnswer, False, "no JSON document"),
        (Fault(status=200, body=b"[1]"), MalformedAnswer, False, "no JSON object"),
        (Fault(status=200, body=b"{}"), MalformedAnswer, False, "video 857195"),
        (Fault(status=200, body=b'{"id": 857195, "url": "u", "width": "wide"}'), MalformedAnswer, False, "width"),
        (Fault(status=200, body=b'{"id": 857195, "entries": 1, "__class__": 2}'), MalformedAnswer, False, "video"),
    ],
)
def test_every_refusal_is_a_sentence_that_names_the_thing_and_never_the_key(
    client: PexelsClient,
    pexels: PexelsStandIn,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    error: type[PexelsError],
    transient: bool,
    says: str,
):
    caplog.set_level(logging.DEBUG)
    pexels.faults.add("api", fault, times=5)
    failure = raised(lambda: client.video(857195))
    assert type(failure) is error
    assert failure.transient is transient
    assert says in str(failure)
    assert str(failure).endswith(".")
    told = "".join(traceback.format_exception(failure)) + caplog.text + repr(client) + repr(vars(client))
    assert API_KEY not in told


def test_a_missing_a_wrong_key_and_an_unknown_id_are_told_apart(pexels: PexelsStandIn, client: PexelsClient):
    assert "set PEXELS_API_KEY" in str(raised(lambda: PexelsClient("  ")))
    assert isinstance(raised(lambda: PexelsClient("")), MissingKey)
    wrong = raised(lambda: client_of(pexels, "guess").video(857195))
    assert isinstance(wrong, WrongKey)
    assert "check PEXELS_API_KEY" in str(wrong)
    assert "guess" not in str(wrong)
    unknown = raised(lambda: client.video(12345))
    assert isinstance(unknown, UnknownVideo)
    assert "no video 12345" in str(unknown)


def test_a_default_user_agent_is_told_from_a_wrong_key(pexels: PexelsStandIn):
    """Since 2024 Pexels answers default agents with 403, which many took for a bad key."""
    naive = PexelsClient(API_KEY, root=pexels.root, session=requests.Session())
    assert isinstance(raised(lambda: naive.popular()), BlockedUserAgent)


def test_an_address_at_which_nobody_listens_is_named():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        root = f"http://127.0.0.1:{unused.getsockname()[1]}"
    client = PexelsClient("key", root=root, session=new_session(backoff_seconds=0.01))
    failure = raised(lambda: client.popular())
    assert isinstance(failure, PexelsUnavailable)
    assert f"at {root} (" in str(failure)
    assert "refused" in str(failure).lower()


def test_a_server_that_does_not_answer_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        root = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = PexelsClient("key", root=root, session=new_session(backoff_seconds=0.01), timeout=(0.2, 0.2))
        began = time.monotonic()
        assert isinstance(raised(lambda: client.popular()), PexelsUnavailable)
        assert time.monotonic() - began < 5


def test_a_redirect_never_carries_the_key_to_another_host(client: PexelsClient, pexels: PexelsStandIn):
    with PexelsStandIn(cache=FOOTAGE_CACHE) as other:
        location = other.root.replace("127.0.0.1", "localhost") + "/v1/videos/popular"
        for status in (301, 302, 307, 308):
            pexels.faults.add("api", always(status, Location=location))
            assert isinstance(raised(lambda: client.popular()), RefusedRequest)
        assert not other.requests


def test_a_netrc_entry_does_not_replace_the_key(client: PexelsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert client.video(857195).id == 857195


def test_one_odd_entry_does_not_spoil_a_page(
    client: PexelsClient, pexels: PexelsStandIn, caplog: pytest.LogCaptureFixture
):
    good = json.loads(requests_of(pexels))
    good["videos"][1] = {"id": "nothing else"}
    pexels.faults.add("api", Fault(status=200, body=json.dumps(good).encode()))
    page = client.popular()
    assert len(page.videos) == len(good["videos"]) - 1
    assert "Skipped a video" in caplog.text


def requests_of(pexels: PexelsStandIn) -> str:
    headers = {"Authorization": API_KEY, "User-Agent": "test"}
    return requests.get(f"{pexels.root}/v1/videos/popular", headers=headers, timeout=5).text


@pytest.mark.parametrize("body", [b'{"videos": 5}', b'{"videos": [1]}', b'{"per_page": 0}', b'{"total_results": null}'])
def test_a_listing_that_is_none_is_malformed(client: PexelsClient, pexels: PexelsStandIn, body: bytes):
    pexels.faults.add("api", Fault(status=200, body=body))
    assert isinstance(raised(lambda: client.popular()), MalformedAnswer)


class TestDiscover:
    def test_finds_different_videos_at_random_and_the_same_for_the_same_seed(self, client: PexelsClient):
        found = [
            [video.id for video in client.discover(3, random.Random(seed), lambda video_id: False)] for seed in range(8)
        ]
        assert all(len(set(ids)) == 3 for ids in found)
        assert len({tuple(ids) for ids in found}) > 4
        assert found[0] == [video.id for video in client.discover(3, random.Random(0))]

    def test_leaves_out_what_is_excluded(self, client: PexelsClient, pexels: PexelsStandIn):
        known = set(list(pexels.library)[:-2])
        found = client.discover(5, random.Random(1), lambda video_id: video_id in known)
        assert {video.id for video in found} == set(pexels.library) - known
        assert client.discover(5, random.Random(1), lambda video_id: True) == []

    def test_looks_at_the_duration_itself(self, client: PexelsClient):
        every = client.popular().videos
        short = {video.id for video in every if video.duration <= 4}
        assert 0 < len(short) < len(every)
        found = client.discover(100, random.Random(1), max_duration=4)
        assert {video.id for video in found} == short
        assert all(video.duration > 4 for video in client.discover(100, random.Random(1), min_duration=5))

    def test_draws_from_all_pages_in_few_requests(self, tmp_path: Path):
        (clip,) = rendered("return")
        for number in range(900):
            (tmp_path / f"{number}.mp4").symlink_to(clip.files[1])
        with PexelsStandIn(tmp_path, cache=FOOTAGE_CACHE, api_key=API_KEY) as standin:
            client = client_of(standin)
            order = {video_id: place for place, video_id in enumerate(standin.library)}
            places = [order[client.discover(1, random.Random(seed))[0].id] for seed in range(6)]
            assert len({place // 80 for place in places}) > 2
            standin.requests.clear()
            assert client.discover(5, random.Random(1), lambda video_id: True) == []
            assert len(standin.requests) <= 10
