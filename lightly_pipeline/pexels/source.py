"""Videos from Pexels as files on this host: resolve the id, choose the file, download it, remember what it is."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lightly_pipeline.pexels.cache import Hold, VideoCache, VideoRecord
from lightly_pipeline.pexels.client import PexelsClient
from lightly_pipeline.pexels.download import DownloadedVideo, download
from lightly_pipeline.pexels.errors import CacheUnusable, NotAVideo, TooLarge
from lightly_pipeline.pexels.hosts import AllowedHosts
from lightly_pipeline.pexels.models import LICENCE, PexelsVideo, VideoFile, choose_file, rank_files


@dataclass(frozen=True)
class CachedVideo:
    """A whole and playable video in the cache, which keeps it for as long as this object lives.

    `seconds` and `fps` are what the file says of itself; for attribution there are the video's page, its creator and
    the licence.
    """

    id: int
    path: Path
    sha256: str
    bytes: int
    width: int
    height: int
    codec: str
    seconds: float
    fps: float | None
    page_url: str
    creator: str
    creator_url: str
    licence: str
    downloaded: bool
    hold: Hold = field(repr=False, compare=False)


class PexelsSource:
    """Fetches videos by id into a cache; files come from `allowed_hosts`, up to `max_height` and `max_bytes`."""

    def __init__(
        self,
        client: PexelsClient,
        cache: VideoCache,
        *,
        allowed_hosts: AllowedHosts,
        max_height: int,
        max_bytes: int,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.client = client
        self.cache = cache
        self._allowed_hosts = allowed_hosts
        self._max_height, self._max_bytes = max_height, max_bytes
        self._sleep = sleep

    def fetch(self, video_id: int) -> CachedVideo:
        """The video, from the cache or from Pexels. Raises PexelsErrors.

        Of several processes that ask for the same video one downloads it, and the others wait for it.
        """
        key = f"pexels-{video_id}"
        try:
            hold = self.cache.hold(key)
            try:
                return self._fetch(key, video_id, hold)
            except BaseException:
                hold.release()
                self.cache.remove_if_empty(key)
                raise
        except OSError as error:
            raise CacheUnusable(
                f"The video cache {self.cache.folder} cannot be used ({error.strerror or error}): grant access there, "
                f"or set LIGHTLY_VIDEO_CACHE to another folder."
            ) from error

    def _fetch(self, key: str, video_id: int, hold: Hold) -> CachedVideo:
        record = self._cached(key)
        if record is not None:
            return self._video(video_id, record, hold, downloaded=False)
        with self.cache.writing(key):
            record = self._cached(key)
            if record is not None:
                return self._video(video_id, record, hold, downloaded=False)
            record = self._download(key, self.client.video(video_id))
            self.cache.write(key, record)
        return self._video(video_id, record, hold, downloaded=True)

    def _cached(self, key: str) -> VideoRecord | None:
        record = self.cache.read(key)
        # Under another limit another file would have been chosen.
        return record if record is not None and record.max_height == self._max_height else None

    def _download(self, key: str, video: PexelsVideo) -> VideoRecord:
        choose_file(video, self._max_height)
        too_large: TooLarge | None = None
        for file in rank_files(video, self._max_height):
            try:
                return self._record(video, file, self._download_file(key, file))
            except TooLarge as error:
                # That may have been the largest of several; the first message tells of the one that was wanted.
                too_large = too_large or error
            except NotAVideo as error:
                raise NotAVideo(f"Pexels video {video.id} ({video.url}) cannot be used: {error}") from error
        assert too_large is not None  # noqa: S101 - choose_file saw that there is a file
        raise too_large

    def _download_file(self, key: str, file: VideoFile) -> DownloadedVideo:
        return download(
            file.link,
            self.cache.path_for(key),
            allowed_hosts=self._allowed_hosts,
            max_bytes=self._max_bytes,
            declared_bytes=file.size,
            sleep=self._sleep,
        )

    def _record(self, video: PexelsVideo, file: VideoFile, downloaded: DownloadedVideo) -> VideoRecord:
        seen = downloaded.probe
        return VideoRecord(
            sha256=downloaded.sha256,
            bytes=downloaded.bytes,
            mtime_ns=downloaded.path.stat().st_mtime_ns,
            width=seen.width,
            height=seen.height,
            codec=seen.codec,
            seconds=seen.seconds if seen.seconds is not None else float(video.duration),
            fps=seen.fps,
            page_url=video.url,
            creator=video.user.name,
            creator_url=video.user.url,
            licence=LICENCE,
            link=file.link,
            max_height=self._max_height,
        )

    def _video(self, video_id: int, record: VideoRecord, hold: Hold, *, downloaded: bool) -> CachedVideo:
        facts = record.model_dump(exclude={"mtime_ns", "link", "max_height"})
        path = self.cache.path_for(f"pexels-{video_id}")
        return CachedVideo(id=video_id, path=path, downloaded=downloaded, hold=hold, **facts)
