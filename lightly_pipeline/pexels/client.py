"""The Pexels API: pypexels' page and model classes over a connection of our own.

pypexels (2020) knows the endpoints, the paging and the models; it sends no user agent that Pexels accepts
today, has neither timeout nor retry, and asks at a root that is deprecated. `Connection` replaces just
that part of it.
"""

import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import requests
from pydantic import ValidationError
from pypexels.src.models import Video
from pypexels.src.single_video import SingleVideo
from pypexels.src.videos_popular import VideosPopular
from pypexels.src.videos_search import VideosSearch

from lightly_pipeline.pexels.connection import Connection, new_session
from lightly_pipeline.pexels.errors import MalformedAnswer, MissingKey
from lightly_pipeline.pexels.models import PexelsVideo, VideoPage, rank_files

_log = logging.getLogger(__name__)

ROOT = "https://api.pexels.com"
MAX_PER_PAGE = 80
# Discovery looks at the first pages of the popular videos only, and asks for few of them: 200 requests an
# hour are all that Pexels grants.
_DISCOVERY_PAGES = 100
_DISCOVERY_REQUESTS = 10


class PexelsClient:
    """Videos on Pexels, by id, by popularity, by search and by chance.

    `timeout` are the seconds to wait for a connection and then for each part of an answer. A request that
    fails in a way that may pass (429, 5xx, no connection) is repeated, with growing pauses or after the
    `Retry-After` that Pexels names, at most half a minute each. All methods raise `PexelsError`s.
    """

    def __init__(
        self,
        api_key: str,
        *,
        root: str = ROOT,
        session: requests.Session | None = None,
        timeout: tuple[float, float] = (10.0, 30.0),
    ):
        if not api_key.strip():
            raise MissingKey(
                "There is no Pexels API key: ask for one at https://www.pexels.com/api and set PEXELS_API_KEY."
            )
        self._connection = Connection(api_key.strip(), root.rstrip("/"), session or new_session(), timeout)

    def __repr__(self) -> str:
        return f"PexelsClient(root={self._connection.root!r})"

    def video(self, video_id: int) -> PexelsVideo:
        """The video with this id; UnknownVideo if there is none."""
        what = f"video {video_id}"
        with _as_documented(what):
            entry = _Single(self._connection, what, video_id=video_id).entries
        return _checked(entry, what)

    def popular(self, page: int = 1, per_page: int = MAX_PER_PAGE) -> VideoPage:
        """A page of the videos that are popular now; empty beyond the last one."""
        return self._listing(_Popular, f"page {page} of the popular videos", page=page, per_page=per_page)

    def search(self, query: str, page: int = 1, per_page: int = MAX_PER_PAGE) -> VideoPage:
        """A page of the videos that Pexels finds for these words."""
        return self._listing(_Search, f"videos of {query!r}", query=query, page=page, per_page=per_page)

    def discover(
        self,
        count: int,
        rng: random.Random,
        exclude: Callable[[int], bool] = lambda video_id: False,
        *,
        min_duration: int = 0,
        max_duration: int | None = None,
    ) -> list[PexelsVideo]:
        """Up to `count` different popular videos, picked at random among those not excluded.

        Only videos with a downloadable file and of min_duration … max_duration seconds are taken; Pexels'
        own filters do not work reliably, so that this is looked at here. At most ten requests are made;
        fewer videos than asked for are found when nearly all are excluded.
        """
        first = self.popular(page=1)
        pages = range(1, min(-(-first.total // MAX_PER_PAGE), _DISCOVERY_PAGES) + 1)
        found: dict[int, PexelsVideo] = {}
        for number in rng.sample(pages, min(len(pages), _DISCOVERY_REQUESTS - 1)):
            videos = first.videos if number == 1 else self.popular(page=number).videos
            for video in rng.sample(videos, len(videos)):
                if len(found) == count:
                    return list(found.values())
                if (
                    video.duration >= min_duration
                    and (max_duration is None or video.duration <= max_duration)
                    and rank_files(video, max_height=0)
                    and not exclude(video.id)
                ):
                    found[video.id] = video
        return list(found.values())

    def _listing(self, page_class: Callable[..., Any], what: str, **arguments: Any) -> VideoPage:
        with _as_documented(what):
            page = page_class(self._connection, what, **arguments)
            entries = list(page.entries)
        videos = []
        for entry in entries:
            try:
                videos.append(_checked(entry, what))
            except MalformedAnswer as error:
                # One odd entry does not make the others unusable.
                _log.warning("Skipped a video. %s", error)
        return VideoPage(videos, page.page, page.per_page, page.total_results, bool(page.has_next))


class _OurConnection:
    """Mixed into pypexels' pages: they ask through a `Connection`, at the current root."""

    def __init__(self, connection: Connection, what: str, **arguments: Any):
        self._connection, self._what = connection, what
        # pypexels appends /videos/… to this.
        self.api_root = f"{connection.root}/v1"
        super().__init__(api_key="", **arguments)  # type: ignore[call-arg]

    def _request(
        self, url: str, method: str, query_params: dict[str, Any] | None = None, data: Any = None
    ) -> requests.Response:
        address: str = self._sanitized_url(url)  # type: ignore[attr-defined]
        response = self._connection.get(address, query_params, self._what)
        try:
            body = response.json()
        except ValueError as error:
            raise MalformedAnswer(_malformed(self._what, "it is no JSON document")) from error
        if not isinstance(body, dict):
            raise MalformedAnswer(_malformed(self._what, "it is no JSON object"))
        self._status_code, self._headers, self._body = response.status_code, response.headers, body
        return response


class _Popular(_OurConnection, VideosPopular):  # type: ignore[misc]
    pass


class _Search(_OurConnection, VideosSearch):  # type: ignore[misc]
    pass


class _Single(_OurConnection, SingleVideo):  # type: ignore[misc]
    def __init__(self, connection: Connection, what: str, video_id: int):
        super().__init__(connection, what, video_id=video_id)


@contextlib.contextmanager
def _as_documented(what: str) -> Iterator[None]:
    """pypexels takes each answer for what it should be: what it stumbles over is a malformed one."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise MalformedAnswer(_malformed(what, f"{type(error).__name__}: {error}")) from error


def _checked(entry: Video | None, what: str) -> PexelsVideo:
    try:
        return PexelsVideo.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the video"
        raise MalformedAnswer(_malformed(what, f"{place}: {first['msg']}")) from error


def _malformed(what: str, why: str) -> str:
    return (
        f"Pexels' answer for {what} is not what its documentation says ({why}): "
        f"check PEXELS_API_ROOT, or look for a newer release of lightly-pipeline."
    )
