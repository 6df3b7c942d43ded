"""Publishing the finished tree: to a folder or an S3 prefix, the manifest last.

The manifest is the sign of success, so an earlier one goes first: whoever finds a manifest finds its whole tree and
nothing of another run. Before anything is touched a small plan names all that the earlier run left and all that this
one will bring; it goes when the manifest is there, so that after a kill the next run knows what to clear. Nothing
that no manifest and no plan names is ever removed.

The datapool is told when the tree has arrived and no manifest is there: it does not know frames that could not be
brought, and after a kill the next run does not find its job done, but tells the datapool again.
"""

import fcntl
import json
import mimetypes
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn, Protocol

from lightly_pipeline.worker.errors import StorageError
from lightly_pipeline.worker.output import layout
from lightly_pipeline.worker.output.turn import Turn
from lightly_pipeline.worker.s3 import TRANSFERS, S3Address, is_s3, s3_client, s3_errors
from lightly_pipeline.worker.scratch import DISK_FULL

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

#: Beyond this a file travels in parts; below it, in one request that a kill leaves no trace of.
_SINGLE_REQUEST = 1024**3
#: Bytes after which a copy looks for an interrupt.
_COPIED_AT_A_TIME = 8 * 1024**2
#: Where a tree waits in the folder of OUTPUT, and the name that an earlier manifest has there meanwhile.
_INCOMING, _ASIDE = ".incoming", f"{layout.MANIFEST}.earlier"
#: Files that wait for a connection.
_UPLOADS_AT_A_TIME = 1024


class Target(Protocol):
    """A place for one output tree."""

    uri: str

    def read(self, name: str) -> bytes | None:
        """A small file of the tree that is there, None without it."""

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether all these files are there, with these sizes in bytes."""

    def prepare(self) -> None:
        """Fail now, before hours of work, where nothing can be written."""

    def publish(self, tree: Path, contribute: Callable[[], None], on_file: Callable[[int], None]) -> None:
        """Put the tree in place of what earlier runs left.

        `contribute` tells the datapool. `on_file` is told the files done since. What either raises ends the run: then
        nothing of the tree is left.
        """


def open_target(place: str, run_directory: str) -> Target:
    """The target at a folder or `s3://` prefix, or in the subfolder of it."""
    if is_s3(place):
        return S3Target(S3Address.parse(place).below(run_directory))
    return FolderTarget(Path(place, run_directory))


class FolderTarget:
    """A folder on this machine: the new tree is moved into place, which takes no time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def prepare(self) -> None:
        """Check that the folder, or the nearest one above it that exists, can be written and holds nothing foreign."""
        existing = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise StorageError(f"OUTPUT {self.root}: {existing} is a file, not a folder.")
        if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
            raise StorageError(f"OUTPUT {self.root} cannot be written: no permission in {existing}.")
        if self.root.is_symlink() and not self.root.exists():
            there = os.readlink(self.root)
            raise StorageError(f"OUTPUT {self.root} is a link to {there}, which does not exist: make that folder.")
        self._refuse_foreign_incoming()
        _refuse_foreign(self, lambda name: (self.root / name).exists())

    def publish(self, tree: Path, contribute: Callable[[], None], on_file: Callable[[int], None]) -> None:
        """Bring the tree onto the file system of OUTPUT, then rename file by file.

        What was there stays untouched until nothing is left that may fail. Runs into one folder wait for each other.
        """
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            with self._alone():
                self._publish(tree, contribute, lambda: on_file(0))
        except OSError as error:
            remedy = ": free some space there, or give another OUTPUT" if error.errno in DISK_FULL else ""
            raise StorageError(
                f"OUTPUT {self.root} could not be written: {error.strerror or error}{remedy}."
            ) from error
        finally:
            for folder in made:
                # Only where nothing came of it.
                with suppress(OSError):
                    folder.rmdir()

    def _publish(self, tree: Path, contribute: Callable[[], None], check: Callable[[], None]) -> None:
        incoming = self.root / _INCOMING
        self._refuse_foreign_incoming()
        try:
            shutil.rmtree(incoming, ignore_errors=True)
            _move(tree, incoming, check)
            # What follows is over in milliseconds, so that an interrupt waits for it.
            names = sorted(layout.names_below(incoming))
            stale = _left_behind(self.read(layout.MANIFEST), self.read(layout.PLAN))
            with self._incomplete(sorted(stale.union(names)) if stale else names, incoming):
                contribute()
            for name in stale:
                self._remove(name)
            for name in names:
                if name != layout.MANIFEST:
                    (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                    (incoming / name).replace(self.root / name)
            (incoming / layout.MANIFEST).replace(self.root / layout.MANIFEST)
            (self.root / layout.PLAN).unlink()
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _refuse_foreign_incoming(self) -> None:
        """Raise StorageError where the folder in which a tree waits holds what no run put there."""
        with suppress(FileNotFoundError, NotADirectoryError):
            if not {path.name for path in (self.root / _INCOMING).iterdir()} <= layout.OWNED | {layout.PLAN, _ASIDE}:
                _refuse(self, _INCOMING)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Make the folder and hold its lock, which the system lets go when the process ends."""
        while True:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root, os.O_RDONLY)
            try:
                # Not every network's file system has such locks.
                with suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_EX)
                # One that failed takes its new folder away.
                if self.root.exists() and os.path.samestat(os.fstat(handle), self.root.stat()):
                    yield
                    return
            finally:
                os.close(handle)

    def read(self, name: str) -> bytes | None:
        """A file below the folder."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Asked file by file: the folder may hold much else."""
        try:
            return all((self.root / name).stat().st_size == size for name, size in sizes.items())
        except OSError:
            return False

    @contextmanager
    def _incomplete(self, names: list[str], incoming: Path) -> Iterator[None]:
        """Put the plan there and the manifest aside, into the folder `incoming`; both are back if the block raises."""
        plan, manifest = self.root / layout.PLAN, self.root / layout.MANIFEST
        was_incomplete, aside = plan.exists(), incoming / _ASIDE
        (incoming / layout.PLAN).write_text(json.dumps(names))
        (incoming / layout.PLAN).replace(plan)
        try:
            with suppress(FileNotFoundError):
                manifest.replace(aside)
            yield
        except BaseException:
            with suppress(FileNotFoundError):
                aside.replace(manifest)
            if not was_incomplete:
                plan.unlink()
            raise

    def _remove(self, name: str) -> None:
        """Remove a file of an earlier run, and the folders that it leaves empty."""
        path = self.root / name
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.root:
                break
            with suppress(OSError):
                folder.rmdir()


class S3Target:
    """A prefix of a bucket."""

    def __init__(self, address: S3Address) -> None:
        self.address = address
        self.uri = address.uri()

    def prepare(self) -> None:
        """Check that the bucket is there, and the prefix holds nothing foreign."""
        with s3_errors(f"write to {self.uri}"):
            s3_client().list_objects_v2(Bucket=self.address.bucket, Prefix=self.address.prefix, MaxKeys=1)
            _refuse_foreign(self, self._exists)

    def publish(self, tree: Path, contribute: Callable[[], None], on_file: Callable[[int], None]) -> None:
        """Upload everything in parallel, drop what earlier runs left, put the manifest.

        Objects of an earlier tree are replaced as they come: when the run ends on the way, nothing of both is left.
        Runs to one prefix wait for each other.
        """
        with (
            s3_errors(f"write to {self.uri}"),
            Turn(self.address.bucket, self._key(layout.TURN), self.uri, lambda: on_file(0)) as turn,
        ):
            self._publish(tree, contribute, on_file, turn)

    def _publish(self, tree: Path, contribute: Callable[[], None], on_file: Callable[[int], None], turn: Turn) -> None:
        names = set(layout.names_below(tree))
        stale = _left_behind(self.read(layout.MANIFEST), self.read(layout.PLAN))
        bucket = self.address.bucket
        plan = json.dumps(sorted(stale | names)).encode()
        s3_client().put_object(Bucket=bucket, Key=self._key(layout.PLAN), Body=plan)
        s3_client().delete_object(Bucket=bucket, Key=self._key(layout.MANIFEST))
        try:
            self._upload_all(tree, sorted(names - {layout.MANIFEST}), on_file, turn)
            turn.check()
            self._remove_all(sorted(stale - names))
            contribute()
            turn.check()
            self._upload(tree, layout.MANIFEST)
        except BaseException:
            if not turn.lost:
                # The plan goes last: until then it tells what is to be removed.
                self._remove_all([*sorted(stale | names), layout.PLAN])
            raise
        s3_client().delete_object(Bucket=bucket, Key=self._key(layout.PLAN))

    def read(self, name: str) -> bytes | None:
        """An object below the prefix."""
        from botocore.exceptions import ClientError

        with s3_errors(f"read {self.address.uri(name)}"):
            try:
                answer = s3_client().get_object(Bucket=self.address.bucket, Key=self._key(name))
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                    return None
                raise
            return answer["Body"].read()

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """By one listing of the prefix."""
        missing = dict(sizes)
        with s3_errors(f"list {self.uri}"):
            pages = s3_client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.address.bucket, Prefix=self.address.prefix):
                for entry in page.get("Contents", []):
                    name = entry["Key"].removeprefix(self.address.prefix)
                    if missing.get(name) == entry["Size"]:
                        del missing[name]
        return not missing

    def _upload_all(self, tree: Path, names: list[str], on_file: Callable[[int], None], turn: Turn) -> None:
        def upload(name: str) -> None:
            turn.check()
            self._upload(tree, name)

        pool = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="upload")
        try:
            for start in range(0, len(names), _UPLOADS_AT_A_TIME):
                for _ in pool.map(upload, names[start : start + _UPLOADS_AT_A_TIME]):
                    on_file(1)
        finally:
            # After a failure or an interrupt the rest is not worth sending.
            pool.shutdown(cancel_futures=True)

    def _upload(self, tree: Path, name: str) -> None:
        path = tree / name
        content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        if path.stat().st_size <= _SINGLE_REQUEST:
            with path.open("rb") as file:
                s3_client().put_object(
                    Bucket=self.address.bucket, Key=self._key(name), Body=file, ContentType=content_type
                )
            return
        from boto3.s3.transfer import TransferConfig

        s3_client().upload_file(
            str(path),
            self.address.bucket,
            self._key(name),
            ExtraArgs={"ContentType": content_type},
            Config=TransferConfig(multipart_chunksize=64 * 1024**2, max_concurrency=4),
        )

    def _remove_all(self, names: list[str]) -> None:
        for start in range(0, len(names), 1000):
            objects: list[ObjectIdentifierTypeDef] = [{"Key": self._key(name)} for name in names[start : start + 1000]]
            answer = s3_client().delete_objects(Bucket=self.address.bucket, Delete={"Objects": objects, "Quiet": True})
            if errors := answer.get("Errors"):
                raise StorageError(
                    f"{len(errors)} objects of an earlier run below {self.uri} could not be removed, the first is "
                    f"{errors[0].get('Key')}: {errors[0].get('Message')}."
                )

    def _exists(self, name: str) -> bool:
        """Whether there is an object of the name, or one below it."""
        listed = s3_client().list_objects_v2(Bucket=self.address.bucket, Prefix=self._key(name), Delimiter="/")
        found = {entry["Key"] for entry in listed.get("Contents", [])}
        found |= {entry["Prefix"] for entry in listed.get("CommonPrefixes", [])}
        return bool(found & {self._key(name), self._key(name) + "/"})

    def _key(self, name: str) -> str:
        return self.address.prefix + name


def _refuse_foreign(target: Target, exists: Callable[[str], bool]) -> None:
    """Raise StorageError where names of the tree are taken by what no run of the worker left."""

    def is_ours() -> bool:
        # At least one of the two is there whenever a run has been here, but while one is read the other may come or go.
        looks = (layout.PLAN, layout.MANIFEST) * 3
        return any(_named_by(target.read(name)) is not None for name in looks)

    for name in sorted(layout.OWNED):
        if exists(name):
            if is_ours():
                return
            _refuse(target, name)


def _refuse(target: Target, name: str) -> NoReturn:
    raise StorageError(
        f"OUTPUT {target.uri} already holds '{name}', which no run of this worker left there: give an empty place, or "
        f"write into a subfolder with run_directory=NAME."
    )


def _left_behind(manifest: bytes | None, plan: bytes | None) -> set[str]:
    """All names that earlier runs put below OUTPUT, by what they say of themselves.

    Anyone can write such a file: what it names counts only where the worker's own tree is.
    """
    names = {layout.MANIFEST} if manifest is not None else set()
    for content in (manifest, plan):
        names |= _named_by(content) or set()
    return {
        name
        for name in names
        if PurePosixPath(name).parts[:1] and PurePosixPath(name).parts[0] in layout.OWNED
        if ".." not in PurePosixPath(name).parts
    }


def planned(content: bytes) -> set[str]:
    """The names in the plan of a publication that did not end, as far as they may be the worker's."""
    return _left_behind(None, content)


def _named_by(content: bytes | None) -> set[str] | None:
    """The names in a manifest or a plan; None where it is neither."""
    try:
        said = json.loads(content or b"")
        # Web applications have a manifest.json, too.
        entries = said["files"] if isinstance(said, dict) and {"worker", "job"} <= said.keys() else said
        if isinstance(entries, dict):
            return None
        return {str(entry["path"] if isinstance(entry, dict) else entry) for entry in entries}
    except (ValueError, KeyError, TypeError):
        return None


def _move(tree: Path, target: Path, check: Callable[[], None]) -> None:
    """Rename where both are on one file system, copy otherwise; `check` may raise to end that."""
    check()
    try:
        tree.rename(target)
    except OSError:
        # Not by `copytree`, which goes on after an error and then tells of every file that it could not copy.
        for name in layout.names_below(tree):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with (tree / name).open("rb") as given, (target / name).open("wb") as copy:
                while block := given.read(_COPIED_AT_A_TIME):
                    check()
                    copy.write(block)
        shutil.rmtree(tree)
