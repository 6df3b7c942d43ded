"""The cache of downloaded videos on this host: `<folder>/<key>/<key>.mp4`, and `video.json` with what it is.

Bounded in size: the least recently used entries go first, but never one that a process holds. A hold is a shared
kernel lock on the entry's folder, so that it ends with its process, however that ends.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

_ENTRY = "video.json"
_LOCK = ".lock"
_GRAVE = ".evicted-"
_BLOCK = 1024 * 1024


class VideoRecord(BaseModel):
    """What is known of a cached video: its content, its origin, and the choice that led to this file."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    bytes: int
    mtime_ns: int
    width: int
    height: int
    codec: str
    seconds: float
    fps: float | None
    page_url: str
    creator: str
    creator_url: str
    licence: str
    link: str
    max_height: int


class Hold:
    """Keeps an entry from being evicted until it is released, or for as long as it lives."""

    def __init__(self, descriptor: int):
        self._descriptor: int | None = descriptor

    def lock(self) -> os.stat_result:
        """Wait until nobody evicts the folder; the folder that is locked then."""
        assert self._descriptor is not None  # noqa: S101 - locked once, before it is released
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        return os.fstat(self._descriptor)

    def release(self) -> None:
        """From now on the entry may be evicted. Harmless when done before."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


class VideoCache:
    """Videos by key in a folder of at most `max_bytes`; what is held may exceed that. Methods raise OSError."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder = folder.expanduser()
        self.max_bytes = max_bytes

    def path_for(self, key: str) -> Path:
        """Where the video of that key is, or will be."""
        if not key or key.startswith(".") or "/" in key or "\0" in key:
            raise ValueError(f"{key!r} is not a video key.")
        return self.folder / key / f"{key}.mp4"

    def hold(self, key: str) -> Hold:
        """Make the entry's folder if need be, and keep it until the returned object is gone."""
        entry = self.path_for(key).parent
        while True:
            entry.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                hold = Hold(os.open(entry, os.O_RDONLY | os.O_DIRECTORY))
                # Between opening and locking, an eviction may have taken the folder away.
                if os.path.samestat(hold.lock(), os.stat(entry)):
                    return hold

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[None]:
        """One process at a time may fill an entry, which it holds; others wait here."""
        with (self.path_for(key).parent / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read(self, key: str) -> VideoRecord | None:
        """The record of a held entry whose file is what the record says, or None; marks it as used."""
        path = self.path_for(key)
        sidecar = path.with_name(_ENTRY)
        try:
            record = VideoRecord.model_validate_json(sidecar.read_bytes())
            status = path.stat()
        except (FileNotFoundError, ValidationError):
            return None
        if status.st_size != record.bytes:
            return None
        if status.st_mtime_ns != record.mtime_ns and _sha256(path) != record.sha256:
            return None
        os.utime(sidecar)
        return record

    def write(self, key: str, record: VideoRecord) -> None:
        """Record what the file of a held entry is, and make room if the cache has grown too large."""
        sidecar = self.path_for(key).with_name(_ENTRY)
        scratch = sidecar.with_name(f".{_ENTRY}.{os.getpid()}")
        scratch.write_text(record.model_dump_json(indent=2))
        scratch.replace(sidecar)
        self.make_room()

    def make_room(self) -> list[str]:
        """Evict the least recently used entries that nobody holds until the cache fits; the keys that went."""
        for grave in self.folder.glob(f"{_GRAVE}*"):
            # An eviction that was killed, or one that another process is about to finish.
            shutil.rmtree(grave, ignore_errors=True)
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        evicted = []
        for _, size, path in entries:
            if total <= self.max_bytes:
                break
            if self._evict(path):
                total -= size
                evicted.append(path.name)
        return evicted

    def remove_if_empty(self, key: str) -> None:
        """Remove the folder of an entry into which nothing has come, unless somebody holds it."""
        entry = self.path_for(key).parent
        if entry.is_dir() and {path.name for path in entry.iterdir()} <= {_LOCK}:
            self._evict(entry)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When each entry was used last, how large it is, and its folder."""
        for path in self.folder.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                continue
            used, size = 0.0, 0
            with contextlib.suppress(FileNotFoundError):  # another process evicts it just now
                for file in path.iterdir():
                    status = file.stat()
                    used, size = max(used, status.st_mtime), size + status.st_size
                yield used, size, path

    def _evict(self, entry: Path) -> bool:
        try:
            descriptor = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            grave = Path(tempfile.mkdtemp(prefix=_GRAVE, dir=self.folder))
            # First out of sight in one step, so that nobody ever sees half an entry.
            entry.rename(grave / entry.name)
            shutil.rmtree(grave, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            os.close(descriptor)
        return True


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
