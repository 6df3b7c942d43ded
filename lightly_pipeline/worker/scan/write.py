"""Chosen frames become picture files: kept ones are copied, the others decoded again, exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

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
    folders = {path.parent for path in small.values()}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    missing: list[int] = []
    for index in dict.fromkeys(int(pick) for pick in picks):
        _check(scan, index)
        target = targets(index)
        if target.parent not in folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.add(target.parent)
        kept = scan.pictures.read(index)
        if kept is None:
            missing.append(index)
        else:
            write_whole(kept, target)
            on_progress(1)
    for index in small:
        _check(scan, index)
    if missing or small:
        give_back()
        again = SecondDecode(scan, frozenset(missing), targets, small, on_progress)
        wanted = sorted({*missing, *small})
        if isinstance(scan.source, ImageSource):
            again.images(wanted, scan.source)
        else:
            again.video(wanted)
        give_back()


def _check(scan: VideoScan, index: int) -> None:
    if not 0 <= index < len(scan.frames):
        raise ScanError(f"{scan.path.name} has {len(scan.frames)} frames: there is no frame {index}.")
