"""Keeps what the embedded S3 stores over a restart of the sandbox, and its memory small meanwhile.

Each object is one file in `<state>/s3/buckets/<bucket>/`: a line of JSON (key, ETag, metadata, …) and then its bytes.
It is written before the request that stores the object is answered, beside its place, and renamed into it, so that what
S3 has acknowledged is there after a crash, whole. Nothing is ever changed in place; an object that is written again
gets a new file. moto holds objects in memory; once its file is there, an object's bytes are read from it.

Saved are the current versions of objects with metadata and tags. Bucket settings (versioning, notifications, …), older
versions and unfinished multipart uploads are not.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto.core.utils import unix_time, utcfromtimestamp
from moto.s3.models import FakeKey

from lightly_pipeline.sandbox.aws.objects import FileBytes

logger = logging.getLogger(__name__)

_CHUNK = 1024 * 1024
# A request that has looked an object up may still be about to read the file of one that was replaced.
_GRACE_SECONDS = 10.0
_ATTRIBUTES = (
    "_etag",
    "_storage_class",
    "checksum_algorithm",
    "checksum_value",
    "checksum_type",
    "checksum_parts",
    "website_redirect_location",
    "encryption",
)


@dataclass(frozen=True)
class _Saved:
    """An object that has been saved: `key` is moto's own object, which a write to the same key replaces."""

    key: Any
    head: bytes
    path: Path


class BucketStore:
    """The files of the buckets of one moto S3 backend, under `folder`; may be used from any thread."""

    def __init__(self, backend: Any, folder: Path, region: str, max_bytes: int) -> None:
        self._backend = backend
        self._folder = folder
        self._region = region
        self._max_bytes = max_bytes
        self._open = False
        self._saved: dict[tuple[str, str], _Saved] = {}
        self._replaced: deque[tuple[float, Path]] = deque()
        # One object is saved by one thread at a time; different ones mostly do not wait for each other.
        self._locks = [threading.Lock() for _ in range(64)]
        self.notices: list[str] = []

    def open(self) -> None:
        """Restore what was saved."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._drop_oldest()
        for folder in sorted(self._folder.iterdir()):
            if folder.is_dir():
                self._restore_bucket(urllib.parse.unquote(folder.name), folder)
        # Only now: before everything is restored, what is missing in moto must not be taken for deleted.
        self._open = True

    def save(self, bucket: str, name: str) -> None:
        """A request that may have written or deleted this object has been carried out: bring its file up to date."""
        self._remove_replaced(_GRACE_SECONDS)
        found = self._backend.buckets.get(bucket)
        if found is None or not name:
            self.save_all()
            return
        with self._locks[hash((bucket, name)) % len(self._locks)]:
            self._save_one(found, name)

    def save_all(self) -> None:
        """Make the files agree with everything that moto holds: for what is not about one object."""
        if not self._open:
            return
        known = dict(self._backend.buckets)
        for bucket in known.values():
            self._folder_of(bucket.name).mkdir(exist_ok=True)
        for place, saved in list(self._saved.items()):
            bucket = known.get(place[0])
            if bucket is None or bucket.keys.get(place[1]) is not saved.key:
                with self._locks[hash(place) % len(self._locks)]:
                    self._save_one(bucket, place[1]) if bucket is not None else self._forget(place)
        for bucket in known.values():
            # dict's own keys(): one step for the interpreter, nobody comes in between.
            for name in list(dict.keys(bucket.keys)):
                if (bucket.name, name) not in self._saved:
                    with self._locks[hash((bucket.name, name)) % len(self._locks)]:
                        self._save_one(bucket, name)
        names = {self._folder_of(name).name for name in known}
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Save what is not saved (nothing, unless a request was cut off). Nobody may write any more."""
        self.save_all()
        self._open = False
        self._remove_replaced(0.0)

    # Saving.

    def _save_one(self, bucket: Any, name: str) -> None:
        place = (bucket.name, name)
        key = bucket.keys.get(name)
        if not isinstance(key, FakeKey):
            # Deleted, or hidden by a delete marker.
            self._forget(place)
            return
        try:
            head = json.dumps(self._head(key)).encode() + b"\n"
            saved = self._saved.get(place)
            if saved is not None and saved.key is key and saved.head == head:
                return
            path = self._write(key, head, self._folder_of(bucket.name), keep_versions=bucket.is_versioned)
        except OSError as error:
            self._notice(f"{bucket.name}/{name} could not be saved and is gone after a restart: {error}")
            return
        except (ValueError, RuntimeError):
            # Another request has just replaced it (its buffer is closed) or is still giving it metadata (its dict
            # changes), and will come here itself.
            return
        self._forget(place)
        self._saved[place] = _Saved(key, head, path)

    def _forget(self, place: tuple[str, str]) -> None:
        saved = self._saved.pop(place, None)
        if saved is not None:
            # Not at once: a request may have looked the object up and be about to read the file.
            self._replaced.append((time.monotonic(), saved.path))

    def _folder_of(self, bucket: str) -> Path:
        return self._folder / urllib.parse.quote(bucket, safe="")

    def _write(self, key: Any, head: bytes, folder: Path, *, keep_versions: bool) -> Path:
        folder.mkdir(exist_ok=True)
        # The time in the name tells which of two is newer, should a crash leave both.
        name = f"{hashlib.sha256(str(key.name).encode()).hexdigest()[:32]}-{time.time_ns():020d}"
        arriving, path = folder / f"{name}.arriving", folder / f"{name}.object"
        try:
            with key.lock:
                with arriving.open("wb") as file:
                    file.write(head)
                    key._value_buffer.seek(0)
                    while chunk := key._value_buffer.read(_CHUNK):
                        file.write(chunk)
                arriving.replace(path)
                if not keep_versions:
                    before, key._value_buffer = key._value_buffer, FileBytes(path, len(head))
                    before.close()
        finally:
            arriving.unlink(missing_ok=True)
        return path

    def _head(self, key: Any) -> dict[str, Any]:
        return {
            "key": key.name,
            "size": key.size,
            "modified": unix_time(key.last_modified),
            "metadata": dict(key.metadata),
            "tags": self._backend.tagger.get_tag_dict_for_resource(key.arn),
            **{name: getattr(key, name) for name in _ATTRIBUTES},
        }

    def _remove_replaced(self, grace: float) -> None:
        with contextlib.suppress(IndexError):
            while time.monotonic() - self._replaced[0][0] >= grace:
                self._replaced.popleft()[1].unlink(missing_ok=True)

    # Restoring.

    def _restore_bucket(self, name: str, folder: Path) -> None:
        if name not in self._backend.buckets:
            self._backend.create_bucket(name, self._region)
        bucket = self._backend.buckets[name]
        # By the time in the names, so that the newest of two for one key comes last.
        for path in sorted(folder.iterdir(), key=lambda path: path.stem.rpartition("-")[2]):
            if path.suffix != ".object":
                path.unlink(missing_ok=True)
                continue
            read = _read_head(path)
            if read is None:
                self._notice(f"{path} is no whole object and was removed.")
                path.unlink(missing_ok=True)
                continue
            head, line = read
            key = self._restored_key(bucket, head, FileBytes(path, len(line)))
            before = self._saved.get((name, head["key"]))
            if before is not None:
                before.path.unlink(missing_ok=True)
            bucket.keys.setlist(head["key"], [key])
            self._saved[name, head["key"]] = _Saved(key, line, path)

    def _restored_key(self, bucket: Any, head: dict[str, Any], data: FileBytes) -> Any:
        key = FakeKey(
            head["key"],
            b"",
            account_id=bucket.account_id,
            region_name=self._region,
            bucket_name=bucket.name,
            version_id="null",
        )
        key._value_buffer.close()
        key._value_buffer = data
        key.contentsize = head["size"]
        key.last_modified = utcfromtimestamp(head["modified"])
        key.set_metadata(head["metadata"], replace=False)
        for name in _ATTRIBUTES:
            setattr(key, name, head[name])
        if head["tags"]:
            self._backend.tagger.tag_resource(
                key.arn, [{"Key": name, "Value": value} for name, value in head["tags"].items()]
            )
        return key

    # Size.

    def _drop_oldest(self) -> None:
        """Keep the newest folders of objects (two levels: `output_dir/<key>`) that fit, as one belongs together."""
        groups: dict[tuple[str, ...], _Group] = {}
        for path, head in self._heads():
            group = groups.setdefault((path.parent.name, *head["key"].split("/")[:2]), _Group())
            group.paths.append(path)
            group.size += path.stat().st_size
            group.newest = max(group.newest, head["modified"])
        total = sum(group.size for group in groups.values())
        if total <= self._max_bytes:
            return
        dropped = 0
        for group in sorted(groups.values(), key=lambda group: group.newest):
            if total <= self._max_bytes:
                break
            for path in group.paths:
                path.unlink(missing_ok=True)
            total -= group.size
            dropped += len(group.paths)
        self._notice(
            f"The sandbox's bucket was larger than {self._max_bytes / 1024**3:.1f} GiB: its {dropped} oldest objects "
            f"were dropped. `lightly-pipeline sandbox --reset` empties it."
        )

    def _heads(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in self._folder.glob("*/*.object"):
            read = _read_head(path)
            if read is not None:
                yield path, read[0]

    def _notice(self, sentence: str) -> None:
        self.notices.append(sentence)
        logger.warning("%s", sentence)


class _Group:
    """Objects that belong together."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.size = 0
        self.newest = 0.0


def _read_head(path: Path) -> tuple[dict[str, Any], bytes] | None:
    """The head of an object's file and the line it is; None for a file that is not whole."""
    with contextlib.suppress(OSError, ValueError, KeyError), path.open("rb") as file:
        line = file.readline()
        head = json.loads(line)
        if os.fstat(file.fileno()).st_size == len(line) + head["size"]:
            return head, line
    return None
