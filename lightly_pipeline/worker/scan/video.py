"""One pass over a video: every frame decoded, checked, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from lightly_pipeline.worker.scan.measure import BUILT_IN, measure
from lightly_pipeline.worker.scan.types import FRAME_DTYPE, Problem, ScanSettings, VideoScan


def scan_videos(
    paths: Sequence[Path],
    *,
    scratch: Path,
    settings: ScanSettings,
    on_progress: Callable[[int], None] = lambda frames: None,
) -> Iterator[VideoScan]:
    """Scan many videos, one `VideoScan` each in the order of `paths`; short ones share the cores.

    Same arguments and guarantees as `scan_video`; prefer this when there is more than one video.
    """
    for path in paths:
        yield scan_video(path, scratch=scratch, settings=settings, on_progress=on_progress)


def scan_video(
    path: Path,
    *,
    scratch: Path,
    settings: ScanSettings,
    on_progress: Callable[[int], None] = lambda frames: None,
) -> VideoScan:
    """Decode every frame of one video once, and say what is wrong with it.

    scratch: an existing directory; a folder of its own is made in it. on_progress is called in the calling
    thread with the number of frames finished since its last call. A file that does not open, holds no video or
    is damaged never raises: it comes back with a `Problem` and the frames that could be had.
    """
    folder = Path(tempfile.mkdtemp(prefix="scan-", dir=scratch))
    problems: list[Problem] = []
    rows: list[tuple[object, ...]] = []
    embeddings: list[np.ndarray] = []
    width = height = 0
    fps, declared, codec = 0.0, None, ""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                problems.append(Problem(None, f"{path.name} has no video stream.", "unreadable"))
            else:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                codec = stream.codec_context.name
                declared = stream.frames or None
                fps = float(stream.average_rate or 0)
                base = float(stream.time_base or 0)
                for packet in container.demux(stream):
                    try:
                        decoded = packet.decode()
                    except av.FFmpegError as error:
                        problems.append(
                            Problem(None, f"A packet after frame {len(rows)} is broken: {error}.", "packet")
                        )
                        continue
                    for frame in decoded:
                        index = len(rows)
                        numbers = measure(frame)
                        pts = -1 if frame.pts is None else frame.pts
                        ok = not (settings.check_corruptness and frame.is_corrupt)
                        if not ok:
                            problems.append(Problem(index, f"libav found damage in frame {index}.", "frame"))
                        rows.append(
                            (
                                index,
                                pts,
                                pts * base,
                                numbers.pixel_hash,
                                numbers.sharpness,
                                numbers.brightness,
                            )
                            + (numbers.contrast, numbers.uniform_row_ratio, ok)
                        )
                        embeddings.append(numbers.embedding)
                        turned = frame.rotation % 180 != 0
                        width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
                        on_progress(1)
                if not rows:
                    problems.append(Problem(None, f"{path.name} holds no frame that decodes.", "unreadable"))
    except (av.FFmpegError, OSError) as error:
        problems.append(Problem(None, f"{path.name} cannot be read to its end: {error}.", "unreadable"))
    return VideoScan(
        path=path,
        frames=np.array(rows, dtype=FRAME_DTYPE),
        embeddings=np.stack(embeddings) if embeddings else np.zeros((0, BUILT_IN.dimensions), np.float32),
        problems=problems,
        embedder=BUILT_IN,
        width=width,
        height=height,
        fps=fps,
        declared_frames=declared,
        codec=codec,
        settings=settings,
        scratch=folder,
    )
