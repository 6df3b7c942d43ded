"""What the stand-in offers: the videos of a folder, or the sandbox's own footage.

Ids, order and titles depend on the videos' names and content alone, so that they are the same in every run; as on
Pexels, an id never comes to mean another video. A folder's files are offered as they are, unreadable ones included
(what becomes of those is what a user wants to see), and under a name that ends in `.mp4`, as on Pexels; readers of
video go by the content.
"""

import contextlib
import functools
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error

from lightly_pipeline.pexels.probe import ONLY_THIS_FILE
from lightly_pipeline.sandbox import footage

VIDEO_SUFFIXES = frozenset(
    (
        *(".avi", ".flv", ".hevc", ".m4v", ".mkv", ".mov", ".mp4", ".ogv", ".webm", ".wmv"),
        *(".3gp", ".m2ts", ".mpeg", ".mpg", ".mts", ".ts", ".vob"),
    )
)


_SAMPLE = 64 * 1024


class NoVideos(ValueError):
    """A folder has no video to offer; the message names it and what would count as one."""


@dataclass(frozen=True)
class Rendition:
    """One file of a video. `path` may not exist before `Library.file` has been asked for it."""

    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class Offer:
    """One video: `seconds` and `fps` are 0 and None for a file that does not open."""

    id: int
    title: str
    creator: str
    width: int
    height: int
    seconds: float
    fps: Fraction | None
    renditions: tuple[Rendition, ...]

    @property
    def slug(self) -> str:
        """The title as it stands in the address of the video's page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "video"


class Library:
    """The videos on offer, in a fixed order."""

    def __init__(self, ids: dict[int, Path | footage.Clip], footage_folder: Path):
        self._sources = ids
        self._footage_folder = footage_folder
        self._rendering = threading.Lock()

    @classmethod
    def of_folder(cls, folder: Path, footage_folder: Path) -> "Library":
        """Every video file below `folder`; raises NoVideos and NotADirectoryError."""
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder: name the folder that holds your videos.")
        paths = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith(".")
        )
        if not paths:
            raise NoVideos(
                f"{folder} holds no video: put files into it that end in one of "
                f"{', '.join(sorted(VIDEO_SUFFIXES))}, or name another folder."
            )
        ids: dict[int, Path | footage.Clip] = {}
        for path in paths:
            ids[_free_id(f"{path.relative_to(folder).as_posix()}\0{_fingerprint(path)}", ids)] = path
        return cls(ids, footage_folder)

    @classmethod
    def of_footage(cls, footage_folder: Path) -> "Library":
        """The sandbox's own clips, each rendered into `footage_folder` when its file is first asked for."""
        return cls({clip.id: clip for clip in footage.clips(footage_folder)}, footage_folder)

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sources)

    def offer(self, video_id: int) -> Offer:
        """The video of that id; KeyError if there is none."""
        source = self._sources[video_id]
        if isinstance(source, Path):
            return _offer_of_file(video_id, source, source.stat().st_mtime_ns)
        return Offer(
            id=video_id,
            title=source.title,
            creator=source.creator,
            width=source.width,
            height=source.height,
            seconds=float(source.frames / source.fps),
            fps=source.fps,
            renditions=tuple(Rendition(path, *(int(side) for side in path.stem.split("x"))) for path in source.files),
        )

    def file(self, video_id: int, rendition: int) -> Path:
        """The file of that rendition, rendered first where it is footage; KeyError or IndexError if none."""
        source = self._sources[video_id]
        if isinstance(source, Path):
            return (source,)[rendition]
        with self._rendering:
            (clip,) = footage.footage(self._footage_folder, source.name)
        return clip.files[rendition]


def _fingerprint(path: Path) -> str:
    """What tells a file from another of the same name without reading all of it: its size, beginning and end."""
    digest = hashlib.sha256()
    with contextlib.suppress(OSError), path.open("rb") as file:  # one that cannot be read is offered all the same
        size = file.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        for begin in (0, max(size - _SAMPLE, 0)):
            file.seek(begin)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def _free_id(identity: str, taken: dict[int, Path | footage.Clip]) -> int:
    attempt = 0
    while True:
        digest = hashlib.sha256(f"{identity}\0{attempt}".encode()).digest()
        video_id = 10_000_000 + int.from_bytes(digest[:8], "big") % 90_000_000
        if video_id not in taken:
            return video_id
        attempt += 1


@functools.lru_cache(maxsize=4096)
def _offer_of_file(video_id: int, path: Path, _mtime_ns: int) -> Offer:
    # Pexels knows the size of every video; a file that does not open gets the commonest one.
    width, height, seconds, fps = 1280, 720, 0.0, None
    try:
        with av.open(str(path), metadata_errors="ignore", options=ONLY_THIS_FILE) as container:
            stream = container.streams.video[0]
            # None where no decoder is known, and then the stream has no dimensions either.
            if (stream.codec_context or None) is not None:
                width, height = stream.width or width, stream.height or height
            fps = stream.average_rate
            if container.duration:
                seconds = container.duration / av.time_base
    except (av.error.FFmpegError, IndexError, OSError, ValueError):
        pass  # offered all the same: the download and its check say what is wrong with it
    return Offer(
        id=video_id,
        title=path.stem.replace("_", " ").replace("-", " ") or path.name,
        creator="Sandbox",
        width=width,
        height=height,
        seconds=seconds,
        fps=fps,
        renditions=(Rendition(path, width, height),),
    )
