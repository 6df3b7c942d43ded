"""Find videos on Pexels and download them: pypexels behind a thin adapter, and a careful download.

`PexelsSource.fetch` is the whole way from an id to a playable file in the cache; the parts are here for those who
need one of them.
"""

from lightly_pipeline.pexels.cache import VideoCache, VideoRecord
from lightly_pipeline.pexels.client import PexelsClient
from lightly_pipeline.pexels.download import DownloadedVideo, download
from lightly_pipeline.pexels.errors import (
    BlockedUserAgent,
    BrokenDownload,
    CacheUnusable,
    ForbiddenHost,
    MalformedAnswer,
    MissingKey,
    NotAVideo,
    NoUsableFile,
    PexelsError,
    PexelsUnavailable,
    QuotaExceeded,
    RefusedRequest,
    TooLarge,
    UnknownVideo,
    WrongKey,
)
from lightly_pipeline.pexels.hosts import AllowedHosts
from lightly_pipeline.pexels.models import PexelsVideo, VideoFile, VideoPage, choose_file, rank_files
from lightly_pipeline.pexels.probe import VideoProbe, probe
from lightly_pipeline.pexels.source import CachedVideo, PexelsSource

__all__ = [
    "AllowedHosts",
    "BlockedUserAgent",
    "BrokenDownload",
    "CacheUnusable",
    "CachedVideo",
    "DownloadedVideo",
    "ForbiddenHost",
    "MalformedAnswer",
    "MissingKey",
    "NoUsableFile",
    "NotAVideo",
    "PexelsClient",
    "PexelsError",
    "PexelsSource",
    "PexelsUnavailable",
    "PexelsVideo",
    "QuotaExceeded",
    "RefusedRequest",
    "TooLarge",
    "UnknownVideo",
    "VideoCache",
    "VideoFile",
    "VideoPage",
    "VideoProbe",
    "VideoRecord",
    "WrongKey",
    "choose_file",
    "download",
    "probe",
    "rank_files",
]
