"""Writing the selected frames, and small pictures of them, from the scans that found them."""

import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightly_pipeline.worker.errors import StorageError
from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.output.contact_sheet import thumbnail
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.scan import FramesLost, ScanError, write_frames
from lightly_pipeline.worker.scan.cores import usable_cores
from lightly_pipeline.worker.scan.encode import SMALL_EDGE
from lightly_pipeline.worker.scanning import Scanner, file_sha256, scan_settings


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

    def dump(self, folder: Path, rows: Sequence[int]) -> dict[int, Path]:
        """The rows as files below the folder; returns each row's path."""
        files = dumped_names(self.table, rows, self.options.output_image_format)
        written: dict[int, Path] = {}
        with self.progress.stage("write", len(rows)) as stage:
            for part, indices in self._by_scan(rows).items():
                start = int(self.table.starts[part])
                targets = {index: folder / files[start + index] for index in indices}
                image_format, size = self.options.output_image_format, self.options.output_image_size
                done = self._write(part, targets, image_format, size, stage.advance)
                written.update((start + index, path) for index, path in done.items())
        return written

    def kept_rows(self) -> NDArray[np.int64]:
        """The rows whose pictures the scans kept, ascending."""
        parts = zip(self.table.scanned, self.table.starts[:-1], strict=True)
        return np.concatenate([scanned.scan.kept + start for scanned, start in parts])

    def small_pictures(self, rows: Sequence[int], folder: Path, files: dict[int, Path]) -> dict[int, Image.Image]:
        """Small pictures of the rows, from what the scans kept or from their `files`, else decoded again."""
        kept = {row: picture for row in rows if (picture := self._kept(row)) is not None}
        paths = {row: files[row] for row in rows if row in files}
        for part, indices in self._by_scan([row for row in rows if row not in paths and row not in kept]).items():
            start = int(self.table.starts[part])
            targets = {index: folder / f"{start + index}.jpg" for index in indices}
            written = self._write(part, targets, "jpg", SMALL_EDGE, lambda done: self.progress.check())
            paths.update((start + index, path) for index, path in written.items())

        def small(row: int) -> Image.Image:
            return thumbnail(io.BytesIO(kept[row]) if row in kept else paths[row])

        with ThreadPoolExecutor(
            scan_settings(self.options).threads or usable_cores(), thread_name_prefix="small"
        ) as threads:
            return dict(zip(rows, threads.map(small, rows), strict=True))

    def _kept(self, row: int) -> bytes | None:
        part, index = self.table.locate(row)
        return self.table.scanned[part].scan.pictures.read_small(index)

    def _by_scan(self, rows: Sequence[int]) -> dict[int, list[int]]:
        by_scan: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            part, index = self.table.locate(row)
            by_scan[part].append(index)
        return by_scan

    def _write(
        self,
        part: int,
        targets: Mapping[int, Path],
        image_format: str,
        size: int | tuple[int, int],
        on_progress: Callable[[int], None],
    ) -> dict[int, Path]:
        scanned = self.table.scanned[part]
        self.scanner.fetch(scanned.files)
        try:
            return write_frames(
                scanned.scan,
                list(targets),
                targets.__getitem__,
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
        except ScanError as error:
            raise StorageError(f"{error} Start the run again.") from error
        except OSError as error:
            raise StorageError(f"A frame could not be written: {error.strerror or error}.") from error


def dumped_names(table: FrameTable, rows: Sequence[int], image_format: str) -> dict[int, str]:
    """Where below data/sampled each row goes: its name with the extension of the written format.

    Two images that differ in their extension alone (a.bmp, a.tif) keep it: a.bmp.png, a.tif.png.
    """
    names: dict[int, str] = {}
    owners: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        name = PurePosixPath(table.name(row)).with_suffix(f".{image_format}").as_posix()
        names[row] = name
        owners[name].append(row)
    for sharing in owners.values():
        if len(sharing) > 1:
            for row in sharing:
                names[row] = f"{table.name(row)}.{image_format}"
    return names
