"""Writing the selected frames, and small pictures of them, from the scans that found them."""

import io
from collections import Counter, defaultdict
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
from lightly_pipeline.worker.scan.encode import SMALL, Size
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

    def dump(self, folder: Path, rows: Sequence[int]) -> "Dumped":
        """The rows as files below the folder."""
        files = Dumped(self.table, folder, rows, self.options.output_image_format)
        with self.progress.stage("write", len(rows)) as stage:
            for part, indices in self._by_scan(rows).items():
                image_format, size = self.options.output_image_format, self.options.output_image_size
                self._write(part, indices, files.__getitem__, image_format, size, stage.advance)
        return files

    def kept_rows(self) -> NDArray[np.int64]:
        """The rows whose pictures the scans kept, ascending."""
        parts = zip(self.table.scanned, self.table.starts[:-1], strict=True)
        return np.concatenate([scanned.scan.kept + start for scanned, start in parts])

    def small_pictures(self, rows: Sequence[int], folder: Path, files: Mapping[int, Path]) -> dict[int, Image.Image]:
        """Small pictures of the rows, from what the scans kept or from their `files`, else decoded again."""
        paths = {row: files[row] for row in rows if row in files}
        for part, indices in self._by_scan([r for r in rows if r not in paths and not self._is_kept(r)]).items():
            new = {int(self.table.starts[part]) + index: folder / f"{part}-{index}.jpg" for index in indices}
            self._write(part, indices, new.__getitem__, "jpg", SMALL, lambda done: self.progress.check())
            paths |= new

        def small(row: int) -> Image.Image:
            part, index = self.table.locate(row)
            try:
                kept = self.table.scanned[part].scan.pictures.read_small(index)
                return thumbnail(paths[row] if kept is None else io.BytesIO(kept))
            except OSError as error:
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

    def _by_scan(self, rows: Sequence[int]) -> dict[int, list[int]]:
        by_scan: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            part, index = self.table.locate(row)
            by_scan[part].append(index)
        return by_scan

    def _write(
        self,
        part: int,
        indices: Sequence[int],
        target: Callable[[int], Path],
        image_format: str,
        size: Size,
        on_progress: Callable[[int], None],
    ) -> None:
        """Frames of one scan to where the `target` of their row is."""
        scanned, start = self.table.scanned[part], int(self.table.starts[part])
        self.scanner.fetch(scanned.files)
        try:
            write_frames(
                scanned.scan,
                indices,
                lambda index: target(start + index),
                image_format=image_format,
                output_image_size=size,
                on_progress=on_progress,
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
            raise StorageError(f"A frame could not be written: {error.strerror or error}.") from error


class Dumped(Mapping[int, Path]):
    """The file of each written row: its name with the extension of the written format.

    Two images that differ in their extension alone (a.bmp, a.tif) keep it: a.bmp.png, a.tif.png. Paths are made when
    asked for; a hundred thousand would take as many kilobytes.
    """

    def __init__(self, table: FrameTable, folder: Path, rows: Sequence[int], image_format: str) -> None:
        self._table, self._folder, self._extension = table, folder, f".{image_format}"
        self._rows = dict.fromkeys(rows)
        names = Counter(self._name(row) for row in rows if table.scanned[table.locate(row)[0]].images)
        self._shared = {name for name, count in names.items() if count > 1}

    def __getitem__(self, row: int) -> Path:
        """Where a row was written; KeyError for one that was not."""
        self._rows[row]
        name = self._name(row)
        return self._folder / (self._table.name(row) + self._extension if name in self._shared else name)

    def __contains__(self, row: object) -> bool:
        """Whether the row was written."""
        return row in self._rows

    def __iter__(self) -> Iterator[int]:
        """The rows that were written."""
        return iter(self._rows)

    def __len__(self) -> int:
        """How many were written."""
        return len(self._rows)

    def _name(self, row: int) -> str:
        return PurePosixPath(self._table.name(row)).with_suffix(self._extension).as_posix()
