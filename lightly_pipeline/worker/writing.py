"""Writing the selected frames, and small pictures of them, from the scans that found them."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightly_pipeline.worker.errors import OptionError, StorageError
from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.output.contact_sheet import thumbnail
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.scan import FramesLost, PictureTooLarge, ScanError, write_frames
from lightly_pipeline.worker.scan.cores import usable_cores
from lightly_pipeline.worker.scanning import Scanner, file_sha256, scan_settings
from lightly_pipeline.worker.scratch import DISK_FULL


class RowsLost(Exception):
    """Frames of a damaged file that cannot be decoded a second time: `rows` of the table."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(f"rows {list(rows)} cannot be decoded again")
        self.rows = tuple(rows)


@dataclass(frozen=True)
class Writer:
    """Writes frames of a table; fetches input again where it had to make room."""

    table: FrameTable
    options: Options
    scanner: Scanner
    progress: Progress

    def write(
        self, folder: Path, rows: NDArray[np.int64], shown: Sequence[int]
    ) -> tuple["Dumped", dict[int, Image.Image]]:
        """The rows as files below the folder, and small pictures of those that are shown, rows or not.

        Frames that no scan kept are decoded again, once for both.
        """
        files = Dumped(self.table, folder, rows, self.options.output_image_format)
        work = self.scanner.scratch.work
        small = {row: work / f"small-{row}.jpg" for row in shown if not self._is_kept(row)}
        with self.progress.stage("write", len(rows)) as stage:
            for part, (start, end) in enumerate(itertools.pairwise(self.table.starts.tolist())):
                picks = rows[(start <= rows) & (rows < end)] - start
                shown_here = {row - start: path for row, path in small.items() if start <= row < end}
                if len(picks) or shown_here:
                    self._write(part, picks, files, shown_here, stage.advance)
        return files, self._small_pictures(shown, small)

    def kept_rows(self) -> NDArray[np.int64]:
        """The rows whose pictures the scans kept, ascending."""
        parts = zip(self.table.scanned, self.table.starts[:-1], strict=True)
        return np.concatenate([scanned.scan.kept + start for scanned, start in parts])

    def _small_pictures(self, rows: Sequence[int], files: Mapping[int, Path]) -> dict[int, Image.Image]:
        """From what the scans kept, or from the small files."""

        def small(row: int) -> Image.Image:
            part, index = self.table.locate(row)
            try:
                kept = self.table.scanned[part].scan.pictures.read_small(index)
                return thumbnail(files[row].read_bytes() if kept is None else kept)
            except (OSError, ValueError) as error:
                raise StorageError(
                    f"The picture of {self.table.name(row)} cannot be read again: {error}. Start the run again."
                ) from error

        with ThreadPoolExecutor(
            scan_settings(self.options).threads or usable_cores(), thread_name_prefix="small"
        ) as threads:
            return dict(zip(rows, threads.map(small, rows), strict=True))

    def _is_kept(self, row: int) -> bool:
        part, index = self.table.locate(row)
        return index in self.table.scanned[part].scan.pictures

    def _write(
        self,
        part: int,
        indices: NDArray[np.int64],
        files: Mapping[int, Path],
        small: Mapping[int, Path],
        on_progress: Callable[[int], None],
    ) -> None:
        """Frames of one scan to the files of their rows, and small pictures by their index in it."""
        scanned, start = self.table.scanned[part], int(self.table.starts[part])
        if small or not np.isin(indices, scanned.scan.kept).all():
            self.scanner.fetch(scanned.files)
        try:
            write_frames(
                scanned.scan, indices.tolist(), lambda index: files[start + index], small=small, on_progress=on_progress
            )
        except FramesLost as error:
            [file], [digest] = scanned.files, scanned.sha256
            if file_sha256(scanned.scan.path) != digest:
                raise StorageError(
                    f"{file.name} was changed while the worker ran: start the run again, and leave the input alone."
                ) from error
            raise RowsLost([int(self.table.starts[part]) + index for index in error.indices]) from error
        except PictureTooLarge as error:
            raise OptionError(f"{error} Give another output_image_size or output_image_format.") from error
        except ScanError as error:
            raise StorageError(f"{error} Start the run again.") from error
        except OSError as error:
            if error.errno in DISK_FULL:
                raise  # the scratch folder has a better sentence
            if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
                raise StorageError(
                    f"A frame of {scanned.files[0].name} would have the name of a folder of the input "
                    f"({error.filename}): rename that folder."
                ) from error
            raise StorageError(f"A frame could not be written: {error.strerror or error}.") from error


class Dumped(Mapping[int, Path]):
    """The file of each written row: its name with the extension of the written format.

    Images that would have the name of another (a.bmp, a.tif) keep their extension: a.bmp.png, a.tif.png. Paths are made
    when asked for; a hundred thousand would take as many kilobytes.
    """

    def __init__(self, table: FrameTable, folder: Path, rows: NDArray[np.int64], image_format: str) -> None:
        """rows: int64 [k], ascending."""
        self._table, self._folder, self._extension = table, folder, f".{image_format}"
        self._rows = rows
        self._in_full: set[str] = set()
        images = table.names([row for row in self if table.scanned[table.locate(row)[0]].images])
        while images:
            names = Counter(self._file_of(image) for image in images)
            shared = {image for image in images if names[self._file_of(image)] > 1} - self._in_full
            if not shared:
                break
            self._in_full |= shared

    def __getitem__(self, row: int) -> Path:
        """Where a row was written; KeyError for one that was not."""
        if row not in self:
            raise KeyError(row)
        return self._folder / self._file_of(self._table.name(row))

    def __contains__(self, row: object) -> bool:
        """Whether the row was written."""
        if not isinstance(row, int):
            return False
        place = int(np.searchsorted(self._rows, row))
        return place < len(self._rows) and int(self._rows[place]) == row

    def __iter__(self) -> Iterator[int]:
        """The rows that were written."""
        return map(int, self._rows)

    def __len__(self) -> int:
        """How many were written."""
        return len(self._rows)

    def _file_of(self, name: str) -> str:
        if name in self._in_full:
            return name + self._extension
        return PurePosixPath(name).with_suffix(self._extension).as_posix()
