"""From a container to chunks of packets that can be decoded on their own.

A chunk begins at a picture that resets the decoder: an IDR of h264 or hevc (not just any key frame: an open
group refers back), a key frame of the codecs whose key frames reset everything. What is inside a chunk is
decoded elsewhere (`chunk`); nothing here looks at pixels.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av

from lightly_pipeline.worker.scan.matroska import missing_bytes
from lightly_pipeline.worker.scan.types import Problem

#: Chunks are joined until they have this many packets: a new decoder costs about two pictures.
_MIN_PACKETS = 48
#: A group with more is not collected but streamed to one decoder with several threads: this bounds memory.
_MAX_PACKETS = 640
_MAX_BYTES = 12 << 20
#: Packets of a streamed group that wait for its decoder.
_STREAMED = 64
#: Errors in a row after which a container is given up.
_MAX_ERRORS = 16
#: Formats that hold their frames themselves: a playlist or script named .mp4 would have libav open other files.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mxf,dv,ivf,obu,h264,hevc,m4v,mjpeg"
)

_RESETS_AT_KEY = frozenset({"vp8", "vp9", "av1", "libdav1d", "libvpx", "libvpx-vp9", "msmpeg4v3", "msmpeg4v2"})
_INTRA_ONLY = frozenset({"mjpeg", "png", "prores", "dnxhd", "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo"})


#: Packets of any stream; PyAV types them by their stream.
Packet: TypeAlias = "av.Packet[Any]"


class Stopped(Exception):
    """The scan was given up (an error elsewhere, Ctrl-C): threads end."""


@dataclass
class Chunk:
    """Packets from one reset of the decoder to before another.

    number: place in the file; sequence: place in the whole job. starts: for each closed group in it, the
    packet's number in the file and its presentation time. stream: packets still to come, None at their end
    (only for a group too long to be collected).
    """

    number: int
    sequence: int
    first_packet: int
    packets: list[Packet] = field(default_factory=list)
    starts: list[tuple[int, int | None]] = field(default_factory=list)
    stream: queue.Queue[Packet | None] | None = None
    #: Bytes of `packets`.
    octets: int = 0
    #: Decoder threads; more than one when cores would else be idle.
    threads: int = 1
    #: Set when the scan is given up: nothing more comes through `stream` then.
    stop: threading.Event = field(default_factory=threading.Event)

    def add(self, packet: Packet) -> bool:
        """Add one at the end; whether the chunk has just become one that is streamed.

        Such a one has to be given on for more to find room. Raises Stopped.
        """
        if self.stream is not None:
            self._put(self.stream, packet)
            return False
        self.packets.append(packet)
        self.octets += packet.size
        if len(self.packets) < _MAX_PACKETS and self.octets < _MAX_BYTES:
            return False
        self.stream = queue.Queue(maxsize=_STREAMED)
        return True

    def end(self) -> None:
        """Say that no more comes. Raises Stopped."""
        if self.stream is not None:
            self._put(self.stream, None)

    def __iter__(self) -> Iterator[Packet]:
        yield from self.packets
        if self.stream is None:
            return
        while not self.stop.is_set():
            try:
                packet = self.stream.get(timeout=0.1)
            except queue.Empty:
                continue
            if packet is None:
                return
            yield packet
        raise Stopped

    def _put(self, stream: queue.Queue[Packet | None], item: Packet | None) -> None:
        while not self.stop.is_set():
            try:
                stream.put(item, timeout=0.1)
            except queue.Full:
                continue
            return
        raise Stopped


@dataclass
class Header:
    """What the container says before anything is decoded."""

    path: Path
    codec: str = ""
    time_base: Fraction = Fraction(1, 1)
    fps: float = 0.0
    declared_frames: int | None = None
    #: Of each picture.
    pixels: int = 0
    #: Where the last picture must at least end, unless the file is truncated.
    least_seconds: float | None = None
    prime: Packet | None = None
    problems: list[Problem] = field(default_factory=list)
    packets: int = 0
    last_end: float = 0.0


def reason_of(error: BaseException) -> str:
    """libav's words for an error."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_container(path: Path) -> av.container.InputContainer:
    """Open a local file by its content; names with a colon are files."""
    return av.open(
        f"file:{path}",
        options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
        metadata_errors="replace",
        timeout=60.0,
    )


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The stream to decode: the first that is not a cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None


def promised_frames(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """How many frames a container says it holds; by its length, where it does not count them."""
    seconds = (container.duration or 0) / av.time_base
    return stream.frames or int(seconds * float(stream.average_rate or 0))


def describe(container: av.container.InputContainer, header: Header) -> av.VideoStream | None:
    """The stream whose pictures are read, None without one; what the container says of it goes to `header`."""
    stream = video_stream(container)
    if stream is None:
        named = {"video": "a cover picture"}
        kinds = sorted({named.get(item.type, str(item.type)) for item in container.streams}) or ["nothing"]
        header.problems.append(
            Problem(None, f"{header.path.name} has no video in it, only {', '.join(kinds)}.", "unreadable")
        )
        return None
    # So typed by PyAV, but None where no decoder is known: a file that is cut in its index has such a stream.
    if (stream.codec_context or None) is None:
        header.problems.append(Problem(None, f"The video in {header.path.name} is in no known format.", "unreadable"))
        return None
    header.codec = stream.codec_context.name
    header.time_base = stream.time_base or header.time_base
    header.fps = float(stream.average_rate or 0)
    header.declared_frames = stream.frames or None
    header.pixels = stream.codec_context.width * stream.codec_context.height
    if "matroska" in container.format.name and (lost := missing_bytes(header.path)):
        header.problems.append(
            Problem(None, f"{header.path.name} is truncated: its last {lost} bytes are missing.", "truncated")
        )
    elif "matroska" in container.format.name and container.duration:
        # No count of frames in Matroska and WebM, but the length of the whole; another stream may be the longer.
        declared = container.duration / av.time_base
        slack = 0.02 if len(container.streams) == 1 else 0.1
        header.least_seconds = declared - max(0.5, slack * declared)
    return stream


def resets_decoder(packet: Packet, codec: str, extradata: bytes | None) -> bool:
    """Whether nothing after this packet can refer to anything before it."""
    if codec in _INTRA_ONLY:
        return True
    if not packet.is_keyframe:
        return False
    if codec in _RESETS_AT_KEY:
        return True
    if codec in ("h264", "hevc"):
        header = _first_slice_header(memoryview(packet), codec, extradata)
        if header is None:
            return False
        return header & 31 == 5 if codec == "h264" else (header >> 1) & 63 in (19, 20)
    return False


def is_referred_to(packet: Packet, codec: str, extradata: bytes | None) -> bool:
    """Whether other pictures may be predicted from this one, as far as the packet says."""
    if codec in _INTRA_ONLY or packet.is_disposable:
        return False
    if codec not in ("h264", "hevc"):
        return True
    header = _first_slice_header(memoryview(packet), codec, extradata)
    if header is None:
        return True
    if codec == "h264":
        return header & 0x60 != 0  # nal_ref_idc
    kind = (header >> 1) & 63
    return kind > 14 or kind % 2 == 1  # H.265 table 7-1: even types below 16 are sub-layer non-reference


def _first_slice_header(data: memoryview, codec: str, extradata: bytes | None) -> int | None:
    """First byte of the first slice in an access unit."""
    start = first_slice(data, codec, extradata)
    return None if start is None else int(data[start])


def first_slice(data: memoryview, codec: str, extradata: bytes | None) -> int | None:
    """Where the first slice in an access unit begins (ITU-T H.264 7.3.1, H.265 7.3.1.2)."""
    prefix = 0
    if extradata and extradata[0] == 1:
        at = 4 if codec == "h264" else 21
        if len(extradata) > at:
            prefix = (extradata[at] & 3) + 1
    position = 0
    for _ in range(64):
        if prefix:
            start = position + prefix
            if start >= len(data):
                return None
            position = start + int.from_bytes(data[position:start], "big")
        else:
            found = bytes(data[position : position + 4096]).find(b"\0\0\1")
            if found < 0:
                return None
            start = position = position + found + 3
            if start >= len(data):
                return None
        header = data[start]
        if (1 <= header & 31 <= 5) if codec == "h264" else ((header >> 1) & 63 < 32):
            return start
    return None


def read_packets(container: av.container.InputContainer, stream: av.VideoStream, header: Header) -> Iterator[Packet]:
    """Every packet of the stream; what is wrong with the container goes to `header.problems`."""
    errors = 0
    base = stream.time_base or Fraction(1, 1)
    while True:
        try:
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                errors = 0
                header.packets += 1
                if packet.pts is not None:
                    header.last_end = max(header.last_end, float((packet.pts + (packet.duration or 0)) * base))
                yield packet
            return
        except (av.FFmpegError, OSError) as error:
            errors += 1
            if errors == 1:
                header.problems.append(
                    Problem(
                        None,
                        f"{header.path.name} breaks off or is damaged after {header.packets} packets: "
                        f"{reason_of(error)}; what could be read is used.",
                        "truncated",
                    )
                )
            if errors >= _MAX_ERRORS:
                return


def chunks(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    header: Header,
    *,
    first_sequence: int,
    stop: threading.Event,
) -> Iterator[Chunk]:
    """Cut one file into chunks, in order."""
    extradata = stream.codec_context.extradata
    codec = stream.codec_context.name
    current = Chunk(0, first_sequence, 0, stop=stop)
    for number, packet in enumerate(read_packets(container, stream, header)):
        if stop.is_set():
            raise Stopped
        if header.prime is None:
            header.prime = packet
        resets = resets_decoder(packet, codec, extradata)
        if resets and current.packets and (len(current.packets) >= _MIN_PACKETS or current.stream is not None):
            current.end()
            if current.stream is None:
                yield current
            current = Chunk(current.number + 1, current.sequence + 1, number, stop=stop)
        if resets or not current.packets:
            current.starts.append((number, packet.pts))
        if current.add(packet):
            yield current
    current.end()
    if current.stream is None and current.packets:
        yield current
