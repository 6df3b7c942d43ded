"""Segments: many parts in one object, so that a pool of many videos is read in few requests.

A segment repeats parts and remembers the tag of the object that each was copied from. It is a copy and nothing more: a
reader uses a row range only while the part's object still has that tag, and reads the object itself otherwise. So
compaction needs no lock: whoever replaces a part, compacts at the same time, dies half-way, damages or deletes all
segments costs other readers time and never a vector. Segments are named by their content.

Layout: `<name>/.segments/<sha256>.npz` with `about` (JSON: embedder, parts as [name, tag, rows]) and `embeddings`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.datapool.part import DatapoolError, Embedder, Part, archive, read_archive

FOLDER = ".segments/"
#: Rows in a segment: about 50 MB at 128 dimensions, held in memory while it is made or read.
ROWS = 100_000


@dataclass(frozen=True)
class Copied:
    """One part in a segment: its name, the tag of its object then, and its rows start … stop - 1."""

    part: str
    tag: str
    start: int
    stop: int


@dataclass(frozen=True)
class Segment:
    """Copies of parts of one embedder."""

    embedder: Embedder
    parts: tuple[Copied, ...]
    embeddings: NDArray[np.float32]

    def to_object(self) -> tuple[str, bytes]:
        """(object name within the pool, content)."""
        about = {**vars(self.embedder), "parts": [[c.part, c.tag, c.stop - c.start] for c in self.parts]}
        text = np.frombuffer(json.dumps(about, sort_keys=True).encode(), dtype=np.uint8)
        content = archive({"about": text, "embeddings": self.embeddings})
        return f"{FOLDER}{hashlib.sha256(content).hexdigest()[:32]}.npz", content

    @classmethod
    def read(cls, file: IO[bytes], name: str) -> Segment:
        """The segment in an open archive; raises DatapoolError where it is damaged."""
        arrays = read_archive(file, name)
        parts, at = [], 0
        try:
            about, embeddings = json.loads(arrays["about"].tobytes()), arrays["embeddings"]
            embedder = Embedder(about["name"], about["version"], about["dimensions"])
            for part, tag, rows in about["parts"]:
                parts.append(Copied(part, tag, at, at + rows))
                at += rows
        except (LookupError, ValueError, TypeError) as error:
            raise DatapoolError(f"{name} is no segment ({type(error).__name__}: {error}).") from error
        if embeddings.dtype != np.float32 or embeddings.shape != (at, embedder.dimensions):
            raise DatapoolError(f"{name} is no segment: its vectors are not those that it names.")
        return cls(embedder, tuple(parts), embeddings)


def gather(parts: Iterable[tuple[str, str, Part]], rows: int = ROWS) -> Iterator[Segment]:
    """Segments of at most about `rows` rows of (name, tag, part), in their order; a part is never divided."""
    waiting: list[tuple[str, str, Part]] = []
    count = 0
    for name, tag, part in parts:
        if waiting and (count + len(part.filenames) > rows or part.embedder != waiting[0][2].embedder):
            yield _segment(waiting)
            waiting, count = [], 0
        waiting.append((name, tag, part))
        count += len(part.filenames)
    if waiting:
        yield _segment(waiting)


def _segment(parts: list[tuple[str, str, Part]]) -> Segment:
    copied, at = [], 0
    for name, tag, part in parts:
        copied.append(Copied(name, tag, at, at + len(part.filenames)))
        at += len(part.filenames)
    embedder = parts[0][2].embedder
    return Segment(embedder, tuple(copied), np.concatenate([part.embeddings for _, _, part in parts]))
