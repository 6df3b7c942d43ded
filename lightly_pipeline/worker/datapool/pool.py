"""A datapool as a run uses it: load what others selected, replace what this video contributed."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.datapool.part import (
    DatapoolError,
    Embedder,
    EmbedderLike,
    Part,
    check_name,
)
from lightly_pipeline.worker.datapool.store import Store, Stored, open_store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SUFFIX = ".npz"


@dataclass(frozen=True)
class PoolVectors:
    """The vectors of a pool in the order of its part names, memory-mapped from a scratch file.

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
        part = self.parts[bisect_right(self.starts, row) - 1]
        return part, self._pool.read(part).filenames[row - self.starts[self.parts.index(part)]]


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
        name = self._object(part)
        with self.store.open(name) as file:
            return Part.read(file, self.store.locate(name))

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

    def remove(self, part: str) -> None:
        """Forget a video."""
        self.store.delete(self._object(part))

    def load(self, embedder: EmbedderLike | None, *, without: str | None = None, scratch: Path) -> PoolVectors:
        """All vectors except those of the part `without` (a run never conditions on its own earlier result).

        They go to a file in the folder `scratch` and are mapped from there, so memory holds one part at a time.
        Raises DatapoolError when a part was made by another embedder than `embedder`, or, with None, when the parts
        do not agree among themselves.
        """
        expected = None if embedder is None else Embedder.of(embedder)
        names: list[str] = []
        starts: list[int] = []
        count = 0
        with tempfile.NamedTemporaryFile(prefix="datapool-", suffix=".f32", dir=scratch, delete=False) as spool:
            for name, part in self._contents(without):
                if expected is None:
                    expected = part.embedder
                if part.embedder != expected:
                    raise self._mixed(name, part.embedder, expected)
                if not part.filenames:
                    continue
                names.append(name)
                starts.append(count)
                count += len(part.filenames)
                spool.write(part.embeddings.data)
        dimensions = expected.dimensions if expected else 0
        if count:
            vectors: NDArray[np.float32] = np.memmap(spool.name, dtype=np.float32, mode="r", shape=(count, dimensions))
        else:
            vectors = np.empty((0, dimensions), dtype=np.float32)
        # The mapping keeps the file's content alive; its name is no longer needed.
        Path(spool.name).unlink()
        return PoolVectors(vectors, expected, tuple(names), tuple(starts), self)

    def _contents(self, without: str | None) -> Iterator[tuple[str, Part]]:
        for name, _ in self.parts():
            if name == without:
                continue
            try:
                yield name, self.read(name)
            except FileNotFoundError:
                # Removed between listing and reading: as if it had been removed before.
                continue

    def _mixed(self, part: str, found: Embedder, expected: Embedder) -> DatapoolError:
        return DatapoolError(
            f"The datapool '{self.name}' at {self.uri} holds embeddings of {found} (part '{part}'), but this run "
            f"makes those of {expected}: distances between them mean nothing. Use the datapool's embedder, or name "
            "another datapool with datapool.name=."
        )

    def _object(self, part: str) -> str:
        return f"{self._folder}{check_name('part of a datapool', part)}{_SUFFIX}"
