"""Where a datapool's objects are: a folder, or a prefix in S3. Five operations, the same for both.

An object appears whole or not at all. Its `tag` changes whenever its content is replaced.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from lightly_pipeline.worker.datapool.part import DatapoolError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SPOOL_BYTES = 32 << 20


@dataclass(frozen=True)
class Stored:
    """One object: its name relative to the store, its size, what changes with its content, and when that was."""

    name: str
    tag: str
    size: int
    modified: float


class Store(Protocol):
    """Objects under one root."""

    def list(self, folder: str = "") -> Iterator[Stored]:
        """Objects directly in `folder` ("" or "name/"), by name."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A context with the object as a seekable file; raises FileNotFoundError."""

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
    url = urlsplit(uri)
    if url.scheme == "s3":
        if not url.netloc:
            raise DatapoolError(f"'{uri}' names no bucket: write s3://bucket/prefix.")
        if client is None:
            client = _client()
        return S3Store(client, url.netloc, url.path.strip("/"))
    if url.scheme == "file":
        return FolderStore(Path(url.path))
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
        where = self.root / folder
        if not where.is_dir():
            return
        with os.scandir(where) as entries:
            files = sorted((entry for entry in entries if entry.is_file()), key=lambda entry: entry.name)
        for entry in files:
            if entry.name.endswith(".partial"):
                continue
            status = entry.stat()
            tag = f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
            yield Stored(folder + entry.name, tag, status.st_size, status.st_mtime)

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The file."""
        with (self.root / name).open("rb") as file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Write beside, flush to disk, rename over."""
        target = self.root / name
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
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The object, in memory up to 32 MiB and in a temporary file beyond."""
        from botocore.exceptions import ClientError

        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as file:
            try:
                self.client.download_fileobj(self.bucket, self.prefix + name, file)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in {"404", "NoSuchKey"}:
                    raise FileNotFoundError(self.locate(name)) from error
                raise DatapoolError(f"S3 did not give {self.locate(name)}: {error}.") from error
            file.seek(0)
            yield file

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
