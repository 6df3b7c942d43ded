"""Chosen frames become picture files: kept candidates are moved, the others decoded again, exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import av

from lightly_pipeline.worker.scan.encode import write_picture
from lightly_pipeline.worker.scan.images import ImageSource, open_image
from lightly_pipeline.worker.scan.types import ScanError, VideoScan, WrittenFrame


def write_frames(
    scan: VideoScan,
    picks: Sequence[int],
    targets: Callable[[int], Path],
    *,
    image_format: str | None = None,
    output_image_size: int | tuple[int, int] | None = None,
    on_progress: Callable[[int], None] = lambda frames: None,
) -> list[WrittenFrame]:
    """Write exactly the frames `picks` (indices into `scan.frames`) to `targets(index)`.

    image_format and output_image_size default to the scan's settings. Folders are made. Each file appears
    whole or not at all. Returns one `WrittenFrame` per pick, in the order of `picks`. Raises ScanError when a
    frame cannot be had a second time (the file changed since it was scanned).
    """
    image_format = image_format or scan.settings.image_format
    size = scan.settings.output_image_size if output_image_size is None else output_image_size
    wanted = set(picks)
    written: dict[int, WrittenFrame] = {}

    def save(frame: av.VideoFrame, index: int, rotation: int) -> None:
        target = targets(index)
        target.parent.mkdir(parents=True, exist_ok=True)
        written[index] = write_picture(
            frame,
            target,
            index=index,
            image_format=image_format,
            size=size,
            quality=scan.settings.jpeg_quality,
            rotation=rotation,
        )
        on_progress(1)

    if isinstance(scan.source, ImageSource):
        for index in picks:
            save(open_image(scan.source.paths[index]), index, 0)
        return [written[index] for index in picks]
    if wanted:
        with av.open(str(scan.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            index = 0
            for packet in container.demux(stream):
                try:
                    decoded = packet.decode()
                except av.FFmpegError:
                    continue  # the scan has reported it
                for frame in decoded:
                    if index in wanted:
                        save(frame, index, frame.rotation)
                    index += 1
    missing = wanted - written.keys()
    if missing:
        raise ScanError(
            f"{scan.path.name}: frames {sorted(missing)[:5]} were there when it was scanned and are not now: "
            "do not change the input while the worker runs."
        )
    return [written[index] for index in picks]
