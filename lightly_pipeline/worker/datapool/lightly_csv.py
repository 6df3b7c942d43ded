"""Lightly's own datapool file, `datapool_latest.csv`, in and out.

Header `filenames,embedding_0,…,embedding_{d-1},labels`; one row per selected frame. The file does not say which model
made the embeddings, so an import has to.
"""

from __future__ import annotations

import csv
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.datapool.part import DatapoolError, Embedder
from lightly_pipeline.worker.datapool.pool import Datapool

_ROWS = 50_000
# Of the length of a unit vector in float32.
_ROUNDING = 1e-6


def import_csv(pool: Datapool, path: Path, *, name: str, version: str) -> int:
    """Add the frames of `path` to the pool as embeddings of the model `name`, `version`; returns how many.

    Vectors are scaled to unit length, as Lightly's worker does before it selects. The same file imported again
    replaces itself. Memory holds 50,000 rows at a time. The whole file is read before any of it is written. Raises
    DatapoolError with the line that cannot be read, or where the pool holds embeddings of another model.
    """
    with _readable(path):
        content = _digest(path)
        blocks = dimensions = total = 0
        for block in _blocks(path):
            blocks, dimensions, total = blocks + 1, block.vectors.shape[1], total + len(block.filenames)
    if not total:
        raise DatapoolError(f"{path} holds no frame: there is nothing to import.")
    embedder = Embedder(name, version, dimensions)
    parts = [f"import-{content[:16]}-{number:04}" for number in range(blocks)]
    for part, known in pool.embedders():
        if known != embedder and part not in parts:
            raise DatapoolError(
                f"The datapool '{pool.name}' at {pool.uri} holds embeddings of {known} (part '{part}'), but {path} is "
                f"given as those of {embedder}: distances between them mean nothing. Name the model that made the file "
                "with --embedder and --embedder-version, or another datapool with --name."
            )
    with _readable(path):
        for part, block in zip(parts, _blocks(path), strict=True):
            pool.replace(part, block.filenames, block.vectors, embedder, content, block.labels)
    return total


def export_csv(pool: Datapool, path: Path) -> int:
    """Write all frames of the pool to `path` as Lightly's file, at once; returns how many.

    Raises DatapoolError where the pool is empty or holds embeddings of more than one model.
    """
    try:
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
                count = _write(pool, file)
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DatapoolError(f"{path} cannot be written: {error.strerror or error}.") from error
    return count


def _write(pool: Datapool, file: TextIO) -> int:
    """The frames of the pool as Lightly's file; how many."""
    writer = csv.writer(file, lineterminator="\n")
    embedder, count = None, 0
    for name, part in pool.contents():
        if not part.filenames:
            continue
        if embedder is None:
            embedder = part.embedder
            writer.writerow(["filenames", *(f"embedding_{i}" for i in range(embedder.dimensions)), "labels"])
        elif part.embedder != embedder:
            raise DatapoolError(
                f"The datapool '{pool.name}' at {pool.uri} holds embeddings of {embedder} and of {part.embedder} "
                f"(part '{name}'): one CSV cannot hold both. Remove the parts of one of them first."
            )
        for filename, vector, label in zip(part.filenames, part.embeddings, part.labels, strict=True):
            # Nine digits give every float32 back exactly.
            writer.writerow([filename, *(f"{value:.9g}" for value in vector), int(label)])
        count += len(part.filenames)
    if embedder is None:
        raise DatapoolError(f"The datapool '{pool.name}' at {pool.uri} is empty: there is nothing to export.")
    return count


@dataclass(frozen=True)
class _Block:
    """Rows of the file: names, unit vectors float32 [k, d], labels int32 [k]."""

    filenames: list[str]
    vectors: NDArray[np.float32]
    labels: NDArray[np.int32]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What the file system or the text's form refuses is a DatapoolError."""
    try:
        yield
    except OSError as error:
        raise DatapoolError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DatapoolError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    except csv.Error as error:
        raise DatapoolError(f"{path} is not a CSV file: {error}.") from error


def _digest(path: Path) -> str:
    """The sha256 of the file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[_Block]:
    """The rows of the file, checked, 50,000 at a time."""
    # Spreadsheets put a byte order mark first.
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        places = {name.strip(): i for i, name in enumerate(header) if name.strip().startswith("embedding_")}
        columns = [places.get(f"embedding_{number}", -1) for number in range(len(places))]
        if "filenames" not in header or not columns or -1 in columns:
            raise DatapoolError(
                f"{path} is not an embeddings file of Lightly: its first line must name filenames, embedding_0, …"
            )
        name_at, label_at = header.index("filenames"), header.index("labels") if "labels" in header else None
        numbered = ((rows.line_num, row) for row in rows if row)
        while some := list(islice(numbered, _ROWS)):
            filenames, vectors, labels = [], [], []
            for line, row in some:
                try:
                    if len(row) != len(header):
                        raise ValueError(f"it has {len(row)} columns and the first line {len(header)}")
                    filenames.append(_name(row[name_at]))
                    vectors.append(_unit([float(row[i]) for i in columns]))
                    labels.append(_label(row[label_at]) if label_at is not None else 0)
                except ValueError as error:
                    raise DatapoolError(f"{path}, line {line}: {error}: correct or remove that line.") from error
            yield _Block(filenames, np.array(vectors, dtype=np.float32), np.array(labels, dtype=np.int32))


def _name(text: str) -> str:
    if not text or "\n" in text or "\r" in text:
        raise ValueError("the name of the frame is empty or holds a line break")
    return text


def _unit(values: list[float]) -> NDArray[np.float32]:
    """The vector at unit length; one that is, as far as float32 tells, stays as it is."""
    vector = np.array(values)
    if not np.isfinite(vector).all():
        raise ValueError("the embedding holds a value that is not a finite number")
    if abs(np.linalg.norm(vector) - 1) < _ROUNDING:
        return vector.astype(np.float32)
    # By its largest value first, so that no square is too large or too small for a number.
    largest = np.abs(vector).max()
    if not largest:
        raise ValueError("the embedding is zero")
    vector /= largest
    unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def _label(text: str) -> int:
    """Lightly's weak label, which it may write as 1.0."""
    value = float(text)
    if not (value.is_integer() and abs(value) < 2**31):
        raise ValueError(f"the label {text} is not a whole number of 32 bits")
    return int(value)
