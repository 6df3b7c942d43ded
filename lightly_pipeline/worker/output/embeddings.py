"""Embeddings as Lightly's CSV: `filenames,embedding_0,…,embedding_{d-1},labels`.

Written through Arrow: formatting 2 million numbers in Python would take as long as decoding the video.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.given_embeddings import at_unit_length
from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.output import layout

_BLOCK = 4096


def write_embeddings(tree: Path, outcome: Outcome, raw: NDArray[np.float32] | None, *, with_selected: bool) -> None:
    """The embeddings of all unique frames that have one, the same at unit length, and those of the selected frames.

    raw: float32 [n, d] as the user or a model gave them, which is the table's own where nothing was normalised; None
    where the embedder made them at unit length.
    """
    table = outcome.table
    rows = np.flatnonzero(outcome.comparable)
    normalized = tree / layout.NORMALIZED_EMBEDDINGS
    write_embeddings_csv(normalized, table, rows, table.embeddings, normalize=raw is table.embeddings)
    if raw is None:
        shutil.copyfile(normalized, tree / layout.EMBEDDINGS)
    else:
        write_embeddings_csv(tree / layout.EMBEDDINGS, table, rows, raw)
    if with_selected:
        given = table.embeddings if raw is None else raw
        write_embeddings_csv(tree / layout.SELECTED_EMBEDDINGS, table, outcome.selected, given)


def write_embeddings_csv(
    path: Path,
    table: FrameTable,
    rows: Sequence[int] | NDArray[np.int64],
    embeddings: NDArray[np.float32],
    *,
    normalize: bool = False,
) -> None:
    """One CSV of the given rows, at unit length if that is wanted; labels are those of the table."""
    import pyarrow as pa
    from pyarrow import csv

    rows = np.asarray(rows, dtype=np.int64)
    columns = [f"embedding_{i}" for i in range(embeddings.shape[1])]
    schema = pa.schema(
        [("filenames", pa.string()), *((name, pa.float32()) for name in columns), ("labels", pa.int32())]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(",".join(["filenames", *columns, "labels"]).encode() + b"\n")
        # Arrow would put every name in quotes; only those that a comma or a quote breaks need them.
        awkward = any(sign in file.name for file in table.files for sign in ',"')
        options = csv.WriteOptions(include_header=False, quoting_style="needed" if awkward else "none")
        with csv.CSVWriter(file, schema, write_options=options) as writer:
            for start in range(0, len(rows), _BLOCK):
                block = rows[start : start + _BLOCK]
                vectors = at_unit_length(embeddings[block]) if normalize else embeddings[block]
                values = np.ascontiguousarray(vectors.T)
                arrays = [pa.array(table.names(block), pa.string()), *map(pa.array, values)]
                arrays.append(pa.array(table.labels[block]))
                writer.write_batch(pa.record_batch(arrays, schema=schema))
