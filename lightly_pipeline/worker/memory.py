"""Keeping memory flat: rows in files of which only what is being read is held, and freed memory given back."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
# Bytes; more than a 1080p picture, which comes and goes for every frame.
_LARGE = 16 << 20

# A row that is read brings up to 64 kB around it: 8 MB at a time.
_BLOCK = 128


class MappedRows(np.memmap):
    """float32 [n, d], read-only, that does not stay in the memory of the process that reads it.

    A map's pages count as the process's memory once they were touched, and rows in any order touch all of them. Taking
    rows by their numbers, or a slice, lets go of what was touched before; the system keeps it while it has room.
    """

    def __getitem__(self, index: Any) -> Any:
        """Rows by number are a copy, made block by block; everything else is as in NumPy."""
        if not isinstance(index, np.ndarray) or index.ndim != 1 or index.dtype.kind != "i" or self.ndim != 2:
            if isinstance(index, slice):
                let_go(self)
            return super().__getitem__(index)
        rows = np.empty((len(index), self.shape[1]), dtype=self.dtype)
        plain = self.view(np.ndarray)
        order = np.argsort(index, kind="stable")
        for start in range(0, len(index), _BLOCK):
            block = order[start : start + _BLOCK]
            rows[block] = plain[index[block]]
            let_go(self)
        return rows


def mapped_rows(path: Path | str, shape: tuple[int, ...], offset: int = 0) -> NDArray[np.float32]:
    """The rows that lie in a file from `offset` on."""
    return MappedRows(path, dtype=np.float32, mode="r", offset=offset, shape=shape)


@dataclass(frozen=True)
class StoredRows:
    """Rows of float32 in a file, mapped for as long as they are read: each map holds a file open."""

    file: str
    shape: tuple[int, ...]
    offset: int = 0

    def __len__(self) -> int:
        """How many rows."""
        return self.shape[0]

    def open(self) -> NDArray[np.float32]:
        """The rows; none cannot be mapped."""
        return mapped_rows(self.file, self.shape, self.offset) if np.prod(self.shape) else np.empty(self.shape, "f4")


def opened(rows: NDArray[np.float32] | StoredRows) -> NDArray[np.float32]:
    """Rows that are in memory, or else their map."""
    return rows.open() if isinstance(rows, StoredRows) else rows


def let_go(rows: NDArray[np.float32]) -> None:
    """Give back the memory of what was read of a mapped array, which is read again when it is needed."""
    base: Any = rows
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def allocate_sparingly(threads: int) -> None:
    """Have the C library keep less of what is freed, where it can be told so (glibc).

    At most `threads` of them get memory of their own to allocate from: what one freed stays there, in pieces, 50 MB
    after six hours of video on two cores. And what is large (a container's index, a stretch of embeddings) always comes
    from the system and goes back; glibc would stop that after the first such piece.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, threads)
        set_option(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Return freed memory to the system where the C library can (glibc keeps it otherwise)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
