"""Where input comes from: a folder or an S3 prefix, behind one small protocol.

A source lists files and makes one of them available as a local path. Which of them are media is `discover`'s; how
long local copies are kept is `scratch`'s.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from lightly_pipeline.worker.errors import NothingToSelect, OptionError, StorageError
from lightly_pipeline.worker.s3 import S3Address, is_s3, s3_client, s3_errors

if TYPE_CHECKING:
    from boto3.s3.transfer import TransferConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputFile:
    """One file of the input.

    name: path below INPUT with forward slashes, as it appears in lists and frame names. bytes: its size. version:
    text that changes when the content may have (modification time, ETag). location: how the source finds it.
    problem: why it cannot be read; empty where nothing is known to be in the way.
    """

    name: str
    bytes: int
    version: str
    location: str
    problem: str = ""


class Source(Protocol):
    """A place that holds input files."""

    #: Whether `fetch` copies: False where the files are on this machine already.
    copies: bool
    uri: str

    def files(self, leave_out: str) -> Iterator[InputFile]:
        """All files below INPUT, in no order, without those below the place `leave_out` (OUTPUT inside INPUT)."""

    def fetch(self, file: InputFile, folder: Path) -> Path:
        """The file on this machine: where it is, or a copy in `folder`."""

    def read(self, name: str) -> bytes:
        """A small file below INPUT that an option names; OptionError where there is none."""


def open_source(place: str) -> Source:
    """The source at a folder or `s3://` prefix."""
    return S3Source(S3Address.parse(place)) if is_s3(place) else FolderSource(Path(place))


def whole(place: str) -> str:
    """The address of a folder or an `s3://` prefix, whatever folder one is in and however it was written."""
    return place if is_s3(place) else str(Path(place).resolve())


class FolderSource:
    """A folder on this machine."""

    copies = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def files(self, leave_out: str) -> Iterator[InputFile]:
        """All files below the folder; links to folders are not followed."""
        if self.root.is_file():
            raise NothingToSelect(f"INPUT {self.root} is a file: give the folder that holds it.")
        if not self.root.is_dir():
            raise NothingToSelect(f"INPUT {self.root} does not exist: give a folder or an s3:// prefix.")
        omitted = None if is_s3(leave_out) else Path(leave_out).resolve()
        # What is kept of a file finds it from any folder.
        root = self.root.absolute()
        for folder, subfolders, names in os.walk(root, onerror=_unreadable_folder):
            for name in subfolders:
                if (Path(folder) / name).is_symlink():
                    log.warning("%s is a link to a folder: it is not followed.", Path(folder, name))
            if omitted is not None:
                subfolders[:] = [name for name in subfolders if (Path(folder) / name).resolve() != omitted]
            for name in names:
                path = Path(folder, name)
                below = as_utf8(path.relative_to(root).as_posix())
                try:
                    status = path.stat()
                except OSError:
                    # A dangling link or a file that went away: listed with size 0, it is reported as unreadable.
                    yield InputFile(below, 0, "missing", str(path))
                    continue
                version = f"{status.st_mtime_ns}"
                # A pipe would be waited for without end.
                problem = "" if stat.S_ISREG(status.st_mode) else "It is a pipe, a socket or a device, and no file."
                yield InputFile(below, status.st_size, version, str(path), problem)

    def fetch(self, file: InputFile, folder: Path) -> Path:
        """The file itself."""
        del folder
        return Path(file.location)

    def read(self, name: str) -> bytes:
        """A small file below the folder."""
        path = self.root / name
        if path.exists() and not path.is_file():
            raise OptionError(f"{path} is no file: give the name of a file below INPUT.")
        try:
            return path.read_bytes()
        except OSError as error:
            raise OptionError(
                f"{path} cannot be read ({error.strerror}): give the name of a file below INPUT."
            ) from error


class S3Source:
    """A prefix of a bucket."""

    copies = True

    def __init__(self, address: S3Address) -> None:
        self.address = address
        self.uri = address.uri()

    def files(self, leave_out: str) -> Iterator[InputFile]:
        """All objects below the prefix."""
        omitted = S3Address.parse(leave_out) if is_s3(leave_out) else None
        if omitted and self.address.prefix.startswith(omitted.prefix):
            omitted = None  # OUTPUT is INPUT, or holds it
        with s3_errors(f"list {self.uri}"):
            pages = s3_client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.address.bucket, Prefix=self.address.prefix):
                for entry in page.get("Contents", []):
                    key = entry["Key"]
                    name = key.removeprefix(self.address.prefix)
                    if omitted and self.address.bucket == omitted.bucket and key.startswith(omitted.prefix):
                        continue
                    if name and not name.endswith("/"):
                        yield InputFile(name, entry["Size"], entry["ETag"].strip('"'), key)

    def fetch(self, file: InputFile, folder: Path) -> Path:
        """A copy in `folder`, under a name that no key can lead out of it."""
        # With its version: a killed run may have left the copy of an object that was replaced since.
        place = hashlib.sha256(f"{file.name}\n{file.version}".encode()).hexdigest()[:16]
        path = folder / place / PurePosixPath(file.name).name
        if path.exists() and path.stat().st_size == file.bytes:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / "incomplete"
        with s3_errors(f"download {self.address.uri(file.name)}"):
            s3_client().download_file(
                self.address.bucket, file.location, str(partial), Config=_single_stream(file.bytes)
            )
        partial.replace(path)
        return path

    def read(self, name: str) -> bytes:
        """A small object below the prefix."""
        with s3_errors(f"read {self.address.uri(name)}"):
            try:
                answer = s3_client().get_object(Bucket=self.address.bucket, Key=self.address.prefix + name)
            except s3_client().exceptions.NoSuchKey:
                raise OptionError(
                    f"{self.address.uri(name)} does not exist: give the name of a file below INPUT."
                ) from None
            return answer["Body"].read()


def as_text(name: bytes) -> str:
    r"""A name for lists: bytes that are not UTF-8 are written as \xff, so that different names stay different."""
    return name.decode("utf-8", "backslashreplace")


def as_utf8(text: str) -> str:
    """Text in which Python may have kept bytes of a path that are not UTF-8, as `as_text` has them."""
    return as_text(text.encode("utf-8", "surrogateescape"))


def _unreadable_folder(error: OSError) -> None:
    raise StorageError(f"The folder {error.filename} cannot be listed: {error.strerror}.") from error


def _single_stream(size: int) -> "TransferConfig":
    """Ranged parts for large objects only: many short videos need one request each."""
    from boto3.s3.transfer import TransferConfig

    large = 64 * 1024**2
    return TransferConfig(
        multipart_threshold=large, multipart_chunksize=large // 4, max_concurrency=4, use_threads=size > large
    )
