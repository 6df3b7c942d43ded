"""Keeps what the embedded S3 stores over a restart of the sandbox, and its memory small meanwhile.

Each object is one file under `<state>/s3/<bucket>/`: a line of JSON (key, ETag, metadata, …) and then its bytes. It is
written beside its place and renamed into it, so that a file is whole or not there; nothing is ever changed in place, an
object that is written again gets a new file. moto holds objects in memory; once its file is there, an object's bytes
are read from the file, so that memory holds only what has not been saved yet.

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto.core.utils import unix_time, utcfromtimestamp
from moto.s3.models import FakeKey

from lightly_pipeline.sandbox.aws.objects import FileBytes
from lightly_pipeline.sandbox.aws.writes import Writes

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2
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


@dataclass
class _Saved:
    """An object that has been saved: `key` is moto's own object, which a write to the same key replaces.

    None when its tags have changed, so that it is to be saved again.
    """

    key: Any | None
    path: Path


class BucketStore:
    """Saves the buckets of one moto S3 backend under `folder`, soon after each change and at the end."""

    def __init__(self, backend: Any, folder: Path, region: str, writes: Writes, max_bytes: int) -> None:
        self._backend = backend
        self._writes = writes
        self._folder = folder
        self._region = region
        self._max_bytes = max_bytes
        self._saved: dict[tuple[str, str], _Saved] = {}
        # Objects that a request which may still be busy with them has put there, and the number of the next request
        # when they were first seen.
        self._fresh: dict[tuple[str, str], tuple[Any, int]] = {}
        self._replaced: list[tuple[float, Path]] = []
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.notices: list[str] = []

    def open(self) -> None:
        """Restore what was saved, then save what changes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._drop_oldest()
        for folder in sorted(self._folder.iterdir()):
            if folder.is_dir():
                self._restore_bucket(urllib.parse.unquote(folder.name), folder)
        # Only now: before everything is restored, what is missing in moto must not be taken for deleted.
        self._thread = threading.Thread(target=self._keep_saving, name="bucket store", daemon=True)
        self._thread.start()

    def touch(self) -> None:
        """Something may have changed."""
        self._changed.set()

    def tags_changed(self, bucket: str, name: str) -> None:
        """An object's tags have changed, which its key does not show."""
        saved = self._saved.get((bucket, name))
        if saved is not None:
            saved.key = None

    def close(self) -> None:
        """Save what is not saved yet. Nobody may write any more."""
        if self._thread is None:
            return
        self._closing.set()
        self._changed.set()
        self._thread.join()
        self._thread = None
        self._save(final=True)
        self._remove_replaced(0.0)

    # Saving.

    def _keep_saving(self) -> None:
        while not self._closing.is_set():
            self._changed.wait(None if not self._replaced else _GRACE_SECONDS)
            self._changed.clear()
            began = time.monotonic()
            complete = self._save(final=False)
            self._remove_replaced(_GRACE_SECONDS)
            if not complete:
                self._changed.set()
            # A large bucket takes longer to look through: then look less often.
            self._closing.wait(max(_PAUSE_SECONDS, 5 * (time.monotonic() - began)))

    def _save(self, *, final: bool) -> bool:
        """Bring the files up to date; whether every object could be saved."""
        complete = True
        present = set()
        for bucket in list(self._backend.buckets.values()):
            folder = self._folder / urllib.parse.quote(bucket.name, safe="")
            folder.mkdir(exist_ok=True)
            # dict's own items(): one step for the interpreter, nobody comes in between.
            for name, versions in list(dict.items(bucket.keys)):
                key = versions[-1] if versions else None
                if not isinstance(key, FakeKey):
                    continue
                present.add((bucket.name, name))
                saved = self._saved.get((bucket.name, name))
                if saved is not None and saved.key is key:
                    continue
                if not final and not self._is_finished((bucket.name, name), key):
                    complete = False
                    continue
                try:
                    path = self._write(key, folder, keep_versions=bucket.is_versioned)
                except OSError as error:
                    complete = False
                    self._notice(f"{bucket.name}/{name} could not be saved and is gone after a restart: {error}")
                    continue
                except ValueError:
                    # Its buffer is closed: it has just been deleted or replaced.
                    continue
                if saved is not None:
                    self._replaced.append((time.monotonic(), saved.path))
                self._saved[bucket.name, name] = _Saved(key, path)
        for place in self._saved.keys() - present:
            self._replaced.append((time.monotonic(), self._saved.pop(place).path))
        self._remove_deleted_buckets()
        return complete

    def _is_finished(self, place: tuple[str, str], key: Any) -> bool:
        """Whether the request that put this object there has ended.

        moto puts an object among the others first and gives it metadata, tags and ETag (from a buffer that saving
        replaces, without a lock) afterwards.
        """
        fresh = self._fresh.get(place)
        if fresh is None or fresh[0] is not key:
            fresh = self._fresh[place] = (key, self._writes.next_number)
        if self._writes.oldest_running < fresh[1] or key._etag is None:
            return False
        del self._fresh[place]
        return True

    def _write(self, key: Any, folder: Path, *, keep_versions: bool) -> Path:
        head = json.dumps(self._head(key)).encode() + b"\n"
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
        _ = key.etag
        return {
            "key": key.name,
            "size": key.size,
            "modified": unix_time(key.last_modified),
            "metadata": dict(key.metadata),
            "tags": self._backend.tagger.get_tag_dict_for_resource(key.arn),
            **{name: getattr(key, name) for name in _ATTRIBUTES},
        }

    def _remove_replaced(self, grace: float) -> None:
        now = time.monotonic()
        old = [path for since, path in self._replaced if now - since >= grace]
        self._replaced = [(since, path) for since, path in self._replaced if now - since < grace]
        for path in old:
            path.unlink(missing_ok=True)

    def _remove_deleted_buckets(self) -> None:
        known = {urllib.parse.quote(name, safe="") for name in self._backend.buckets}
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

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
            head, offset = read
            key = self._restored_key(bucket, head, FileBytes(path, offset))
            before = self._saved.get((name, head["key"]))
            if before is not None:
                before.path.unlink(missing_ok=True)
            bucket.keys.setlist(head["key"], [key])
            self._saved[name, head["key"]] = _Saved(key, path)

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


def _read_head(path: Path) -> tuple[dict[str, Any], int] | None:
    """The head of an object's file and where its bytes begin; None for a file that is not whole."""
    with contextlib.suppress(OSError, ValueError, KeyError), path.open("rb") as file:
        line = file.readline()
        head = json.loads(line)
        if os.fstat(file.fileno()).st_size == len(line) + head["size"]:
            return head, len(line)
    return None
