"""Pexels' answers as typed values, and the rule by which a video's file is chosen.

The fields are Pexels' own, with what its documentation leaves open made explicit: which may be null or
absent.
"""

from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from lightly_pipeline.pexels.errors import NoUsableFile

LICENCE = "Pexels License, https://www.pexels.com/license/"


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True, extra="ignore")


class Creator(_Answer):
    """Who made a video, for attribution."""

    name: str = "unknown"
    url: str = ""


class VideoFile(_Answer):
    """One file of a video. An HLS playlist is listed among the mp4 files, without dimensions.

    `size` is in bytes; like `fps` it is null or absent as often as not.
    """

    id: int
    link: str
    quality: str | None = None
    file_type: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    size: int | None = None

    @property
    def downloadable(self) -> bool:
        """Whether it is a single mp4 file of known dimensions, and no playlist."""
        return (
            self.file_type == "video/mp4"
            and self.quality != "hls"
            and urlsplit(self.link).path.lower().endswith(".mp4")
            and bool(self.width and self.width > 0 and self.height and self.height > 0)
        )


class PexelsVideo(_Answer):
    """One video: `url` is its page, `duration` whole seconds; `video_files` come in no particular order."""

    id: int = Field(gt=0)
    url: str
    width: int
    height: int
    duration: int
    user: Creator = Creator()
    video_files: tuple[VideoFile, ...] = ()


class VideoPage(NamedTuple):
    """One page of a listing; `total` is how many videos all pages hold together, as far as Pexels tells."""

    videos: list[PexelsVideo]
    page: int
    per_page: int
    total: int
    has_next: bool


def rank_files(video: PexelsVideo, max_height: int) -> list[VideoFile]:
    """The video's downloadable files, best first.

    Those up to `max_height` come first, from large to small, then the others from small to large. Height is
    that of the short side, so that a portrait video of 1080x1920 counts as 1080 like its landscape sister.
    Between files of the same dimensions the one whose size is known comes first, then the one with more
    frames per second.
    """

    def short_side(file: VideoFile) -> int:
        return min(file.width or 0, file.height or 0)

    def worth(file: VideoFile) -> tuple[int, int, bool, float, int, int]:
        area = (file.width or 0) * (file.height or 0)
        return short_side(file), area, file.size is not None, file.fps or 0.0, file.size or 0, -file.id

    files = [file for file in video.video_files if file.downloadable]
    fitting = [file for file in files if short_side(file) <= max_height]
    larger = [file for file in files if short_side(file) > max_height]
    return sorted(fitting, key=worth, reverse=True) + sorted(larger, key=worth)


def choose_file(video: PexelsVideo, max_height: int) -> VideoFile:
    """The largest file that fits `max_height`, else the smallest; NoUsableFile if none is an mp4."""
    ranked = rank_files(video, max_height)
    if not ranked:
        raise NoUsableFile(
            f"Pexels video {video.id} ({video.url}) has no mp4 file of known dimensions among its "
            f"{len(video.video_files)} files: choose another video."
        )
    return ranked[0]
