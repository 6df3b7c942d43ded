"""The vocabulary of scanning: what goes in (settings), what comes out (frames, embeddings, problems).

Only values live here; reading video is in `decode`, turning pixels into vectors in `descriptor`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.memory import StoredRows
from lightly_pipeline.worker.scan.kept import KeptPictures

#: One row of `VideoScan.frames`, in display order.
#: index: 0-based number of the frame in display order; pts: presentation time in the stream's time base (-1 where the
#: file has none); seconds: the same in seconds, or by the frame rate; pixel_hash: 128 bits over the visible pixels of
#: all planes as stored (before rotation), so that equal pictures have equal hashes; sharpness: mean squared luma
#: gradient (0 for a flat picture; larger is sharper); brightness: mean luma, 0 to 1; contrast: standard deviation of
#: luma over 64 x 64 blocks, 0 to 1; uniform_row_ratio: share of rows whose luma is one single value; width, height:
#: in pixels as shown, after rotation (0 where nothing decodes); ok: False for a corrupt frame (its reason is in
#: `VideoScan.problems`).
FRAME_DTYPE = np.dtype(
    [
        ("index", np.int64),
        ("pts", np.int64),
        ("seconds", np.float64),
        ("pixel_hash", "V16"),
        ("sharpness", np.float32),
        ("brightness", np.float32),
        ("contrast", np.float32),
        ("uniform_row_ratio", np.float32),
        ("width", np.int32),
        ("height", np.int32),
        ("ok", np.bool_),
    ]
)

IMAGE_FORMATS = ("png", "jpg", "jpeg")


class ScanError(Exception):
    """What cannot be scanned or written, in one sentence that names it."""


class ModelUnusable(ScanError):
    """An ONNX model, or its sidecar, is missing or does not fit."""


class PictureTooLarge(ScanError):
    """A frame would become a picture that its format, or memory, cannot hold."""


class FramesLost(ScanError):
    """Frames that do not decode again to the pixels that were scanned: `indices`, sorted.

    Either the file was changed since, or it is damaged: what a decoder makes of a picture whose references are
    missing depends on what it decoded before.
    """

    def __init__(self, name: str, indices: Iterable[int]) -> None:
        self.indices = sorted(indices)
        super().__init__(f"{name}: frames {self.indices[:5]} do not decode again to the pixels that were scanned.")


@dataclass(frozen=True)
class ScanSettings:
    """How to scan.

    threads: decoders that run at once (0: one per core this process may use).
    check_corruptness: when False every frame that decodes is `ok`; files that do not open are still reported.
    corruption_threshold: a frame is corrupt when a larger share of its rows is the gray that stands for missing
        picture, 0 to 1; 1 leaves that to the decoder's own complaints.
    image_format: "png", "jpg" or "jpeg"; the format of the pictures that are kept while decoding.
    output_image_size: -1 (as in the video), x (shortest edge) or (height, width).
    jpeg_quality: 1 to 100.
    expected_share: share of the frames that will be selected. While decoding, about half as many again
        are written to scratch, so that most selected frames need no second decode. 0, or more than 0.4, keeps
        none: every selected frame is then decoded again, exactly.
    """

    threads: int = 0
    check_corruptness: bool = True
    corruption_threshold: float = 0.1
    image_format: str = "png"
    output_image_size: int | tuple[int, int] = -1
    jpeg_quality: int = 95
    expected_share: float = 0.1

    def __post_init__(self) -> None:
        if self.image_format not in IMAGE_FORMATS:
            raise ValueError(
                f"image_format={self.image_format!r} is unknown: choose one of {', '.join(IMAGE_FORMATS)}."
            )
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality={self.jpeg_quality} is outside 1 to 100.")
        if self.threads < 0:
            raise ValueError(f"threads={self.threads} is negative: give 0 for one per core, or a count.")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file.

    frame_index: the frame it concerns (that frame's `ok` is False), or None when it concerns the file.
    kind: "unreadable" (does not open, no video stream, nothing decodes), "truncated", "gap", "packet",
        "frame" (libav found damage), "reference" (predicted from a damaged frame), "uniform_rows".
    reason: a sentence.
    """

    frame_index: int | None
    reason: str
    kind: str


@dataclass(frozen=True)
class EmbedderIdentity:
    """What made an embedding; vectors of different identities must never be compared."""

    name: str
    version: str
    dimensions: int


@dataclass
class VideoScan:
    """What one pass over one file (or one set of images) found.

    frames: FRAME_DTYPE [n]. embeddings: float32 [n, d], unit length, memory-mapped beyond 100,000 frames, or where they
    are stored; rows of frames that are not `ok` are filled too but mean nothing. width, height: of the first frame.
    fps: average (0.0 when unknown). declared_frames: what the container promises, or None. kept: frame
    indices whose picture is in scratch already (sorted). Call `close()` when the pictures are no longer
    needed.
    """

    path: Path
    frames: NDArray[np.void]
    embeddings: NDArray[np.float32] | StoredRows
    problems: list[Problem]
    embedder: EmbedderIdentity
    width: int
    height: int
    fps: float
    declared_frames: int | None
    codec: str
    settings: ScanSettings
    scratch: Path
    pictures: KeptPictures
    #: How to find frames again: for `write`, not for callers.
    source: Any = None

    @property
    def kept(self) -> NDArray[np.int64]:
        """Indices of the frames that are written to scratch already, ascending."""
        return self.pictures.indices

    def close(self) -> None:
        """Delete what this scan keeps in scratch. The arrays of a long video are gone with it."""
        shutil.rmtree(self.scratch, ignore_errors=True)
