"""A file that is still arriving: `<name>.part` beside its final name, and `<name>.part.json` with what it is part of.

A kernel lock on the part keeps a second process waiting and is gone with the process that held it. The final name
appears by one rename; what a killed process leaves behind is the part, for the next one to resume.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_BLOCK = 1024 * 1024


@dataclass(frozen=True)
class PartOf:
    """What the bytes of a part belong to. Without a validator (ETag or date) they cannot be resumed."""

    link: str
    validator: str | None
    total: int | None


class Part:
    """The part of `target`, locked while `Part.of(target)` is entered. All methods raise OSError as files do."""

    def __init__(self, target: Path, descriptor: int):
        self.target = target
        self.path = _part_path(target)
        self._about = target.with_name(target.name + ".part.json")
        self._descriptor = descriptor
        # From then on the descriptor is that of the finished file, which is not to be written to.
        self._published = False

    @classmethod
    @contextlib.contextmanager
    def of(cls, target: Path) -> Iterator["Part"]:
        """Wait for the lock; on leaving, an empty part is removed."""
        descriptor = _locked(_part_path(target))
        part = cls(target, descriptor)
        try:
            yield part
        finally:
            if not part._published and part.size == 0:
                part.path.unlink(missing_ok=True)
            os.close(descriptor)

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return os.fstat(self._descriptor).st_size

    def belongs_to(self) -> PartOf | None:
        """What the bytes are part of; None where there are none or nobody knows."""
        if not self.size:
            return None
        try:
            known = json.loads(self._about.read_text())
            return PartOf(str(known["link"]), known["validator"], known["total"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def restart(self, part_of: PartOf) -> None:
        """Drop all bytes; those that come next belong to `part_of`."""
        # In this order: bytes never stand beside the description of others.
        os.ftruncate(self._descriptor, 0)
        scratch = self._about.with_name(self._about.name + ".new")
        scratch.write_text(json.dumps(asdict(part_of)))
        scratch.replace(self._about)

    def clear(self) -> None:
        """Drop all bytes; nobody knows what the next ones belong to."""
        os.ftruncate(self._descriptor, 0)
        self._about.unlink(missing_ok=True)

    def digest(self) -> "hashlib._Hash":
        """SHA-256 over the bytes that have arrived; the next `append` continues after them."""
        digest = hashlib.sha256()
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while block := os.read(self._descriptor, _BLOCK):
            digest.update(block)
        return digest

    def append(self, block: bytes) -> None:
        """Write the next bytes; where the disk is full, what is there is given up, so as not to keep it full."""
        view = memoryview(block)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            self.clear()
            raise

    def publish(self) -> None:
        """Give the file its final name, in place of what had it; durable on return."""
        os.fsync(self._descriptor)
        self.path.rename(self.target)
        self._published = True
        self._about.unlink(missing_ok=True)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _part_path(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _locked(path: Path) -> int:
    """A descriptor of `path` with an exclusive lock on the file that has this name when the lock is granted."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # While waiting, another process may have renamed or removed the file.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
