"""Chosen frames become picture files: kept ones are copied, the others decoded again, exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from lightly_pipeline.worker.memory import give_back
from lightly_pipeline.worker.scan.again import SecondDecode, write_whole
from lightly_pipeline.worker.scan.images import ImageSource
from lightly_pipeline.worker.scan.types import ScanError, VideoScan


def _nothing(frames: int) -> None:
    """Do not follow progress."""


def write_frames(
    scan: VideoScan,
    picks: Sequence[int],
    targets: Callable[[int], Path],
    *,
    small: Mapping[int, Path] = MappingProxyType({}),
    on_progress: Callable[[int], None] = _nothing,
) -> None:
    """Write exactly the frames `picks` (indices into `scan.frames`) to `targets(index)`, as the scan's settings say.

    small: files for small JPEGs of frames, as of `small_encoder`, picked or not: all come from one decode.
    Folders are made. Each file appears whole or not at all. Raises FramesLost when frames do not decode again to the
    pixels that were scanned, PictureTooLarge, ScanError when an image cannot be read again, OSError when the target
    cannot be written.
    on_progress is called with 1 for each pick, and 0 for another frame, in several threads; what it raises ends the
    writing.
    """
    wanted = np.unique(np.asarray(picks, dtype=np.int64))
    for index in (*wanted[:1].tolist(), *wanted[-1:].tolist(), *small):
        if not 0 <= index < len(scan.frames):
            raise ScanError(f"{scan.path.name} has {len(scan.frames)} frames: there is no frame {index}.")
    folders: set[Path] = set()

    def made(target: Path) -> Path:
        if target.parent not in folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.add(target.parent)
        return target

    missing = wanted[~np.isin(wanted, scan.kept)].tolist()
    if missing or small:
        # First: a file takes much memory to open, and what is done beside this needs more and more.
        give_back()
        again = SecondDecode(
            scan,
            picks={index: made(targets(index)) for index in missing},
            small={index: made(target) for index, target in small.items()},
            on_progress=on_progress,
        )
        if isinstance(scan.source, ImageSource):
            again.images(scan.source)
        else:
            again.video()
        give_back()
    for index in wanted.tolist():
        picture = scan.pictures.read(index)
        if picture is not None:
            write_whole(picture, made(targets(index)))
            on_progress(1)
