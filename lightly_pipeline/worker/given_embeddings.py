"""Embeddings given by the user as CSV or Parquet, in place of the embedder's: Lightly's format.

Columns `filenames`, `embedding_0` … `embedding_{d-1}`, `labels`; besides, `masked` (1: leave the frame out) and
`selected` (1: the frame is selected already and counts towards n_samples). Other columns are ignored.
"""

import logging
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.errors import NothingToSelect, OptionError
from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.scan import EmbedderIdentity
from lightly_pipeline.worker.sources import Source

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GivenEmbeddings:
    """A table with the user's embeddings at unit length (or as given), and what else the user's file says.

    raw: float32 [n, d] as given. known: bool [n], the file has the frame and does not mask it. selected: bool [n].
    """

    table: FrameTable
    raw: NDArray[np.float32]
    known: NDArray[np.bool_]
    selected: NDArray[np.bool_]


def give_embeddings(table: FrameTable, file: str, source: Source, *, normalize: bool) -> GivenEmbeddings:
    """The table with the embeddings of `file`, a path on this machine or else a name below INPUT.

    Raises OptionError when the file is not in Lightly's format, NothingToSelect when it names none of the frames.
    """
    given = _read(file, source)
    columns = sorted(
        (name for name in given.column_names if name.startswith("embedding_") and name[10:].isdigit()),
        key=lambda name: int(name[10:]),
    )
    if "filenames" not in given.column_names or not columns:
        raise OptionError(
            f"embeddings={file} has the columns {', '.join(given.column_names[:5])}…: expected are filenames, "
            f"embedding_0, embedding_1, … and labels."
        )
    rows = {table.name(row): row for row in range(len(table))}
    places = np.array([rows.get(name, -1) for name in given["filenames"].to_pylist()], dtype=np.int64)
    there = places >= 0
    if not there.any():
        raise NothingToSelect(
            f"None of the {len(places)} file names in embeddings={file} is a frame of the input, such as "
            f"{table.name(0)}: names are relative to INPUT."
        )
    raw = np.zeros((len(table), len(columns)), dtype=np.float32)
    for number, name in enumerate(columns):
        raw[places[there], number] = _numbers(given, name, file)[there]
    known, selected = np.zeros(len(table), np.bool_), np.zeros(len(table), np.bool_)
    known[places[there]] = np.isfinite(raw[places[there]]).all(axis=1)
    raw[~known] = 0.0
    if "masked" in given.column_names:
        known[places[there & _marked(given, "masked", file)]] = False
    if "selected" in given.column_names:
        selected[places[there & _marked(given, "selected", file)]] = True
    log.info("Found embeddings of %d of %d frames in %s.", int(known.sum()), len(table), file)
    vectors: NDArray[np.float32] = raw
    if normalize:
        lengths = np.linalg.norm(raw, axis=1, keepdims=True)
        vectors = (raw / np.where(lengths > 0.0, lengths, 1.0)).astype(np.float32)
    identity = EmbedderIdentity("given", "1", len(columns))
    return GivenEmbeddings(replace(table, embeddings=vectors, embedder=identity), raw, known, selected & known)


def read_given(file: str, source: Source) -> bytes:
    """The content of the file: a path on this machine, else a name below INPUT."""
    return Path(file).read_bytes() if Path(file).is_file() else source.read(file)


def _read(file: str, source: Source) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv, parquet

    content = read_given(file, source)
    try:
        if file.lower().endswith(".parquet"):
            return parquet.read_table(BytesIO(content))
        return csv.read_csv(BytesIO(content))
    except pa.ArrowException as error:
        raise OptionError(f"embeddings={file} cannot be read: {' '.join(str(error).split())}.") from error


def _marked(given: "pa.Table", column: str, file: str) -> NDArray[np.bool_]:
    """bool [n]: a number other than 0 stands in the column; an empty cell marks nothing."""
    return np.asarray(np.nan_to_num(_numbers(given, column, file)) != 0)


def _numbers(given: "pa.Table", column: str, file: str) -> NDArray[np.float64]:
    import pyarrow as pa

    try:
        return np.asarray(given[column].cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException as error:
        raise OptionError(f"embeddings={file}: the column {column} holds something else than numbers.") from error
