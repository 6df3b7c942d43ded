"""One part of a datapool: what one video contributed, as a NumPy .npz archive.

Arrays in the archive: `schema` (int, 1), `filenames` (UTF-8 bytes joined by newlines), `embeddings` (float32 [k, d]),
`labels` (int32 [k], Lightly's weak labels), `about` (UTF-8 JSON: the embedder's identity and the content hash of the
video). Nothing in it depends on the time of writing: the same selection gives the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class DatapoolError(Exception):
    """The datapool cannot be used as asked; the message says why and what to do."""


class EmbedderLike(Protocol):
    """What made an embedding: vectors are comparable only when all three agree."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def dimensions(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Embedder:
    """An embedder's identity as a part remembers it."""

    name: str
    version: str
    dimensions: int

    @classmethod
    def of(cls, embedder: EmbedderLike) -> Embedder:
        """The identity of any embedder."""
        return cls(str(embedder.name), str(embedder.version), int(embedder.dimensions))

    def __str__(self) -> str:
        """As sentences name it."""
        return f"{self.name} {self.version} ({self.dimensions} dimensions)"


@dataclass(frozen=True)
class Part:
    """What one video contributed: frame names, unit embeddings float32 [k, d] and where they come from."""

    filenames: tuple[str, ...]
    embeddings: NDArray[np.float32]
    embedder: Embedder
    content: str
    labels: NDArray[np.int32]

    @classmethod
    def make(
        cls,
        filenames: Sequence[str],
        embeddings: NDArray[np.floating],
        embedder: EmbedderLike,
        content: str,
        labels: NDArray[np.integer] | None = None,
    ) -> Part:
        """A checked part; raises DatapoolError where names and vectors do not fit together."""
        identity = Embedder.of(embedder)
        rows = np.ascontiguousarray(embeddings, dtype=np.float32)
        if rows.ndim != 2 or rows.shape != (len(filenames), identity.dimensions):
            raise DatapoolError(
                f"{len(filenames)} frame names and {identity} need embeddings of the shape "
                f"({len(filenames)}, {identity.dimensions}), not {rows.shape}."
            )
        if len(rows) and not identity.dimensions:
            raise DatapoolError(f"Embeddings of {identity} tell no frames apart: use an embedder with dimensions.")
        if not np.isfinite(rows).all():
            raise DatapoolError("An embedding holds a value that is not a finite number: leave that frame out.")
        if any("\n" in name or "\r" in name for name in filenames):
            raise DatapoolError("A frame name holds a line break, which the lists cannot store: rename the video.")
        if not all(filenames):
            raise DatapoolError("A frame has no name: give it the name of its picture.")
        if labels is None:
            labels = np.zeros(len(filenames), dtype=np.int32)
        return cls(tuple(filenames), rows, identity, content, np.asarray(labels, dtype=np.int32))

    def to_bytes(self) -> bytes:
        """The archive."""
        about = {**vars(self.embedder), "content": self.content}
        arrays = {
            "schema": np.array(SCHEMA),
            "about": _text(json.dumps(about, sort_keys=True)),
            "filenames": _text("\n".join(self.filenames)),
            "labels": self.labels,
            "embeddings": self.embeddings,
        }
        return archive(arrays)

    @classmethod
    def read(cls, file: IO[bytes], name: str) -> Part:
        """The part in an open archive; `name` is for the message when it is none."""
        arrays = read_archive(file, name)
        try:
            if int(arrays["schema"]) > SCHEMA:
                raise DatapoolError(
                    f"{name} was written by a newer worker (schema {int(arrays['schema'])}): update this one."
                )
            about = json.loads(_string(arrays["about"]))
            joined = _string(arrays["filenames"])
            filenames = tuple(joined.split("\n")) if joined else ()
            embedder = Embedder(str(about["name"]), str(about["version"]), int(about["dimensions"]))
            embeddings, labels = arrays["embeddings"], arrays["labels"]
            if embeddings.dtype != np.float32 or embeddings.shape != (len(filenames), embedder.dimensions):
                raise ValueError(f"embeddings are {embeddings.dtype} {embeddings.shape}")
            if len(filenames) and not embedder.dimensions:
                raise ValueError("its embeddings have no dimensions")
            if not np.isfinite(embeddings).all():
                raise ValueError("an embedding holds a value that is not a finite number")
            if labels.dtype != np.int32 or labels.shape != (len(filenames),):
                raise ValueError(f"labels are {labels.dtype} {labels.shape}")
            return cls(filenames, embeddings, embedder, str(about["content"]), labels)
        except (LookupError, ValueError, TypeError) as error:
            raise _not_a_part(name, error) from error


def check_name(kind: str, name: str) -> str:
    """`name` if it is safe as one segment of a path or key; raises DatapoolError."""
    if not _NAME.fullmatch(name):
        raise DatapoolError(
            f"'{name}' cannot name a {kind}: use up to 128 letters, digits, dots, dashes and underscores, "
            "a letter or digit first."
        )
    return name


def archive(arrays: dict[str, NDArray[Any]]) -> bytes:
    """A .npz archive whose bytes depend on the arrays alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, array in arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


def read_archive(file: IO[bytes], name: str) -> dict[str, NDArray[Any]]:
    """All arrays of a .npz archive; never unpickles. Raises DatapoolError when it is none."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except Exception as error:  # damaged bytes fail in zipfile, zlib and NumPy in more ways than can be listed
        # NumPy takes what is no archive for a pickle, and tells people how to load it all the same.
        raise _not_a_part(name, ValueError("it is no archive") if "pickle" in str(error) else error) from error


def _not_a_part(name: str, error: Exception) -> DatapoolError:
    return DatapoolError(
        f"{name} is not a readable part of a datapool ({type(error).__name__}: {error}). "
        "Delete it and run its video again, or move it out of the datapool."
    )


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _string(array: NDArray[Any]) -> str:
    return array.tobytes().decode()
