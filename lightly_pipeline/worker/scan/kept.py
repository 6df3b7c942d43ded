"""Pictures that are kept while frames are decoded: those of a chunk one after the other in one file of scratch.

A file for each of them would take as long to make as a small picture takes to encode, and a path each in memory.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

#: index: the frame; pack: number of the file; offset, size: where in it, in bytes; small: bytes of a small version of
#: it that follows, 0 where the picture itself is read as quickly.
_PICTURE = np.dtype(
    [("index", np.int64), ("pack", np.int32), ("offset", np.int64), ("size", np.int32), ("small", np.int32)]
)
#: Bytes of what a file system writes at a time, and how many of these are looked at together.
_PAGE, _PAGES = 4096, 256


def _path(folder: Path, pack: int) -> Path:
    return folder / f"{pack}.pictures"


class Pack:
    """The file of one chunk, which appears with its first picture."""

    def __init__(self, folder: Path, number: int) -> None:
        self._path = _path(folder, number)
        self._number = number
        self._file: BinaryIO | None = None
        self._end = 0
        self._pictures: list[tuple[int, ...]] = []

    def add(self, index: int, picture: bytes, small: bytes = b"") -> None:
        """Keep the encoded picture of a frame of the chunk. Raises OSError when the disk does not take it."""
        if self._file is None:
            self._file = self._path.open("wb")
        self._file.write(picture)
        self._file.write(small)
        self._pictures.append((index, self._number, self._end, len(picture), len(small)))
        self._end += len(picture) + len(small)

    def finish(self) -> NDArray[np.void]:
        """Close it; what is in it, for `KeptPictures`: indices count from the chunk's first frame."""
        self.close()
        return np.array(self._pictures, dtype=_PICTURE)

    def close(self) -> None:
        """Close the file; a second time does nothing. Raises OSError when the disk does not take the last of it."""
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True)
class KeptPictures:
    """The kept pictures of one scan. table: a row for each, by ascending frame index."""

    folder: Path
    table: NDArray[np.void]

    @classmethod
    def of(cls, folder: Path, packs: list[NDArray[np.void]] | None = None) -> KeptPictures:
        """Those of all chunks, in their order."""
        return cls(folder, np.concatenate(packs) if packs else np.empty(0, _PICTURE))

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """The frames whose picture is kept, ascending; a column of the table would be copied for each search."""
        return np.array(self.table["index"], dtype=np.int64)

    def __contains__(self, index: int) -> bool:
        """Whether the picture of a frame is kept."""
        return self._place(index) is not None

    def read(self, index: int) -> bytes | None:
        """The picture of a frame, None where it was not kept. Raises OSError when the disk does not give it."""
        return self._read(index, small=False)

    def read_small(self, index: int) -> bytes | None:
        """A picture of a frame that is quick to decode: a small one, or the picture itself. None as for `read`."""
        return self._read(index, small=True)

    def _read(self, index: int, *, small: bool) -> bytes | None:
        place = self._place(index)
        if place is None:
            return None
        _, pack, offset, size, rest = self.table[place].item()
        if small and rest:
            offset, size = offset + size, rest
        with _path(self.folder, pack).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _place(self, index: int) -> int | None:
        place = int(np.searchsorted(self.indices, index))
        return place if place < len(self.indices) and self.indices[place] == index else None

    def is_whole(self) -> bool:
        """Whether every file is there as it was written, as far as that can be told without reading pictures.

        What a machine did not bring to the disk when it lost its power reads as zeros, of which no picture has as many.
        """
        numbers, last = np.unique(self.table["pack"][::-1], return_index=True)
        ends = (self.table["offset"] + self.table["size"] + self.table["small"])[::-1][last]
        with suppress(OSError):
            return all(
                _path(self.folder, pack).stat().st_size >= end and not _has_lost(_path(self.folder, pack))
                for pack, end in zip(numbers.tolist(), ends.tolist(), strict=True)
            )
        return False


def _has_lost(path: Path) -> bool:
    """Whether a page of a file is all zeros."""
    with path.open("rb") as file:
        while block := file.read(_PAGES * _PAGE):
            # One word in each page tells most of them from zeros.
            words = np.frombuffer(block[: len(block) // _PAGE * _PAGE], np.uint64).reshape(-1, _PAGE // 8)
            suspects = words[words[:, 0] == 0]
            if len(suspects) and not suspects.any(axis=1).all():
                return True
            if len(block) % _PAGE and not any(block[len(block) // _PAGE * _PAGE :]):
                return True
    return False
