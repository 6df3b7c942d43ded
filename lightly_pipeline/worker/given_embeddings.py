"""Embeddings given by the user as CSV or Parquet, in place of the embedder's: Lightly's format.

Columns `filenames`, `embedding_0` … `embedding_{d-1}`, `labels`; besides, `masked` (1: leave the frame out) and
`selected` (1: the frame is selected already and counts towards n_samples). Other columns are ignored.
"""

import hashlib
import logging
import re
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.errors import NothingToSelect, OptionError, StorageError
from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.scan import EmbedderIdentity
from lightly_pipeline.worker.select import LARGEST
from lightly_pipeline.worker.sources import Source

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)


_BLOCK = 65536


@dataclass(frozen=True)
class GivenEmbeddings:
    """A table with the user's embeddings at unit length (or as given), and what else the user's file says.

    raw: float32 [n, d] as given, 0 where the file has none. embedded: bool [n], the file has one. masked, selected:
    bool [n], marked as such; what is masked or has no embedding is not selected.
    """

    table: FrameTable
    raw: NDArray[np.float32]
    embedded: NDArray[np.bool_]
    masked: NDArray[np.bool_]
    selected: NDArray[np.bool_]


@dataclass(frozen=True)
class GivenFile:
    """The file of given embeddings, a path on this machine or else a name below INPUT, looked at before the scan."""

    name: str
    sha256: str
    identity: EmbedderIdentity


def look_at(options: Options, source: Source) -> GivenFile:
    """The file that the options name. Raises OptionError when it is not in Lightly's format."""
    content, columns = _begin(options.embeddings, source)
    # By these a datapool tells apart what cannot be compared.
    name = f"given:{options.embeddings_model}" if options.embeddings_model else "given"
    version = "1, at unit length" if options.normalize_embeddings else "1, as given"
    identity = EmbedderIdentity(name, version, len(columns))
    return GivenFile(options.embeddings, hashlib.sha256(content).hexdigest(), identity)


def give_embeddings(table: FrameTable, looked: GivenFile, source: Source, *, normalize: bool) -> GivenEmbeddings:
    """The table with the embeddings of the file.

    Raises OptionError when the file is not in Lightly's format, NothingToSelect when it names none of the frames.
    """
    file = looked.name
    given = _read(looked, source)
    rows = {name: row for row, name in enumerate(table.each_name(np.arange(len(table))))}
    places = np.array([rows.get(name, -1) for name in given["filenames"].to_pylist()], dtype=np.int64)
    there = places >= 0
    if not there.any():
        raise NothingToSelect(
            f"None of the {len(places)} file names in embeddings={file} is a frame of the input, such as "
            f"{table.name(0)}: names are relative to INPUT."
        )
    times = np.bincount(places[there], minlength=len(table))
    if times.max() > 1:
        raise OptionError(
            f"embeddings={file} names {table.name(int(times.argmax()))} {times.max()} times: leave one row for each "
            f"frame."
        )
    columns = _embedding_columns(given.column_names, file)
    raw = np.zeros((len(table), len(columns)), dtype=np.float32)
    with np.errstate(over="ignore"):
        for number, name in enumerate(columns):
            raw[places[there], number] = _numbers(given, name, file)[there]
    embedded = times > 0
    embedded &= ~np.isnan(raw).any(axis=1)
    raw[~embedded] = 0.0
    _check_lengths(raw, table, file)
    log.info("Found embeddings of %d of %d frames in %s.", int(embedded.sum()), len(table), file)
    masked, selected = np.zeros(len(table), np.bool_), np.zeros(len(table), np.bool_)
    for name, marks in (("masked", masked), ("selected", selected)):
        if name in given.column_names:
            marks[places[there]] = _marked(given, name, file)[there]
    vectors = at_unit_length(raw) if normalize else raw
    table = replace(table, embeddings=vectors, embedder=looked.identity)
    return GivenEmbeddings(table, raw, embedded, masked, selected & embedded & ~masked)


def _begin(file: str, source: Source) -> tuple[bytes, list[str]]:
    """The content of the file, which begins as it should, and its columns of embeddings.

    Raises OptionError where it does not: that can be told before all videos are decoded.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    content = Path(file).read_bytes() if Path(file).is_file() else source.read(file)
    try:
        start = BytesIO(content)
        names = parquet.read_schema(start).names if _is_parquet(file) else csv.open_csv(start).schema.names
    except pa.ArrowException as error:
        raise _unreadable(file, error) from error
    return content, _embedding_columns(names, file)


def _embedding_columns(names: list[str], file: str) -> list[str]:
    """embedding_0 … embedding_{d-1}; raises OptionError where they, or `filenames`, are not there once each."""
    numbers = sorted(int(name[10:]) for name in names if re.fullmatch(r"embedding_[0-9]+", name))
    if names.count("filenames") != 1 or not numbers:
        raise OptionError(
            f"embeddings={file} has the columns {', '.join(names[:5])}…: expected are filenames, "
            f"embedding_0, embedding_1, … and labels."
        )
    columns = [f"embedding_{number}" for number in range(len(numbers))]
    if wrong := [name for name in columns if names.count(name) != 1]:
        raise OptionError(
            f"embeddings={file} has {len(numbers)} columns of embeddings up to embedding_{numbers[-1]}, but not one "
            f"{wrong[0]}: each number from 0 on must be there once."
        )
    return columns


def at_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n, d], each row divided by its Euclidean length; rows of zeros stay."""
    lengths = np.sqrt(_squared_lengths(vectors)).astype(np.float32)
    lengths[lengths == 0.0] = 1.0
    return np.asarray(vectors / lengths[:, None], dtype=np.float32)


def _squared_lengths(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the rows of float32 [n, d], float64 [n], which holds what float32 does not."""
    squares = np.empty(len(vectors), dtype=np.float64)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float64)
        squares[start : start + _BLOCK] = np.einsum("ij,ij->i", block, block)
    return squares


def _check_lengths(raw: NDArray[np.float32], table: FrameTable, file: str) -> None:
    """Raise OptionError where a row of float32 [n, d] is too long to be compared with others."""
    squares = _squared_lengths(raw)
    if squares.max() >= LARGEST:
        raise OptionError(
            f"embeddings={file}: the embedding of {table.name(int(squares.argmax()))} has values too large for float32 "
            f"once they are squared: scale all of them."
        )


def _is_parquet(file: str) -> bool:
    return file.lower().endswith(".parquet")


def _unreadable(file: str, error: Exception) -> OptionError:
    return OptionError(f"embeddings={file} cannot be read: {' '.join(str(error).split()).rstrip('.')}.")


def _read(looked: GivenFile, source: Source) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv, parquet

    content, _ = _begin(looked.name, source)
    if hashlib.sha256(content).hexdigest() != looked.sha256:
        raise StorageError(
            f"embeddings={looked.name} was changed while the worker ran: start the run again, and leave it alone."
        )
    try:
        return parquet.read_table(BytesIO(content)) if _is_parquet(looked.name) else csv.read_csv(BytesIO(content))
    except pa.ArrowException as error:
        raise _unreadable(looked.name, error) from error


def _marked(given: "pa.Table", column: str, file: str) -> NDArray[np.bool_]:
    """bool [n]: a number other than 0 stands in the column; an empty cell marks nothing."""
    return np.asarray(np.nan_to_num(_numbers(given, column, file)) != 0)


def _numbers(given: "pa.Table", column: str, file: str) -> NDArray[np.float64]:
    import pyarrow as pa

    try:
        return np.asarray(given[column].cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException as error:
        raise OptionError(f"embeddings={file}: the column {column} holds something else than numbers.") from error
