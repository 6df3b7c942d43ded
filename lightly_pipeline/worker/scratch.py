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
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lightly_pipeline.worker.errors import StorageError

log = logging.getLogger(__name__)

#: Numbers of the errors that say so: no space, and no space for this user.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


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
    folder = root / hashlib.sha256(job.encode()).hexdigest()[:20]
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
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
    """The user's folder, or one of this user below /var/tmp, which outlives a restart and is not kept in memory."""
    if place:
        return Path(place)
    lasting = Path("/var/tmp")  # noqa: S108 - the folder below it is this user's alone
    fallback = lasting if os.access(lasting, os.W_OK) else tempfile.gettempdir()
    return Path(os.environ.get("TMPDIR") or fallback) / f"lightly-worker-{os.getuid()}"


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
            if not path.exists() or path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _drop_oldest(root: Path, *, keep: Path, limit: int) -> None:
    """Remove the oldest folders of jobs that nobody holds until the rest takes at most `limit` bytes."""
    jobs = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: -path.stat().st_mtime)
    used = 0
    for folder in jobs:
        used += sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
        if used <= limit or folder == keep:
            continue
        with suppress(BlockingIOError), _locked(_lock_of(folder), wait=False):
            shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
