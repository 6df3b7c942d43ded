"""A decoded frame as a picture file: rotation, size, PNG or JPEG."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import av
import numpy as np
import simplejpeg
from PIL import Image

from lightly_pipeline.worker.scan.types import WrittenFrame


def target_size(width: int, height: int, size: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height of the written picture for Lightly's output_image_size.

    -1 keeps the size, x makes the shortest edge x pixels, (height, width) is taken as it is.
    """
    if isinstance(size, tuple):
        return size[1], size[0]
    if size <= 0:
        return width, height
    scale = size / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def write_picture(
    frame: av.VideoFrame,
    target: Path,
    *,
    index: int,
    image_format: str,
    size: int | tuple[int, int],
    quality: int,
    rotation: int,
) -> WrittenFrame:
    """Write one frame; the file appears whole or not at all. `rotation`: degrees counter-clockwise."""
    rgb = np.rot90(frame.to_ndarray(format="rgb24"), (rotation // 90) % 4)
    width, height = target_size(rgb.shape[1], rgb.shape[0], size)
    if (width, height) != (rgb.shape[1], rgb.shape[0]):
        picture = Image.fromarray(np.ascontiguousarray(rgb)).resize((width, height), Image.Resampling.LANCZOS)
        rgb = np.asarray(picture)
    rgb = np.ascontiguousarray(rgb)
    part = target.with_name(target.name + ".part")
    if image_format == "png":
        Image.fromarray(rgb).save(part, format="PNG", compress_level=1)
        data = part.read_bytes()
    else:
        data = simplejpeg.encode_jpeg(rgb, quality=quality, colorsubsampling="420")
        part.write_bytes(data)
    os.replace(part, target)
    return WrittenFrame(index, target, len(data), width, height, hashlib.sha256(data).hexdigest())
