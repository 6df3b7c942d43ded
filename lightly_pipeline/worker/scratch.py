"""The folder for work in progress: local copies of S3 input, finished scans, and the output before it is whole.

One folder per job (input, output and options), held by a kernel lock while a run works in it: a second run of the
same job waits, then finds the result. A run that ends well leaves nothing; one that was killed leaves its finished
scans, so that the next one continues. What was left behind is bounded: the oldest jobs go first.
"""

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import stat
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lightly_pipeline.worker.errors import StorageError

log = logging.getLogger(__name__)

#: Numbers of the errors that say so: no space, and no space for this user.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

#: Length of a job's name, in hexadecimal.
_DIGITS = 20


@dataclass(frozen=True)
class Scratch:
    """The folders of one job: input copies, finished scans, the output tree in the making, and anything else."""

    folder: Path

    @property
    def inputs(self) -> Path:
        """Local copies of input files."""
        return _made(self.folder / "inputs")

    @property
    def scans(self) -> Path:
        """Finished scans, and the pictures that they keep."""
        return _made(self.folder / "scans")

    @property
    def tree(self) -> Path:
        """The output before it is published."""
        return _made(self.folder / "tree")

    @property
    def work(self) -> Path:
        """What no later run can use."""
        return _made(self.folder / "work")

    def discard_tree(self) -> None:
        """Begin the output anew."""
        shutil.rmtree(self.folder / "tree", ignore_errors=True)

    def discard_output(self) -> None:
        """Remove what a later run must not find."""
        self.discard_tree()
        shutil.rmtree(self.folder / "work", ignore_errors=True)


@contextmanager
def open_scratch(place: str, job: str, limit_in_bytes: int) -> Iterator[Scratch]:
    """The scratch folder of the job (any text that is the same for the same job), locked until the block ends."""
    begun = False
    root = _root(place)
    folder = root / hashlib.sha256(job.encode()).hexdigest()[:_DIGITS]
    try:
        _make_own(root)
        with _locked(_lock_of(folder)):
            _drop_oldest(root, keep=folder, limit=limit_in_bytes)
            folder.mkdir(exist_ok=True)
            scratch = Scratch(folder)
            scratch.discard_output()
            begun = True
            try:
                yield scratch
            except BaseException:
                scratch.discard_output()
                if not any(scratch.scans.iterdir()):
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        # Of what the run does inside the block, a full disk alone is the scratch folder's affair.
        if begun and error.errno not in DISK_FULL:
            raise
        raise StorageError(
            f"The scratch folder {root} could not be used ({error.strerror or error}): free some space there, or "
            f"give another one with scratch=FOLDER."
        ) from error


def _root(place: str) -> Path:
    """This user's folder: in the given one, or below /var/tmp, which outlives a restart and is not kept in memory."""
    lasting = Path("/var/tmp")  # noqa: S108 - the folder below it is this user's alone
    fallback = lasting if os.access(lasting, os.W_OK) else tempfile.gettempdir()
    return Path(place or os.environ.get("TMPDIR") or fallback).absolute() / f"lightly-worker-{os.getuid()}"


def _make_own(root: Path) -> None:
    """Make the folder, or see that it is this user's alone: what lies in it is loaded and removed without a question.

    Raises StorageError where another user made it or may write to it, OSError where it cannot be made.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(root))
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(
            f"The scratch folder {root} belongs to another user, or others may write to it: remove it, or give another "
            f"place with scratch=FOLDER."
        )


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file; BlockingIOError when somebody does and `wait` is False. It is removed at the end."""
    while True:
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                log.info("Another run of the same job is at work in %s: waiting for it.", path.with_suffix(""))
                fcntl.flock(lock, fcntl.LOCK_EX)
            # The one before removed its file when it ended: what counts is the file that has the name now.
            try:
                if path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
                    continue
            except FileNotFoundError:
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _drop_oldest(root: Path, *, keep: Path, limit: int) -> None:
    """Remove the oldest folders of jobs that nobody holds until the rest takes at most `limit` bytes.

    Other runs make and remove theirs meanwhile.
    """
    made: dict[Path, float] = {}
    for path in root.iterdir():
        if len(path.name) == _DIGITS and set(path.name) <= set(string.hexdigits):
            with suppress(OSError):
                made[path] = path.stat().st_mtime
    used = 0
    for folder in sorted(made, key=lambda path: -made[path]):
        used += _size(folder)
        if used <= limit or folder == keep:
            continue
        with suppress(BlockingIOError), _locked(_lock_of(folder), wait=False):
            shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    """The bytes of all files below a folder that are there when they are looked at."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += os.lstat(os.path.join(place, name)).st_size
    return size


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
