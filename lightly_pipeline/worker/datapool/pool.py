"""A datapool as a run uses it: load what others selected, replace what this video contributed."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.datapool import segments
from lightly_pipeline.worker.datapool.part import (
    DatapoolError,
    Embedder,
    EmbedderLike,
    Part,
    check_name,
)
from lightly_pipeline.worker.datapool.segments import Segment
from lightly_pipeline.worker.datapool.store import Store, Stored, open_store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SUFFIX = ".npz"

log = logging.getLogger(__name__)


def _none(part: str) -> bool:
    """Leave no part aside."""
    return False


@dataclass(frozen=True)
class PoolVectors:
    """The vectors of a pool, part after part in no particular order, memory-mapped from a scratch file.

    `embeddings` is float32 [m, d] (d is 0 for an empty pool of unknown embedder).
    """

    embeddings: NDArray[np.float32]
    embedder: Embedder | None
    parts: tuple[str, ...]
    starts: tuple[int, ...]
    _pool: Datapool

    def __len__(self) -> int:
        """How many vectors."""
        return len(self.embeddings)

    def describe(self, row: int) -> tuple[str, str]:
        """(part, frame name) of one row; reads that part again, so that names need no memory."""
        number = bisect_right(self.starts, row) - 1
        part = self.parts[number]
        return part, self._pool.read(part).filenames[row - self.starts[number]]


@dataclass(frozen=True)
class Compaction:
    """What a compaction left: parts in the pool, segments that hold them, segments that were removed."""

    parts: int
    segments: int
    removed: int


class Datapool:
    """The parts under `<uri>/<name>/`."""

    def __init__(self, uri: str, name: str = "lightly-datapool", *, client: S3Client | None = None) -> None:
        """`uri` is a folder or an s3:// prefix; nothing is read or made yet."""
        self.name = check_name("datapool", name)
        self.uri = uri
        self.store: Store = open_store(uri, client=client)
        self._folder = f"{self.name}/"

    def parts(self) -> Iterator[tuple[str, Stored]]:
        """(part name, object) of every part, by name."""
        for stored in self.store.list(self._folder):
            if stored.name.endswith(_SUFFIX):
                yield stored.name[len(self._folder) : -len(_SUFFIX)], stored

    def read(self, part: str) -> Part:
        """One part; raises FileNotFoundError when there is none of that name."""
        return self._read(part)[1]

    def contents(self) -> Iterator[tuple[str, Part]]:
        """(name, part) of every part, by name."""
        for name, _, part in self._parts_with_tags(name for name, _ in self.parts()):
            yield name, part

    def embedders(self) -> Iterator[tuple[str, Embedder]]:
        """(part name, embedder) of every part that holds vectors; one part or segment in memory at a time."""
        return ((name, embedder) for name, embedder, rows in self._contents(_none) if len(rows))

    def replace(
        self,
        part: str,
        filenames: Sequence[str],
        embeddings: NDArray[np.floating],
        embedder: EmbedderLike,
        content: str,
        labels: NDArray[np.integer] | None = None,
    ) -> Part:
        """Store what the video `part` contributed, in place of what it contributed before, in one atomic write.

        `content` is the content hash of the video. An empty contribution is stored too: it says that nothing of this
        video was new.
        """
        made = Part.make(filenames, embeddings, embedder, content, labels)
        self.store.write(self._object(part), made.to_bytes())
        return made

    def keep_history(self, part: str) -> None:
        """Copy a part as it is to history/, named by its content: a repetition adds nothing.

        One that cannot be read is left out: it must not stand in the way of the one that replaces it.
        """
        try:
            with self.store.open(self._object(part)) as opened:
                earlier = opened.file.read()
        except FileNotFoundError:
            return
        except (DatapoolError, OSError) as error:
            log.warning("What '%s' contributed before is not kept in the history: %s", part, error)
            return
        digest = hashlib.sha256(earlier).hexdigest()[:12]
        self.store.write(f"{self._folder}history/{part}-{digest}.npz", earlier)

    def prepare(self) -> None:
        """Fail now, before hours of work, where nothing can be written. Raises DatapoolError."""
        self.store.prepare()

    def check(self, embedder: EmbedderLike, *, without: Callable[[str], bool] = _none) -> None:
        """Fail now, before hours of work, where `load` would: looks at the first part that holds vectors.

        without: whether a part of this name is left aside. Raises DatapoolError when another embedder than `embedder`
        made them, or they cannot be read.
        """
        expected = Embedder.of(embedder)
        for name, identity, rows in self._contents(without):
            if len(rows):
                if identity != expected:
                    raise self._mixed(name, identity, expected)
                return

    def remove(self, part: str) -> None:
        """Forget a video."""
        self.store.delete(self._object(part))

    def load(self, embedder: EmbedderLike | None, *, without: str | None = None, scratch: Path) -> PoolVectors:
        """All vectors except those of the part `without` (a run never conditions on its own earlier result).

        They go to a file in the folder `scratch` and are mapped from there, so memory holds one part at a time.
        Raises DatapoolError when vectors were made by another embedder than `embedder`, or, with None, when the parts
        do not agree among themselves.
        """
        expected = None if embedder is None else Embedder.of(embedder)
        names: list[str] = []
        starts: list[int] = []
        count = 0
        with tempfile.NamedTemporaryFile(prefix="datapool-", suffix=".f32", dir=scratch, delete=False) as spool:
            try:
                for name, identity, rows in self._contents(lambda name: name == without):
                    if not len(rows):
                        # Nothing to compare: it may be of an earlier embedder.
                        continue
                    if expected is None:
                        expected = identity
                    if identity != expected:
                        raise self._mixed(name, identity, expected)
                    names.append(name)
                    starts.append(count)
                    count += len(rows)
                    spool.write(np.ascontiguousarray(rows).data)
                spool.flush()
                dimensions = expected.dimensions if expected else 0
                vectors: NDArray[np.float32] = np.empty((0, dimensions), dtype=np.float32)
                if count:
                    vectors = np.memmap(spool.name, dtype=np.float32, mode="r", shape=(count, dimensions))
            finally:
                # The mapping keeps the file's content alive; its name is no longer needed.
                Path(spool.name).unlink()
        return PoolVectors(vectors, expected, tuple(names), tuple(starts), self)

    def compact(self, *, rows: int = segments.ROWS) -> Compaction:
        """Copy parts that are not in a segment yet into segments, so that loading takes few requests.

        Safe at any time beside any other use of the pool, and when it is killed. Parts stay as they are.
        """
        old = self._segments()
        live = {name: stored.tag for name, stored in self.parts()}
        kept: set[str] = set()
        copied: set[str] = set()
        for name in sorted(old):
            segment = self._segment(name)
            if segment is None:
                continue
            valid = {c.part for c in segment.parts if live.get(c.part) == c.tag} - copied
            # A segment is worth keeping as it is when it is large and mostly current.
            used = sum(c.stop - c.start for c in segment.parts if c.part in valid)
            if used >= rows / 2 and used >= 0.8 * len(segment.embeddings):
                kept.add(name)
                copied |= valid
        for segment in segments.gather(self._parts_with_tags(set(live) - copied), rows):
            object_name, content = segment.to_object()
            self.store.write(self._folder + object_name, content)
            kept.add(self._folder + object_name)
        for name in old - kept:
            self.store.delete(name)
        return Compaction(parts=len(live), segments=len(kept), removed=len(old - kept))

    def _contents(self, without: Callable[[str], bool]) -> Iterator[tuple[str, Embedder, NDArray[np.float32]]]:
        """(part, embedder, vectors): from segments where they are current, else from the parts themselves."""
        live = {name: stored.tag for name, stored in self.parts() if not without(name)}
        seen: set[str] = set()
        # A segment that was listed is gone when a compaction put its parts into others: these are listed then.
        while live and (names := self._segments() - seen):
            for name in sorted(names):
                segment = self._segment(name)
                for copied in segment.parts if segment else ():
                    if live.get(copied.part) == copied.tag:
                        del live[copied.part]
                        assert segment is not None  # noqa: S101 - for the type checker
                        yield copied.part, segment.embedder, segment.embeddings[copied.start : copied.stop]
            seen |= names
        for name, _, part in self._parts_with_tags(live):
            yield name, part.embedder, part.embeddings

    def _segments(self) -> set[str]:
        """The objects that are segments."""
        return {stored.name for stored in self.store.list(self._folder + segments.FOLDER)}

    def _parts_with_tags(self, names: Iterable[str]) -> Iterator[tuple[str, str, Part]]:
        """(name, tag, part) by name, as they are now: a listed tag may be that of another content.

        One that was removed since it was listed is left out, as if it had been removed before.
        """
        for name in sorted(names):
            with suppress(FileNotFoundError):
                yield name, *self._read(name)

    def _read(self, part: str) -> tuple[str, Part]:
        """(tag, part): of one content."""
        name = self._object(part)
        with self.store.open(name) as opened:
            return opened.tag, Part.read(opened.file, self.store.locate(name))

    def _segment(self, name: str) -> Segment | None:
        """A segment; None when somebody else's compaction has just removed it, or when it is damaged."""
        with suppress(FileNotFoundError), self.store.open(name) as opened:
            try:
                return Segment.read(opened.file, self.store.locate(name))
            except DatapoolError:
                place = self.store.locate(name)
                log.warning("%s is damaged: what it copies is read from the parts until the next compaction.", place)
        return None

    def _mixed(self, part: str, found: Embedder, expected: Embedder) -> DatapoolError:
        return DatapoolError(
            f"The datapool '{self.name}' at {self.uri} holds embeddings of {found} (part '{part}'), but this run "
            f"makes those of {expected}: distances between them mean nothing. Use the datapool's embedder, or name "
            "another datapool with datapool.name=."
        )

    def _object(self, part: str) -> str:
        return f"{self._folder}{check_name('part of a datapool', part)}{_SUFFIX}"
