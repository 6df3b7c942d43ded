"""The folders of videos under a prefix of the bucket, seen through listings: which files, and which version of them."""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from lightly_pipeline.storage.bucket import StoredObject, VideoBucket

MOST_FILES = 10_000
"""Files of one folder that are considered; a folder beyond is refused, so that memory stays bounded."""


@dataclass(frozen=True)
class VideoFolder:
    """One folder: its name below the prefix, its media files by key, and whether it holds more than MOST_FILES."""

    name: str
    files: tuple[StoredObject, ...]
    overfull: bool = False

    @property
    def version(self) -> str:
        """A hash over names and ETags: it changes with the content of any file, and costs no download."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.key}\0{file.etag}\0".encode())
        return digest.hexdigest()[:32]

    @property
    def newest(self) -> datetime:
        """When the last of the files was put there, by S3's clock."""
        return max(file.last_modified for file in self.files)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class FolderPage:
    """Some folders, and where the next page begins: `after` is empty when the listing came to its end."""

    folders: list[VideoFolder]
    after: str


def read_folder(bucket: VideoBucket, prefix: str, is_media: Callable[[str], bool]) -> VideoFolder:
    """The media files under `prefix`, which ends in a slash."""
    files = (file for file in bucket.list(prefix) if file.size > 0 and is_media(file.key))
    kept = tuple(itertools.islice(files, MOST_FILES + 1))
    return VideoFolder(prefix.rstrip("/").rpartition("/")[2], kept[:MOST_FILES], len(kept) > MOST_FILES)


def read_folders(
    bucket: VideoBucket, prefix: str, is_media: Callable[[str], bool], *, after: str, objects: int
) -> FolderPage:
    """The folders directly under `prefix` behind the key `after`, looking at about `objects` objects.

    A folder is never cut: one that the bound falls into is left to the next page, unless it is the only one.
    """
    folders: list[VideoFolder] = []
    seen = 0
    for name, members in itertools.groupby(
        bucket.list(prefix, after=after), key=lambda file: file.key[len(prefix) :].partition("/")[0]
    ):
        if seen >= objects:
            return FolderPage(folders, after)
        media: list[StoredObject] = []
        for file in members:
            seen += 1
            after = file.key
            if "/" in file.key[len(prefix) :] and file.size > 0 and is_media(file.key):
                media.append(file)
            if len(media) > MOST_FILES:
                # Nobody reads on: the next page begins behind the last key that this folder can have.
                folders.append(VideoFolder(name, tuple(media[:MOST_FILES]), overfull=True))
                return FolderPage(folders, f"{prefix}{name}/\U0010ffff")
        if media:
            folders.append(VideoFolder(name, tuple(media)))
    return FolderPage(folders, "")
