"""Clips for tests: the sandbox's footage from one cache, and the odd and damaged files that a worker meets.

The cache lies in the git-ignored `.sandbox/` of the checkout, so that footage is rendered once and not by each
run of the tests; it is keyed by the code that renders it.
"""

import contextlib
import os
import random
import struct
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from lightly_pipeline.sandbox.footage import Clip, footage
from lightly_pipeline.sandbox.scenery import Scene

FOOTAGE_CACHE = Path(__file__).parents[1] / ".sandbox" / "footage"


def rendered(*names: str) -> tuple[Clip, ...]:
    """The footage's clips of these names (none given: all), rendered if no earlier test has done so."""
    return footage(FOOTAGE_CACHE, *names)


class Format(NamedTuple):
    """How a clip is encoded; `codec` is libav's name of the encoder."""

    codec: str
    suffix: str = ".mp4"
    pix_fmt: str = "yuv420p"
    width: int = 160
    height: int = 96
    options: tuple[tuple[str, str], ...] = ()


# What issue reports of video tools are full of; every name is a decoder or a property that is easily forgotten.
FORMATS = {
    "h264": Format("libx264"),
    "h264-b-frames": Format("libx264", options=(("bf", "4"), ("g", "12"))),
    "h264-open-gop": Format("libx264", options=(("x264-params", "open-gop=1:keyint=8:bframes=3"),)),
    "h264-10-bit": Format("libx264", pix_fmt="yuv420p10le"),
    "h264-444": Format("libx264", pix_fmt="yuv444p"),
    "h264-odd-size": Format("libx264", pix_fmt="yuv444p", width=161, height=97),
    "h264-portrait": Format("libx264", width=96, height=160),
    "h264-mkv": Format("libx264", suffix=".mkv"),
    "h264-transport-stream": Format("libx264", suffix=".ts"),
    "hevc": Format("libx265", options=(("x265-params", "log-level=error"),)),
    "hevc-10-bit": Format("libx265", pix_fmt="yuv420p10le", options=(("x265-params", "log-level=error"),)),
    "vp8": Format("libvpx", suffix=".webm", options=(("deadline", "realtime"),)),
    "vp9": Format("libvpx-vp9", suffix=".webm", options=(("deadline", "realtime"), ("cpu-used", "8"))),
    "vp9-odd-size": Format("libvpx-vp9", ".webm", "yuv420p", 161, 97, (("deadline", "realtime"), ("cpu-used", "8"))),
    "vp9-alpha": Format("libvpx-vp9", ".webm", "yuva420p", options=(("deadline", "realtime"), ("cpu-used", "8"))),
    "av1": Format("libsvtav1", options=(("preset", "10"), ("svtav1-params", "lp=1"))),
    "mpeg4": Format("mpeg4", suffix=".avi"),
    "mpeg4-odd-size": Format("mpeg4", suffix=".avi", width=161, height=97),
    "msmpeg4": Format("msmpeg4", suffix=".avi"),
    "mjpeg": Format("mjpeg", suffix=".avi", pix_fmt="yuvj420p"),
    "prores": Format("prores", suffix=".mov", pix_fmt="yuv422p10le"),
    "rgb": Format("qtrle", suffix=".mov", pix_fmt="rgb24"),
}


@contextlib.contextmanager
def ordinary_priority() -> Iterator[None]:
    """Undo what an encoder did to the scheduling of the thread that called it.

    SVT-AV1 makes it a real-time one where it may, which root may, and leaves it so: every process that it starts from
    then on stands before all others on the machine.
    """
    if sys.platform != "linux":
        yield
        return
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != before:
            os.sched_setscheduler(0, before, parameters)


def clip_in(
    folder: Path, format_name: str, *, frames: int = 36, shot: int = 12, times: Sequence[int] | None = None
) -> Path:
    """A clip in one of FORMATS, at 25 frames a second, with a cut every `shot` frames; no two frames are equal.

    `times` are the frames' presentation times in 1/25 s, rising, for a variable frame rate.
    """
    how = FORMATS[format_name]
    path = folder / f"{format_name}{how.suffix}"
    rate = Fraction(25)
    with ordinary_priority(), av.open(str(path), "w") as container:
        stream = container.add_stream(how.codec, rate=rate, options=dict(how.options))
        stream.width, stream.height, stream.pix_fmt = how.width, how.height, how.pix_fmt
        stream.codec_context.time_base = 1 / rate
        for index in range(frames):
            if index % shot == 0:
                scene = Scene(np.random.default_rng(index), how.width, how.height, "swirl")
            frame = av.VideoFrame.from_ndarray(scene.at(index / 25), format="rgb24").reformat(format=how.pix_fmt)
            frame.pts, frame.time_base = times[index] if times else index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sound_only(folder: Path) -> Path:
    """An mp4 with a second of silence and no picture."""
    path = folder / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def rotated(source: Path, target: Path) -> Path:
    """A copy of an mp4 that players turn by 90 degrees, as phones mark portrait video; the frames are the same."""
    content = bytearray(source.read_bytes())
    begin = content.index(b"tkhd") + 4
    if content[begin] != 0:
        raise ValueError(f"{source} has a long track header, which is not handled here.")
    width, _ = struct.unpack(">II", content[begin + 76 : begin + 84])
    matrix = (0, 0x10000, 0, -0x10000, 0, 0, width, 0, 0x40000000)
    content[begin + 40 : begin + 76] = struct.pack(">9i", *matrix)
    target.write_bytes(content)
    return target


def truncated(source: Path, target: Path, share: float) -> Path:
    """A copy of the first `share` (0 … 1) of a file's bytes."""
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def flipped(source: Path, target: Path, *, seed: int, count: int, begin: float = 0.0, end: float = 1.0) -> Path:
    """A copy in which `count` bytes at random places between the shares `begin` and `end` are others."""
    content = bytearray(source.read_bytes())
    chance = random.Random(seed)
    for place in chance.sample(range(int(len(content) * begin), int(len(content) * end)), count):
        content[place] ^= chance.randrange(1, 256)
    target.write_bytes(content)
    return target
