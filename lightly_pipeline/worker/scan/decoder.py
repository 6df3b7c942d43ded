"""libav's decoders of one file, set to tell of every damage and to give damaged pictures too."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal, TypeAlias, cast

import av

from lightly_pipeline.worker.scan.packets import Packet, open_container, reason_of, video_stream

_OPENING = threading.Lock()
_CAREFUL = "crccheck+bitstream+buffer+careful+compliant+aggressive"
# Decoders that otherwise keep a damaged slice, or a hash that does not fit, to themselves. They give the picture all
# the same, where h264's would withhold it and tells by flags.
_EXPLODES = ("hevc",)

# Codecs of which libav's own decoder makes a picture of whatever it is given, and another one of libav's that refuses
# what is damaged and gives the same pixels of what is not. Formats that every build of it knows.
_STRICT = {"vp9": "libvpx-vp9"}
_STRICT_FORMATS = frozenset({"yuv420p", "yuv422p", "yuv440p", "yuv444p"})

# Threads of a decoder beyond one for each core: some of them wait for pictures of others.
_AHEAD = 2

#: What a decoder is for: "pictures" of everything, to find "damage", which may cost pictures that come after it, or
#: "both", which may take two decoders.
Purpose: TypeAlias = Literal["pictures", "damage", "both"]


class Decoder:
    """What decodes one file, as the file describes it, primed with its first packet.

    Priming: some decoders learn from the first packet what later ones need (libavcodec reads x264's version
    there and decodes 4:4:4 of old versions differently).

    context: gives the pictures.
    """

    def __init__(self, path: Path, prime: Packet | None, threads: int = 1, purpose: Purpose = "pictures") -> None:
        # One after another and closed at once: the index of an mp4 takes 90 bytes a frame, 50 MB for six hours.
        with _OPENING, open_container(path) as container:
            stream = video_stream(container)
            if stream is None:
                raise OSError(f"{path.name} has no video stream any more")
            self.context = stream.codec_context
        _set_up(self.context, threads)
        self._prime = prime
        self._used = False
        alone = purpose == "damage"
        self._witness = None if purpose == "pictures" else _strict(self.context, threads if alone else 1)
        self._refuses = False
        if self._witness is not None and alone and self._agree(self._witness):
            self.context, self._witness = self._witness, None

    def restart(self) -> None:
        """Forget everything decoded so far."""
        if self._used:
            self.context.flush_buffers()
        elif self._prime is not None:
            _first_picture(self.context, self._prime)  # the chunk that holds this packet reports it
        if self._witness is not None:
            self._witness.flush_buffers()
        self._used, self._refuses = True, False

    def objection(self, packet: Packet) -> str | None:
        """What a stricter decoder beside it says against a packet; all from a restart on are shown to it, in order.

        Of those that follow a refused one nothing is said until one is taken again: they are predicted from it.
        """
        if self._witness is None:
            return None
        try:
            self._witness.decode(packet)
        except (av.FFmpegError, EOFError) as error:
            was, self._refuses = self._refuses, True
            return None if was else reason_of(error)
        self._refuses = False
        return None

    def _agree(self, other: av.VideoCodecContext) -> bool:
        """Whether another decoder gives the first picture with the same properties: it does not know the container's.

        That is where a picture is turned, its colours are told, or its transparency is stored.
        """
        if self._prime is None:
            return False
        one, two = (_first_picture(context, self._prime) for context in (self.context, other))
        return one is not None and two is not None and _properties(one) == _properties(two)

    def close(self) -> None:
        """Free the decoder."""
        del self.context
        self._witness = None


def _set_up(context: av.VideoCodecContext, threads: int) -> None:
    context.thread_count = threads + _AHEAD if threads > 1 else 1
    context.thread_type = "FRAME" if threads > 1 else "NONE"
    context.options = {"err_detect": _CAREFUL + ("+explode" if context.name in _EXPLODES else "")}
    context.flags |= av.codec.context.Flags.output_corrupt


def _strict(context: av.VideoCodecContext, threads: int) -> av.VideoCodecContext | None:
    """The strict decoder of a codec, None where there is none or it may not know the format."""
    if context.name not in _STRICT or context.pix_fmt not in _STRICT_FORMATS:
        return None
    try:
        strict = cast(av.VideoCodecContext, av.CodecContext.create(_STRICT[context.name], "r"))
    except av.codec.codec.UnknownCodecError:  # libav can be built without
        return None
    strict.extradata = context.extradata
    _set_up(strict, threads)
    return strict


def _first_picture(context: av.VideoCodecContext, packet: Packet) -> av.VideoFrame | None:
    """What a decoder makes of the first packet of a file; it forgets it again."""
    frames: list[av.VideoFrame] = []
    try:
        frames += context.decode(packet)
        frames += context.decode(None)
    except (av.FFmpegError, EOFError):
        pass
    context.flush_buffers()
    return frames[0] if frames else None


def _properties(frame: av.VideoFrame) -> tuple[object, ...]:
    return (
        frame.format.name,
        *(frame.width, frame.height, frame.pts),
        *(frame.rotation, frame.color_range, frame.colorspace, frame.interlaced_frame),
    )
