"""Reading video and images: one pass that decodes every frame, checks it, hashes it and describes it.

`scan_video` and `scan_images` make a `VideoScan`; `write_frames` writes chosen frames as pictures. Which
frames are chosen is not decided here (`worker.select`), nor what is reported.
"""

from __future__ import annotations

from lightly_pipeline.worker.scan.candidates import snap_in_stages, snap_to_kept
from lightly_pipeline.worker.scan.images import scan_images
from lightly_pipeline.worker.scan.neural import NeuralEmbedder, identity_of
from lightly_pipeline.worker.scan.types import (
    FRAME_DTYPE,
    EmbedderIdentity,
    FramesLost,
    ModelUnusable,
    PictureTooLarge,
    Problem,
    ScanError,
    ScanSettings,
    VideoScan,
)
from lightly_pipeline.worker.scan.video import scan_video, scan_videos
from lightly_pipeline.worker.scan.write import write_frames

__all__ = [
    "FRAME_DTYPE",
    "EmbedderIdentity",
    "FramesLost",
    "ModelUnusable",
    "NeuralEmbedder",
    "PictureTooLarge",
    "Problem",
    "ScanError",
    "ScanSettings",
    "VideoScan",
    "identity_of",
    "scan_images",
    "scan_video",
    "scan_videos",
    "snap_in_stages",
    "snap_to_kept",
    "write_frames",
]
