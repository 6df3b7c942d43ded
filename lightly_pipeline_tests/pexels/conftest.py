"""A Pexels stand-in for the tests of this folder, and ways to it that do not wait long between attempts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightly_pipeline.pexels import AllowedHosts, PexelsClient, PexelsSource, VideoCache
from lightly_pipeline.pexels.connection import new_session
from lightly_pipeline.sandbox.pexels import PexelsStandIn
from lightly_pipeline_tests.clips import FOOTAGE_CACHE, rendered

API_KEY = "563492ad6f91700001000001-secret"


def client_of(standin: PexelsStandIn, api_key: str = API_KEY) -> PexelsClient:
    return PexelsClient(api_key, root=standin.root, session=new_session(backoff_seconds=0.01), timeout=(5.0, 5.0))


def source_of(
    standin: PexelsStandIn, folder: Path, *, max_height: int = 1080, max_bytes: int = 10**9, cache_bytes: int = 10**10
) -> PexelsSource:
    return PexelsSource(
        client_of(standin),
        VideoCache(folder, cache_bytes),
        allowed_hosts=AllowedHosts.parse(standin.file_hosts),
        max_height=max_height,
        max_bytes=max_bytes,
        sleep=lambda seconds: None,
    )


@pytest.fixture(scope="session")
def _running() -> Iterator[PexelsStandIn]:
    rendered("drift", "return", "portrait")
    with PexelsStandIn(cache=FOOTAGE_CACHE, api_key=API_KEY) as standin:
        yield standin


@pytest.fixture
def pexels(_running: PexelsStandIn) -> Iterator[PexelsStandIn]:
    _running.requests.clear()
    yield _running
    _running.faults.clear()


@pytest.fixture
def client(pexels: PexelsStandIn) -> PexelsClient:
    return client_of(pexels)


@pytest.fixture
def source(pexels: PexelsStandIn, tmp_path: Path) -> PexelsSource:
    return source_of(pexels, tmp_path / "cache")
