"""Where a datapool's objects are: a folder, or a prefix in S3. Five operations, the same for both.

An object appears whole or not at all. Its `tag` changes whenever its content is replaced. What the folder or S3 refuses
is a DatapoolError.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol
from urllib.parse import unquote

from lightly_pipeline.worker.datapool.part import DatapoolError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SPOOL_BYTES = 32 << 20
#: Times that an object is asked for while its transfer breaks off; boto3 repeats only what gets no answer.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Stored:
    """One object: its name relative to the store, its size, what changes with its content, and when that was."""

    name: str
    tag: str
    size: int
    modified: float


@dataclass(frozen=True)
class Opened:
    """An object that is being read: its content as a seekable file, and the tag of exactly this content."""

    file: IO[bytes]
    tag: str


class Store(Protocol):
    """Objects under one root."""

    def list(self, folder: str = "") -> Iterator[Stored]:
        """Objects directly in `folder` ("" or "name/"), by name."""

    def open(self, name: str) -> AbstractContextManager[Opened]:
        """A context with the object; raises FileNotFoundError."""

    def write(self, name: str, content: bytes) -> None:
        """Create or replace the object at once."""

    def delete(self, name: str) -> None:
        """Remove the object; fine when there is none."""

    def prepare(self) -> None:
        """Raise DatapoolError where nothing can be written, as far as that can be told without writing."""

    def locate(self, name: str) -> str:
        """How messages name the object."""


def open_store(uri: str, *, client: S3Client | None = None) -> Store:
    """The store at a folder path, a file:// URL or an s3:// URL (endpoint and credentials as boto3 finds them)."""
    if uri.startswith("s3://"):
        # Not by urlsplit: a key may hold # and ?.
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise DatapoolError(f"'{uri}' names no bucket: write s3://bucket/prefix.")
        if client is None:
            client = _client()
        return S3Store(client, bucket, prefix.strip("/"))
    if uri.startswith("file://"):
        host, _, path = uri.removeprefix("file://").partition("/")
        if host not in ("", "localhost"):
            raise DatapoolError(f"'{uri}' names another machine: write file:///folder.")
        return FolderStore(Path("/" + unquote(path)))
    if "://" in uri:
        raise DatapoolError(f"A datapool cannot be at '{uri}': give a folder or s3://bucket/prefix.")
    return FolderStore(Path(uri))


def _client() -> S3Client:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"max_attempts": 5, "mode": "standard"}))


class FolderStore:
    """Objects as files of a folder on this machine."""

    def __init__(self, root: Path) -> None:
        """The folder need not exist before the first write."""
        self.root = root

    def list(self, folder: str = "") -> Iterator[Stored]:
        """Files directly in `folder`, by name; temporary files of writers are left out."""
        found = []
        with self._explained(folder), suppress(FileNotFoundError), os.scandir(self.root / folder) as entries:
            for entry in entries:
                # Others may remove it meanwhile: then it is as if it had been removed before.
                with suppress(FileNotFoundError):
                    if entry.is_file() and not entry.name.endswith(".partial"):
                        status = entry.stat()
                        found.append(Stored(folder + entry.name, _tag(status), status.st_size, status.st_mtime))
        return iter(sorted(found, key=lambda stored: stored.name))

    @contextmanager
    def open(self, name: str) -> Iterator[Opened]:
        """The file."""
        with self._explained(name):
            file = (self.root / name).open("rb")
        with file:
            yield Opened(file, _tag(os.fstat(file.fileno())))

    def write(self, name: str, content: bytes) -> None:
        """Write beside, flush to disk, rename over."""
        target = self.root / name
        with self._explained(name):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(partial, 0o644)
                os.replace(partial, target)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise

    def delete(self, name: str) -> None:
        """Remove the file."""
        with self._explained(name):
            (self.root / name).unlink(missing_ok=True)

    def prepare(self) -> None:
        """The folder, or the nearest one above it that exists, must be one that can be written."""
        existing = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise DatapoolError(f"The datapool cannot be at {self.root}: {existing} is a file, not a folder.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise DatapoolError(
                f"The datapool at {self.root} cannot be written: no permission in {existing}. Give access, or add "
                "nothing to it with datasource.enable_datapool_update=False."
            )

    def locate(self, name: str) -> str:
        """The path."""
        return str(self.root / name)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DatapoolError(
                f"The datapool at {self.locate(name)} cannot be used: {error.strerror or error}. Make room or give "
                "access there, or name another place."
            ) from error


def _tag(status: os.stat_result) -> str:
    """What changes when a file is replaced."""
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


class S3Store:
    """Objects under a prefix of a bucket."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        """`prefix` without slashes around it; may be empty."""
        self.client, self.bucket = client, bucket
        self.prefix = f"{prefix}/" if prefix else ""

    def list(self, folder: str = "") -> Iterator[Stored]:
        """Objects directly in `folder`, by name, a thousand a request."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + folder, Delimiter="/"
        )
        with self._explained(folder):
            for page in pages:
                for item in page.get("Contents", []):
                    name = item["Key"][len(self.prefix) :]
                    yield Stored(name, item["ETag"].strip('"'), item["Size"], item["LastModified"].timestamp())

    @contextmanager
    def open(self, name: str) -> Iterator[Opened]:
        """The object, in memory up to 32 MiB and in a temporary file beyond."""
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as file:
            with self._explained(name):
                tag = self._get(name, file)
            file.seek(0)
            yield Opened(file, tag)

    def _get(self, name: str, file: IO[bytes]) -> str:
        """Write the object to `file`; its tag. One GET for both: between two requests it may be replaced."""
        from botocore.exceptions import ClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)
                shutil.copyfileobj(answer["Body"], file)
                return answer["ETag"].strip('"')
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in {"404", "NoSuchKey"}:
                    raise FileNotFoundError(self.locate(name)) from error
                raise
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                if attempt == _ATTEMPTS:
                    raise
                file.seek(0)
                file.truncate()
        raise AssertionError("The last attempt returns or raises.")

    def write(self, name: str, content: bytes) -> None:
        """One PUT."""
        with self._explained(name):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=content)

    def delete(self, name: str) -> None:
        """One DELETE."""
        with self._explained(name):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def prepare(self) -> None:
        """Ask for one object: the bucket must be there."""
        with self._explained(""):
            self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)

    def locate(self, name: str) -> str:
        """The s3:// URL."""
        return f"s3://{self.bucket}/{self.prefix}{name}"

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise DatapoolError(
                f"S3 refused the datapool at {self.locate(name)}: {error}. Check that the bucket exists and that "
                "these credentials may list, read, write and delete there."
            ) from error
