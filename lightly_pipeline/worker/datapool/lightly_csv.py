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
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.datapool.part import DatapoolError, Embedder
from lightly_pipeline.worker.datapool.pool import Datapool

_ROWS = 50_000


def import_csv(pool: Datapool, path: Path, *, name: str, version: str) -> int:
    """Add the frames of `path` to the pool as embeddings of the model `name`, `version`; returns how many.

    Vectors are scaled to unit length, as Lightly's worker does before it selects. The same file imported again
    replaces itself. Memory holds 50,000 rows at a time. Raises DatapoolError with the line that cannot be read.
    """
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(path)
    total = 0
    for number, (filenames, vectors, labels) in enumerate(_blocks(path)):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (norms > 0).all():
            raise DatapoolError(f"{path}: the embedding of {filenames[int(norms.argmin())]} is zero: remove that line.")
        embedder = Embedder(name, version, vectors.shape[1])
        part = f"import-{content[:16]}-{number:04}"
        pool.replace(part, filenames, vectors / norms, embedder, content, labels)
        total += len(filenames)
    return total


def export_csv(pool: Datapool, path: Path) -> int:
    """Write all frames of the pool to `path` as Lightly's file, at once; returns how many."""
    count, dimensions = 0, None
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            for name, _ in pool.parts():
                part = pool.read(name)
                if dimensions is None:
                    dimensions = part.embedder.dimensions
                    writer.writerow(["filenames", *(f"embedding_{i}" for i in range(dimensions)), "labels"])
                elif dimensions != part.embedder.dimensions:
                    raise DatapoolError(
                        f"The datapool holds embeddings of {dimensions} and of {part.embedder.dimensions} dimensions "
                        f"(part '{name}'): one CSV cannot hold both. Remove the parts of one embedder first."
                    )
                for filename, vector, label in zip(part.filenames, part.embeddings, part.labels, strict=True):
                    # Nine digits give every float32 back exactly.
                    writer.writerow([filename, *(f"{value:.9g}" for value in vector), int(label)])
                count += len(part.filenames)
            if dimensions is None:
                raise DatapoolError(f"The datapool '{pool.name}' at {pool.uri} is empty: there is nothing to export.")
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return count


def _digest(path: Path) -> str:
    """hashlib.file_digest for Python 3.10."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[tuple[list[str], NDArray[np.float32], NDArray[np.int32]]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        columns = [i for i, name in enumerate(header) if name.strip().startswith("embedding_")]
        if "filenames" not in header or not columns:
            raise DatapoolError(
                f"{path} is not an embeddings file of Lightly: its first line must name filenames, embedding_0, …"
            )
        name_at, label_at = header.index("filenames"), header.index("labels") if "labels" in header else None
        filenames: list[str] = []
        vectors: list[list[float]] = []
        labels: list[int] = []
        for row in rows:
            try:
                vectors.append([float(row[i]) for i in columns])
                labels.append(int(float(row[label_at])) if label_at is not None else 0)
                filenames.append(row[name_at])
            except (IndexError, ValueError) as error:
                raise DatapoolError(f"{path}, line {rows.line_num}: {error}: correct or remove that line.") from error
            if len(filenames) == _ROWS:
                yield filenames, np.array(vectors, dtype=np.float32), np.array(labels, dtype=np.int32)
                filenames, vectors, labels = [], [], []
        if filenames:
            yield filenames, np.array(vectors, dtype=np.float32), np.array(labels, dtype=np.int32)
