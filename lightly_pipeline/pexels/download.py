"""Download of a file: in constant memory, from allowed hosts only, whole or not at all.

An attempt that breaks off is resumed where the server still has the same file, one that fails in another way that may
pass is repeated. Length and content are looked at before the file gets its final name; how it gets there, and what
happens to a part that a killed download left behind, is in `part.py`.
"""

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import requests
import urllib3.exceptions

from lightly_pipeline.pexels.connection import LONGEST_WAIT_SECONDS, USER_AGENT, cause
from lightly_pipeline.pexels.errors import (
    BlockedUserAgent,
    BrokenDownload,
    CacheUnusable,
    NotAVideo,
    PexelsUnavailable,
    RefusedRequest,
    TooLarge,
)
from lightly_pipeline.pexels.hosts import AllowedHosts
from lightly_pipeline.pexels.part import Part, PartOf
from lightly_pipeline.pexels.probe import VideoProbe, probe

_BLOCK = 64 * 1024
_REDIRECTS = 5
# An attempt that brought at least so much more of the file does not count as a failed one.
_PROGRESS_BYTES = 1024 * 1024
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
_NO_SUCH_RANGE = 416


@dataclass(frozen=True)
class DownloadedVideo:
    """A file that is whole and opens as video."""

    path: Path
    sha256: str
    bytes: int
    probe: VideoProbe


def download(
    link: str,
    target: Path,
    *,
    allowed_hosts: AllowedHosts,
    max_bytes: int,
    declared_bytes: int | None = None,
    session: requests.Session | None = None,
    timeout: tuple[float, float] = (10.0, 30.0),
    deadline_seconds: float = 3600.0,
    attempts: int = 5,
    sleep: Callable[[float], None] = time.sleep,
) -> DownloadedVideo:
    """Download `link` to `target`, in an existing folder, in place of what is there.

    `declared_bytes` is the size by the API, if that tells. At most `attempts` in a row that bring nothing are made,
    and none after `deadline_seconds`. Two processes may download to the same target: the second waits. Raises
    ForbiddenHost, TooLarge, NotAVideo, RefusedRequest, BlockedUserAgent, PexelsUnavailable, BrokenDownload and
    CacheUnusable; after the last two, what has arrived so far is kept for the next call.
    """
    allowed_hosts.require(link)
    if declared_bytes is not None and declared_bytes > max_bytes:
        raise TooLarge(_too_large(link, f"{declared_bytes} bytes by the API", max_bytes))
    with contextlib.ExitStack() as stack:
        if session is None:
            session = stack.enter_context(requests.Session())
            session.headers["User-Agent"] = USER_AGENT
        try:
            part = stack.enter_context(Part.of(target))
            ends = time.monotonic() + deadline_seconds
            transfer = _Transfer(link, part, allowed_hosts, max_bytes, declared_bytes, session, timeout, ends)
            return transfer.run(attempts, sleep)
        except OSError as error:
            raise CacheUnusable(
                f"{target} cannot be written ({error.strerror or error}): free space or grant access there, or set "
                f"LIGHTLY_VIDEO_CACHE to another folder."
            ) from error


@dataclass(frozen=True)
class _Transfer:
    link: str
    part: Part
    hosts: AllowedHosts
    max_bytes: int
    declared: int | None
    session: requests.Session
    timeout: tuple[float, float]
    ends: float

    def run(self, attempts: int, sleep: Callable[[float], None]) -> DownloadedVideo:
        failed = 0
        while True:
            before = self.part.size
            try:
                return self._attempt()
            except (BrokenDownload, PexelsUnavailable) as error:
                failed = 1 if self.part.size >= before + _PROGRESS_BYTES else failed + 1
                pause = _pause(error, failed)
                if failed >= attempts or time.monotonic() + pause > self.ends:
                    raise
                sleep(pause)

    def _attempt(self) -> DownloadedVideo:
        known = self.part.belongs_to()
        have = self.part.size if known and known.link == self.link and known.validator else 0
        with self._answer(have, known.validator if known else None) as response:
            if response.status_code == _NO_SUCH_RANGE:
                self.part.clear()
                raise BrokenDownload(f"{self.link} has become shorter while it was downloaded: try again.")
            if response.status_code == 206:
                total = _range_total(response, have)
                if known is None or total is None or total != known.total:
                    self.part.clear()
                    raise BrokenDownload(
                        f"The server of {self.link} answered with another range than it was asked for."
                    )
            else:
                have, total = 0, _length(response)
            self._require_acceptable(response, total)
            if not have:
                self.part.restart(PartOf(self.link, _validator(response), total))
            digest = self.part.digest()
            for block in self._body(response, have):
                digest.update(block)
                self.part.append(block)
        size = self._whole(total)
        try:
            seen = probe(self.part.path, name=self.link)
        except NotAVideo as error:
            self.part.clear()
            if have:
                raise BrokenDownload(f"{error} It was resumed, and may have changed in between: try again.") from error
            raise
        self.part.publish()
        return DownloadedVideo(self.part.target, digest.hexdigest(), size, seen)

    @contextlib.contextmanager
    def _answer(self, begin: int, validator: str | None) -> Iterator[requests.Response]:
        """The answer with the whole file (200) or its rest from `begin` (206), behind allowed redirects; or 416."""
        url = self.link
        # Compressed, the length would be another, and a video is not made smaller.
        headers = {"Accept-Encoding": "identity"}
        if begin and validator:
            headers |= {"Range": f"bytes={begin}-", "If-Range": validator}
        for _ in range(_REDIRECTS + 1):
            try:
                response = self.session.get(
                    url, headers=headers, stream=True, timeout=self.timeout, allow_redirects=False
                )
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise PexelsUnavailable(f"{url} could not be reached ({cause(error)}): try again later.") from error
            with response:
                location = response.headers.get("Location") if 300 <= response.status_code < 400 else None
                if location is None:
                    if not (begin and response.status_code == _NO_SUCH_RANGE):
                        _require_success(response, url)
                    yield response
                    return
            url = urljoin(url, location)
            self.hosts.require(url)
        raise RefusedRequest(f"{self.link} redirects more than {_REDIRECTS} times: choose another video.")

    def _require_acceptable(self, response: requests.Response, total: int | None) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise BrokenDownload(f"The server of {self.link} sent {encoding} data, which it was not asked for.")
        if total is not None and total > self.max_bytes:
            self.part.clear()
            raise TooLarge(_too_large(self.link, f"{total} bytes", self.max_bytes))

    def _body(self, response: requests.Response, size: int) -> Iterator[bytes]:
        try:
            for block in response.raw.stream(_BLOCK, decode_content=False):
                size += len(block)
                if size > self.max_bytes:
                    self.part.clear()
                    raise TooLarge(_too_large(self.link, "more than that", self.max_bytes))
                yield block
                if time.monotonic() > self.ends:
                    raise BrokenDownload(f"{self.link} did not arrive in time, {size} bytes did: try again later.")
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise BrokenDownload(f"{self.link} broke off ({cause(error)}): try again later.") from error

    def _whole(self, total: int | None) -> int:
        """The size of what has arrived, if it is all of it."""
        size = self.part.size
        if total is not None and size != total:
            if size > total:
                self.part.clear()
            raise BrokenDownload(f"{self.link} arrived with {size} of {total} bytes: try again later.")
        if self.declared is not None and size != self.declared:
            self.part.clear()
            raise BrokenDownload(
                f"{self.link} has {size} bytes where Pexels declares {self.declared}: try again later, or choose "
                f"another video."
            )
        return size


def _require_success(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status in _MAY_PASS:
        after = response.headers.get("Retry-After", "")
        raise PexelsUnavailable(
            f"{url} could not be downloaded now (HTTP {status}): try again later.",
            retry_after=float(after) if after.isdigit() else None,
        )
    if status in (401, 403) and "html" in response.headers.get("Content-Type", ""):
        raise BlockedUserAgent(
            f"The server of {url} turned this program away (HTTP {status} with a web page): it blocks the user agent "
            f"{response.request.headers.get('User-Agent')!r} or this network; try from another network."
        )
    raise RefusedRequest(
        f"{url} cannot be downloaded (HTTP {status}): the link may have expired; run again to ask for a new one."
    )


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _range_total(response: requests.Response, begin: int) -> int | None:
    """The whole file's size, by the answer to a request for all from `begin`; None if it answers another one."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    if not match or int(match[1]) != begin or int(match[2]) + 1 != int(match[3]):
        return None
    return int(match[3])


def _validator(response: requests.Response) -> str | None:
    """What tells the server later on whether it still has this file: a strong ETag, or a date."""
    etag: str = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    modified: str | None = response.headers.get("Last-Modified")
    return modified


def _pause(error: BrokenDownload | PexelsUnavailable, failed: int) -> float:
    """Seconds until the next attempt: as the server asks, else doubling from half a second, by chance up to double."""
    asked = error.retry_after if isinstance(error, PexelsUnavailable) else None
    seconds = 0.5 * 2 ** (failed - 1) * random.uniform(1, 2) if asked is None else asked  # noqa: S311
    return min(seconds, LONGEST_WAIT_SECONDS)


def _too_large(link: str, size: str, max_bytes: int) -> str:
    return (
        f"{link} is too large ({size}, at most {max_bytes} are allowed): raise PEXELS_MAX_BYTES, lower "
        f"PEXELS_MAX_HEIGHT, or choose another video."
    )
