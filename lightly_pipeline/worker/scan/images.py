"""Images as input: each file is one frame."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from lightly_pipeline.worker.scan.descriptor import BUILT_IN
from lightly_pipeline.worker.scan.measure import Meter
from lightly_pipeline.worker.scan.types import FRAME_DTYPE, Problem, ScanSettings, VideoScan


@dataclass(frozen=True)
class ImageSource:
    """The files behind a scan of images, by frame index."""

    paths: tuple[Path, ...]


def open_image(path: Path) -> av.VideoFrame:
    """Decode one image as shown (EXIF orientation applied, first page). Raises OSError when damaged."""
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(upright), format="rgb24")


def scan_images(
    paths: Sequence[Path],
    *,
    scratch: Path,
    settings: ScanSettings,
    on_progress: Callable[[int], None] = lambda frames: None,
) -> VideoScan:
    """Scan images, one frame each, in the order of `paths`; `frames["index"]` is the place in `paths`.

    An image that does not decode has a `Problem` with its index, `ok` False and a zero embedding.
    """
    folder = Path(tempfile.mkdtemp(prefix="scan-", dir=scratch))
    problems: list[Problem] = []
    frames = np.zeros(len(paths), dtype=FRAME_DTYPE)
    frames["index"] = np.arange(len(paths))
    meter = Meter()
    embeddings = np.zeros((len(paths), BUILT_IN.dimensions), np.float32)
    for index, path in enumerate(paths):
        try:
            frame = open_image(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            problems.append(Problem(index, f"{path.name} is not an image that can be read: {error}.", "unreadable"))
        else:
            numbers = meter.measure(frame)
            row = frames[index]
            row["pixel_hash"] = numbers.pixel_hash
            row["sharpness"] = numbers.sharpness
            row["brightness"] = numbers.brightness
            row["contrast"] = numbers.contrast
            row["uniform_row_ratio"] = numbers.uniform_row_ratio
            row["ok"] = True
            embeddings[index] = numbers.embedding
        on_progress(1)
    return VideoScan(
        path=paths[0].parent if paths else folder,
        frames=frames,
        embeddings=embeddings,
        problems=problems,
        embedder=BUILT_IN,
        width=0,
        height=0,
        fps=0.0,
        declared_frames=None,
        codec="image",
        settings=settings,
        scratch=folder,
        source=ImageSource(tuple(paths)),
    )
