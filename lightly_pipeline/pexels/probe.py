"""Does a file open as video, and what is it? By its content, whatever its name says."""

import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import av.error

from lightly_pipeline.pexels.errors import NotAVideo

# Formats that hold their frames themselves. A playlist or script that is named .mp4 would have libav open other files
# and addresses.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,h264,hevc"
ONLY_THIS_FILE = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
"""libav's options to open a file that somebody else named."""

# A damaged beginning is no reason to reject a video whose next pictures can be decoded.
_PACKETS = 500


@dataclass(frozen=True)
class VideoProbe:
    """What a file's first video stream says of itself; None where it does not say, or not credibly.

    `frames` is the declared number, `seconds` the duration of the container.
    """

    width: int
    height: int
    codec: str
    seconds: float | None
    fps: float | None
    frames: int | None


def probe(path: Path, *, name: str | None = None) -> VideoProbe:
    """Open the file and decode a first frame; NotAVideo if either fails, OSError if it cannot be read at all.

    `name` is how the message calls the file, if not by its own name.
    """
    with path.open("rb"):
        pass  # libav's words for a file that is missing or unreadable are those for a broken one
    try:
        return _probe(path)
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        size = path.stat().st_size
        raise NotAVideo(
            f"{name or path.name} ({size} bytes) is not a video that can be decoded ({reason}): "
            f"{'the file is empty' if not size else 'it is damaged, incomplete or something else'}."
        ) from error


def _probe(path: Path) -> VideoProbe:
    with av.open(str(path), metadata_errors="ignore", options=ONLY_THIS_FILE) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        # So typed by PyAV, but None where no decoder is known; PyAV 17 (Python 3.10) crashes if asked to decode then.
        if (stream.codec_context or None) is None:
            raise ValueError("its video is in no known format")
        frame = _first_frame(container, stream)
        seconds = container.duration / av.time_base if container.duration else math.nan
        fps = float(stream.average_rate or math.nan)
        return VideoProbe(
            width=frame.width,
            height=frame.height,
            codec=stream.codec_context.name,
            seconds=seconds if seconds > 0 else None,
            fps=fps if 0 < fps < math.inf else None,
            frames=stream.frames or None,
        )


def _first_frame(container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame:
    problem = "its video stream holds no frame"
    for packet in islice(container.demux(stream), _PACKETS):
        try:
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    return frame
        except av.error.InvalidDataError as error:
            problem = f"no frame of it can be decoded: {error.strerror}"
    raise ValueError(problem)
