"""Decoding one chunk: every frame measured, checked, and kept in scratch if the rule says so."""

from __future__ import annotations

import bisect
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.encode import KeptEncoder
from lightly_pipeline.worker.scan.h264 import FrameNumbers
from lightly_pipeline.worker.scan.keep import ChunkRule
from lightly_pipeline.worker.scan.kept import Pack
from lightly_pipeline.worker.scan.measure import Measured, Meter
from lightly_pipeline.worker.scan.neural import NeuralEmbedder
from lightly_pipeline.worker.scan.packets import (
    Chunk,
    Packet,
    is_referred_to,
    open_container,
    reason_of,
    video_stream,
)
from lightly_pipeline.worker.scan.types import FRAME_DTYPE, PictureTooLarge, Problem, ScanSettings

#: Codecs of which every packet shows one picture (VP8 hides some; MPEG-4 may pack two into one).
_ONE_PICTURE_EACH = frozenset({"h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg"})

#: Frames that wait for the thread that encodes beside the decoder.
_ENCODED_BESIDE = 3


@dataclass
class ChunkResult:
    """What one chunk gave; indices in it count from the chunk's first frame."""

    number: int
    frames: NDArray[np.void]
    embeddings: NDArray[np.float32]
    problems: list[Problem]
    #: Rows for `KeptPictures`.
    kept: NDArray[np.void]
    #: For each closed group: first packet (number in the file), first frame (in the chunk).
    groups: list[tuple[int, int]]
    width: int = 0
    height: int = 0
    damaged: bool = False


_OPENING = threading.Lock()


class Decoder:
    """One decoder, as the file describes it, primed with the first packet of the file.

    Priming: some decoders learn from the first packet what later ones need (libavcodec reads x264's version
    there and decodes 4:4:4 of old versions differently).
    """

    def __init__(self, path: Path, prime: Packet | None, threads: int = 1) -> None:
        # One after another and closed at once: the index of an mp4 takes 90 bytes a frame, 50 MB for six hours.
        with _OPENING, open_container(path) as container:
            stream = video_stream(container)
            if stream is None:
                raise OSError(f"{path.name} has no video stream any more")
            self.context = stream.codec_context
        self.context.thread_count = threads
        self.context.thread_type = "FRAME" if threads > 1 else "NONE"
        self.context.options = {"err_detect": "crccheck+bitstream+buffer+careful+compliant+aggressive"}
        self.context.flags |= av.codec.context.Flags.output_corrupt
        self._prime = prime
        self._used = False

    def restart(self) -> None:
        """Forget everything decoded so far."""
        if self._used:
            self.context.flush_buffers()
        elif self._prime is not None:
            try:
                self.context.decode(self._prime)
                self.context.decode(None)
            except (av.FFmpegError, EOFError):
                pass  # the chunk that holds this packet reports it
            self.context.flush_buffers()
        self._used = True

    def close(self) -> None:
        """Free the decoder."""
        del self.context


@dataclass
class Damage:
    """What the decoder complained about in one chunk, by presentation time.

    order: place of each packet in the order of decoding. disposable: times of pictures that no other needs.
    """

    packets: dict[int, str] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)
    order: dict[int, int] = field(default_factory=dict)
    disposable: set[int] = field(default_factory=set)

    def add(self, pts: int | None, reason: str) -> None:
        """Remember one complaint."""
        if pts is None:
            self.unplaced.append(reason)
        else:
            self.packets.setdefault(pts, reason)

    def see(self, packet: Packet, codec: str, extradata: bytes | None) -> None:
        """Remember where a packet stands, and whether it is incomplete."""
        if packet.pts is not None and not packet.is_discard:
            self.order[packet.pts] = len(self.order)
            if not is_referred_to(packet, codec, extradata):
                self.disposable.add(packet.pts)
        if packet.is_corrupt:
            self.add(packet.pts, "its packet is incomplete")


class _Keeping:
    """Encodes the kept frames of a chunk into its pack; leaving the context ends its thread and closes its file.

    beside: in a thread of its own, a few frames at a time, for a chunk that has all cores: what it is encoded in
    would keep the decoder's threads waiting.
    """

    def __init__(self, pack: Pack, encoder: KeptEncoder, *, beside: bool) -> None:
        self._pack = pack
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scan-encode") if beside else None
        self._coming: deque[tuple[int, Future[tuple[bytes, bytes]]]] = deque()

    def __enter__(self) -> _Keeping:
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._pack.close()

    def add(self, index: int, frame: av.VideoFrame, rotation: int) -> None:
        """Keep a frame, unless it makes too large a picture: who selects it is told so.

        Raises OSError when the disk does not take it.
        """
        if self._thread is None:
            with suppress(PictureTooLarge):
                self._pack.add(index, *self._encoder.encode(frame, rotation))
            return
        self._coming.append((index, self._thread.submit(self._encoder.encode, frame, rotation)))
        self._write(_ENCODED_BESIDE)

    def finish(self) -> NDArray[np.void]:
        """Wait for the last; rows for `KeptPictures`."""
        self._write(0)
        return self._pack.finish()

    def _write(self, left: int) -> None:
        while len(self._coming) > left:
            index, picture = self._coming.popleft()
            with suppress(PictureTooLarge):
                self._pack.add(index, *picture.result())


class _Frames:
    """Takes the frames of a chunk as they are decoded: measures each, and has the rule say which to keep."""

    def __init__(
        self,
        meter: Meter,
        neural: NeuralEmbedder | None,
        settings: ScanSettings,
        time_base: float,
        rule: ChunkRule,
        keeping: _Keeping,
    ) -> None:
        self._meter = meter
        self._neural = neural
        self._settings = settings
        self._time_base = time_base
        self._rule = rule
        self._keeping = keeping
        self._held: tuple[int, av.VideoFrame, int] | None = None
        self._seen: set[bytes] = set()
        self._rows: list[tuple[object, ...]] = []
        self._embeddings: list[NDArray[np.float32]] = []
        #: Prepared for the model, and not embedded yet.
        self._pictures: list[NDArray[np.uint8]] = []
        #: What speaks against each frame, and its share of rows without picture.
        self.complaints: list[str | None] = []
        self.grays: list[float] = []
        self.interlaced = False
        self.size = (0, 0)

    def take(self, frame: av.VideoFrame) -> None:
        """Take the next frame, in display order."""
        rotation = round(frame.rotation / 90) * 90 % 360
        measured = self._meter.measure(frame, rotation)
        index = len(self._rows)
        pts = -1 if frame.pts is None else frame.pts
        size = (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)
        if not index:
            self.size = size
        self._rows.append(row_of(index, pts, pts * self._time_base, measured, size))
        embedding = measured.embedding.copy()
        if self._neural is None:
            self._embeddings.append(embedding)
        else:
            self._pictures.append(self._neural.prepare(frame, rotation))
            if len(self._pictures) == self._neural.batch:
                self._embed(self._neural)
        self.complaints.append("libav's decoder found damage in it" if frame.is_corrupt else None)
        self.grays.append(measured.gray_row_ratio)
        self.interlaced = self.interlaced or frame.interlaced_frame
        selectable = measured.pixel_hash not in self._seen and not (
            self._settings.check_corruptness
            and (frame.is_corrupt or measured.gray_row_ratio > self._settings.corruption_threshold)
        )
        self._seen.add(measured.pixel_hash)
        keep, hold = self._rule.see(embedding, selectable=selectable)
        if keep and self._held is not None:
            self._keeping.add(*self._held)
        if hold:
            self._held = (index, frame, rotation)

    def finish(self) -> tuple[NDArray[np.void], NDArray[np.float32], NDArray[np.void]]:
        """Rows of FRAME_DTYPE [n], embeddings float32 [n, d], and rows for `KeptPictures`."""
        if self._rule.holds and self._held is not None:
            self._keeping.add(*self._held)
        if self._neural is not None and self._pictures:
            self._embed(self._neural)
        embeddings = np.stack(self._embeddings) if self._rows else np.zeros((0, 0), np.float32)
        return np.array(self._rows, dtype=FRAME_DTYPE), embeddings, self._keeping.finish()

    def _embed(self, neural: NeuralEmbedder) -> None:
        self._embeddings.extend(neural.embed(self._pictures))
        self._pictures.clear()


class ChunkDecoder:
    """Decodes chunks of one file in one thread."""

    def __init__(
        self,
        meter: Meter,
        settings: ScanSettings,
        scratch: Path,
        time_base: float,
        neural: NeuralEmbedder | None = None,
    ) -> None:
        self._meter = meter
        self._neural = neural
        self._settings = settings
        self._scratch = scratch
        self._time_base = time_base
        self._encoder = KeptEncoder(settings)

    def run(
        self,
        chunk: Chunk,
        decoder: Decoder,
        rule: ChunkRule,
        check: Callable[[int], None],
        before: Sequence[Packet] = (),
    ) -> ChunkResult:
        """Decode a chunk. `check` is called with 1 for each frame and may raise to stop.

        before: packets to decode first without looking at them.
        """
        with _Keeping(Pack(self._scratch, chunk.number), self._encoder, beside=chunk.threads > 1) as keeping:
            frames = _Frames(self._meter, self._neural, self._settings, self._time_base, rule, keeping)
            damage = Damage()
            for frame in self._decoded(chunk, decoder, before, damage):
                frames.take(frame)
                check(1)
            table, embeddings, kept = frames.finish()
        groups = _groups(chunk, table)
        result = ChunkResult(
            number=chunk.number,
            frames=table,
            embeddings=embeddings,
            problems=[],
            kept=kept,
            groups=groups,
            width=frames.size[0],
            height=frames.size[1],
        )
        if self._settings.check_corruptness:
            if decoder.context.name in _ONE_PICTURE_EACH and not frames.interlaced:
                _count_missing(result, damage, self._time_base)
            starts = [first for _, first in groups]
            _judge(result, frames.complaints, damage, frames.grays, starts, self._settings.corruption_threshold)
        return result

    def _decoded(
        self, chunk: Chunk, decoder: Decoder, before: Sequence[Packet], damage: Damage
    ) -> Iterator[av.VideoFrame]:
        """The frames of a chunk; what its packets and the decoder say against them goes to `damage`."""
        decoder.restart()
        for earlier in before:
            try:
                decoder.context.decode(earlier)
            except (av.FFmpegError, EOFError):
                continue  # its own chunk reports it
        # After packets from before, pictures of them come, too.
        begins = min((later.pts for later in chunk.packets if later.pts is not None), default=None) if before else None
        codec, extradata = decoder.context.name, decoder.context.extradata
        numbers = FrameNumbers(extradata) if codec == "h264" else None
        packet: Packet | None
        for packet in chain(chunk, [None]):
            if packet is not None:
                if numbers is not None and (jump := numbers.jump(packet)):
                    damage.add(packet.pts, jump)
                damage.see(packet, codec, extradata)
            try:
                frames = decoder.context.decode(packet)
            except (av.FFmpegError, EOFError) as error:
                pts, what = (None, "the last pictures do") if packet is None else (packet.pts, "its packet does")
                damage.add(pts, f"{what} not decode ({reason_of(error)})")
                continue
            for frame in frames:
                if begins is None or frame.pts is None or frame.pts >= begins:
                    yield frame


def row_of(index: int, pts: int, seconds: float, measured: Measured, size: tuple[int, int]) -> tuple[object, ...]:
    """One row of FRAME_DTYPE."""
    return (
        index,
        pts,
        seconds,
        measured.pixel_hash,
        measured.sharpness,
        measured.brightness,
        measured.contrast,
        measured.uniform_row_ratio,
        *size,
        True,
    )


def _groups(chunk: Chunk, table: NDArray[np.void]) -> list[tuple[int, int]]:
    """First packet and first frame of each closed group that holds frames."""
    times = table["pts"]
    if len(times) and (times[0] < 0 or np.any(np.diff(times) <= 0)):
        return [(chunk.first_packet, 0)]
    groups = [(chunk.first_packet, 0)]
    for packet, pts in chunk.starts[1:]:
        if pts is not None:
            frame = int(np.searchsorted(times, pts))
            if frame > groups[-1][1]:
                groups.append((packet, frame))
    return groups


def _count_missing(result: ChunkResult, damage: Damage, time_base: float) -> None:
    """Report pictures that the decoder swallowed without a word, as it does after a lost reference."""
    shown = set(result.frames["pts"].tolist())
    missing = sorted(pts for pts in damage.order if pts not in shown and pts not in damage.packets)
    if missing and -1 not in shown:
        first, last = missing[0] * time_base, missing[-1] * time_base
        result.damaged = True
        result.problems.append(
            Problem(
                None,
                f"{len(missing)} pictures between {first:.3f} s and {last:.3f} s are missing: the decoder gives none "
                "for their packets, as it does when a picture that they are predicted from is lost.",
                "packet",
            )
        )


def _judge(
    result: ChunkResult,
    complaints: list[str | None],
    damage: Damage,
    grays: list[float],
    group_starts: list[int],
    corruption_threshold: float,
) -> None:
    """Mark corrupt frames: those complained about, and those that may be predicted from them.

    These are the frames that are decoded later, up to the next picture that resets the decoder; nothing is
    predicted from a picture whose packet says so.
    """
    table = result.frames
    times = table["pts"].tolist()
    group_of = np.searchsorted(group_starts, np.arange(len(table)), side="right") - 1
    first_damage: dict[int, int] = {}

    def taint(group: int, pts: int) -> None:
        if pts not in damage.disposable:
            first_damage[group] = min(first_damage.get(group, 1 << 60), damage.order.get(pts, -1))

    for pts, complaint in damage.packets.items():
        place = bisect.bisect_left(times, pts)
        if place < len(times) and times[place] == pts:
            complaints[place] = complaints[place] or complaint
            continue
        result.damaged = True
        result.problems.append(
            Problem(None, f"The picture at time {pts} of the stream is missing: {complaint}.", "packet")
        )
        if len(times):
            taint(int(group_of[max(place - 1, 0)]), pts)
    for complaint in damage.unplaced:
        result.problems.append(Problem(None, f"A packet without a time is damaged: {complaint}.", "packet"))
        result.damaged = True
    kinds = ["frame"] * len(table)
    for index, share in enumerate(grays):
        if complaints[index] is None and share > corruption_threshold:
            kinds[index] = "uniform_rows"
            complaints[index] = (
                f"{share:.0%} of its rows, up to the lower edge, are the plain gray that decoders put "
                "where they have no picture"
            )
        if complaints[index] is not None:
            taint(int(group_of[index]), times[index])
    for index in range(len(table)):
        reason = complaints[index]
        if reason is None and first_damage.get(int(group_of[index]), 1 << 60) < damage.order.get(times[index], index):
            reason, kinds[index] = "it is predicted from a damaged picture", "reference"
        if reason is not None:
            table["ok"][index] = False
            result.damaged = True
            result.problems.append(Problem(index, reason[0].upper() + reason[1:] + ".", kinds[index]))
