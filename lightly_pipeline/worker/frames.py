"""All frames of the input as one table: a row per frame, in the order of the sorted files and of display.

Columns are arrays, so that millions of frames cost bytes and not objects. Names are made when asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.memory import StoredRows, mapped_rows, opened
from lightly_pipeline.worker.scan import EmbedderIdentity, Problem, VideoScan
from lightly_pipeline.worker.sources import InputFile

#: Embeddings of more frames than this are mapped from a file instead of held in memory.
_IN_MEMORY = 100_000
_BLOCK = 65536


@dataclass
class ScannedFiles:
    """One video, or a batch of images, and what its scan found; frame i of an image batch is `files[i]`."""

    files: tuple[InputFile, ...]
    scan: VideoScan
    sha256: tuple[str, ...]
    images: bool


@dataclass(frozen=True)
class FrameTable:
    """Every frame that was decoded, corrupt ones included.

    scanned: where the rows come from. starts: int64 [s + 1], rows of scanned[i] are starts[i]:starts[i+1]. video:
    int32 [n], number of the row's input file. frames: the scans' FRAME_DTYPE rows [n]. embeddings: float32 [n, d].
    """

    scanned: tuple[ScannedFiles, ...]
    starts: NDArray[np.int64]
    video: NDArray[np.int32]
    frames: NDArray[np.void]
    embeddings: NDArray[np.float32]
    embedder: EmbedderIdentity

    def __len__(self) -> int:
        """How many frames."""
        return len(self.frames)

    @cached_property
    def files(self) -> tuple[InputFile, ...]:
        """The input files, in order; `video` indexes them."""
        return tuple(file for part in self.scanned for file in part.files)

    def locate(self, row: int) -> tuple[int, int]:
        """(index into `scanned`, frame index within it) of a row."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return part, row - int(self.starts[part])

    def name(self, row: int) -> str:
        """The row's name in every list: Lightly's frame name, or an image's own path."""
        return self.names([row])[0]

    def names(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """The names of rows."""
        rows = np.asarray(rows, dtype=np.int64)
        parts = np.searchsorted(self.starts, rows, side="right") - 1
        indices = rows - self.starts[parts]
        return [self._namers[part](index) for part, index in zip(parts.tolist(), indices.tolist(), strict=True)]

    def each_name(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """The names of rows, one after the other, for lists of which memory should not hold all."""
        for start in range(0, len(rows), _BLOCK):
            yield from self.names(rows[start : start + _BLOCK])

    @cached_property
    def _namers(self) -> list[Callable[[int], str]]:
        """For each scan the function that names its frames."""
        return [
            _namer_of_images(part.files) if part.images else frame_namer(part.files[0].name, len(part.scan.frames))
            for part in self.scanned
        ]

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """int32 [n], the label of each row: the number of its video, or of the folder that its image lies in."""
        if not any(part.images for part in self.scanned):
            return self.video
        folders = [PurePosixPath(file.name).parent.as_posix() for file in self.files]
        _, numbers = np.unique(folders, return_inverse=True)
        return numbers.astype(np.int32)[self.video]

    @cached_property
    def runs(self) -> NDArray[np.int32]:
        """int32 [n], what follows each other in time: the number of its video; images are one run, by their names."""
        return np.zeros_like(self.video) if all(part.images for part in self.scanned) else self.video

    def give_up(self, rows: Sequence[int], reason: str) -> None:
        """Call frames corrupt that proved to be so only after the scan."""
        self.frames["ok"][list(rows)] = False
        for row in rows:
            part, index = self.locate(row)
            self.scanned[part].scan.problems.append(Problem(index, reason, "frame"))

    def problems(self) -> list[tuple[InputFile, str | None, Problem]]:
        """(file, frame name or None when it concerns the file, problem), in order."""
        found = []
        for part, scanned in enumerate(self.scanned):
            for problem in scanned.scan.problems:
                index = problem.frame_index
                if scanned.images:
                    file = scanned.files[index or 0]
                    found.append((file, None if index is None else file.name, problem))
                else:
                    name = None if index is None else self.name(int(self.starts[part]) + index)
                    found.append((scanned.files[0], name, problem))
        return found


def make_frame_table(scanned: Sequence[ScannedFiles], folder: Path) -> FrameTable:
    """The table of all scans, at least one of which has frames; large embeddings are mapped from `folder`."""
    counts = [len(part.scan.frames) for part in scanned]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    video = np.empty(int(starts[-1]), np.int32)
    file = 0
    for part, start, count in zip(scanned, starts[:-1], counts, strict=True):
        video[start : start + count] = np.arange(file, file + count) if part.images else file
        file += len(part.files)
    readable = [part.scan for part in scanned if len(part.scan.frames)]
    embedder = readable[0].embedder
    if len(readable) == 1:
        embeddings = opened(readable[0].embeddings)
    else:
        embeddings = _stacked([scan.embeddings for scan in readable], embedder.dimensions, folder)
    frames = readable[0].frames if len(readable) == 1 else np.concatenate([scan.frames for scan in readable])
    return FrameTable(tuple(scanned), starts, video, frames, embeddings, embedder)


def frame_namer(video: str, frames: int) -> Callable[[int], str]:
    """Lightly's names of frames: `sub/clip-099-mp4.png` is frame 99 of the 200 of `sub/clip.mp4`."""
    path = PurePosixPath(video)
    stem, digits, extension = path.with_suffix("").as_posix(), len(str(frames)), path.suffix[1:]
    return lambda index: f"{stem}-{index:0{digits}}-{extension}.png"


def _namer_of_images(files: Sequence[InputFile]) -> Callable[[int], str]:
    return lambda index: files[index].name


def _stacked(parts: Sequence[NDArray[np.float32] | StoredRows], dimensions: int, folder: Path) -> NDArray[np.float32]:
    """All rows below each other; one part at a time is open."""
    rows = sum(len(part) for part in parts)
    if rows <= _IN_MEMORY:
        stacked, end = np.empty((rows, dimensions), np.float32), 0
        for part in parts:
            stacked[end : end + len(part)] = opened(part)
            end += len(part)
        return stacked
    path = folder / "embeddings.float32"
    with path.open("wb") as file:
        for part in parts:
            read = opened(part)
            for start in range(0, len(read), _BLOCK):
                # Not by `tofile`, whose error on a full disk does not say that the disk is full.
                file.write(np.ascontiguousarray(read[start : start + _BLOCK]).data)
    return mapped_rows(path, (rows, dimensions))
