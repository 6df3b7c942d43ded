"""Clips with known content, rendered in a fraction of a second."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan import write_frames
from lightly_pipeline_tests.clips import ordinary_priority


def picture(number: int, width: int = 160, height: int = 96, shot: int = 12) -> NDArray[np.uint8]:
    """RGB [height, width, 3]: a scene that changes every `shot` frames, in which a square moves."""
    scene = number // shot
    rng = np.random.default_rng(scene)
    coarse = rng.integers(30, 220, (6, 8, 3)).astype(np.uint8)
    rgb = coarse[np.arange(height) * 6 // height][:, np.arange(width) * 8 // width].copy()
    left = (number * 3) % max(1, width - 20)
    rgb[height // 3 : height // 3 + 20, left : left + 20] = rng.integers(0, 255, 3)
    return rgb


def written(scan, picks, target):
    """Write frames of a scan; the file of each."""
    write_frames(scan, picks, target)
    return {int(index): target(index) for index in picks}


def render(
    path: Path,
    frames: int = 60,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    width: int = 160,
    height: int = 96,
    shot: int = 12,
    fps: int = 25,
    options: dict[str, str] | None = None,
    times: list[int] | None = None,
) -> Path:
    """Encode `frames` pictures; `times` gives their presentation times in frames (else 0, 1, 2, …)."""
    with ordinary_priority(), av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = Fraction(1, fps)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, width, height, shot), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
