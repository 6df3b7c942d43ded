"""What is measured on one decoded frame: pixel hash, block means, sharpness, uniform rows, descriptor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.types import EmbedderIdentity

BUILT_IN = EmbedderIdentity(name="lightly-pipeline-descriptor", version="0", dimensions=192)


@dataclass
class Measurement:
    """One frame's numbers; see FRAME_DTYPE for the units."""

    pixel_hash: bytes
    embedding: NDArray[np.float32]
    sharpness: float
    brightness: float
    contrast: float
    uniform_row_ratio: float


def measure(frame: av.VideoFrame) -> Measurement:
    """Measure one frame in whatever pixel format it was decoded."""
    digest = hashlib.blake2b(digest_size=16)
    for plane, component in zip(frame.planes, frame.format.components, strict=False):
        stride = abs(plane.line_size)
        width = component.width * (2 if component.bits > 8 else 1)
        rows = np.frombuffer(plane, np.uint8)[: stride * plane.height].reshape(plane.height, stride)
        digest.update(np.ascontiguousarray(rows[:, : min(width, stride)]))
    small = frame.reformat(width=64, height=64, format="yuv444p", interpolation="AREA").to_ndarray()
    luma = small[0].astype(np.float32) / 255
    gray = frame.reformat(format="gray").to_ndarray().astype(np.float32) / 255
    tiny = small.reshape(3, 8, 8, 8, 8).mean(axis=(2, 4)).reshape(-1) / 255
    embedding = (tiny - 0.5 + 1e-3).astype(np.float32)
    return Measurement(
        pixel_hash=digest.digest(),
        embedding=embedding / max(float(np.linalg.norm(embedding)), 1e-6),
        sharpness=float(np.mean(np.diff(gray, axis=1) ** 2) + np.mean(np.diff(gray, axis=0) ** 2)),
        brightness=float(luma.mean()),
        contrast=float(luma.std()),
        uniform_row_ratio=float(np.mean(np.ptp(gray, axis=1) == 0)),
    )
