"""Decoding one chunk: every frame measured, checked, and kept in scratch if the rule says so."""

from __future__ import annotations

import bisect
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.encode import CandidateEncoder
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
from lightly_pipeline.worker.scan.types import FRAME_DTYPE, Problem, ScanSettings

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


class _Keeping:
    """Encodes the kept frames of a chunk into its pack.

    beside: in a thread of its own, a few frames at a time, for a chunk that has all cores: what it is encoded in
    would keep the decoder's threads waiting.
    """

    def __init__(self, pack: Pack, encoder: CandidateEncoder, *, beside: bool) -> None:
        self._pack = pack
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scan-encode") if beside else None
        self._coming: deque[tuple[int, Future[tuple[bytes, bytes]]]] = deque()

    def add(self, index: int, frame: av.VideoFrame, rotation: int) -> None:
        """Keep a frame. Raises OSError when the disk does not take it."""
        if self._thread is None:
            self._pack.add(index, *self._encoder.encode(frame, rotation))
            return
        self._coming.append((index, self._thread.submit(self._encoder.encode, frame, rotation)))
        self._write(_ENCODED_BESIDE)

    def close(self) -> NDArray[np.void]:
        """Wait for the last; rows for `KeptPictures`."""
        self._write(0)
        if self._thread is not None:
            self._thread.shutdown()
        return self._pack.close()

    def _write(self, left: int) -> None:
        while len(self._coming) > left:
            index, picture = self._coming.popleft()
            self._pack.add(index, *picture.result())


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
        self._encoder = CandidateEncoder(settings)

    def run(
        self,
        chunk: Chunk,
        decoder: Decoder,
        rule: ChunkRule,
        check: Callable[[int], None],
        before: Iterable[Packet] = (),
    ) -> ChunkResult:
        """Decode a chunk. `check` is called with 1 for each frame and may raise to stop.

        before: packets to decode first without looking at them.
        """
        rows: list[tuple[object, ...]] = []
        embeddings: list[NDArray[np.float32]] = []
        neural = self._neural
        pictures: list[NDArray[np.uint8]] = []
        complaints: list[str | None] = []
        grays: list[float] = []
        keeping = _Keeping(Pack(self._scratch, chunk.number), self._encoder, beside=chunk.threads > 1)
        interlaced = False
        held: tuple[int, av.VideoFrame, int] | None = None
        seen: set[bytes] = set()
        damage = Damage()
        size = (0, 0)
        decoder.restart()
        for packet in before:
            try:
                decoder.context.decode(packet)
            except (av.FFmpegError, EOFError):
                continue  # its own chunk reports it
        first_pts = min((packet.pts for packet in chunk.packets if packet.pts is not None), default=None)

        def take(frame: av.VideoFrame) -> None:
            nonlocal size, interlaced, held
            if before and first_pts is not None and frame.pts is not None and frame.pts < first_pts:
                return
            rotation = round(frame.rotation / 90) * 90 % 360
            measured = self._meter.measure(frame, rotation)
            index = len(rows)
            pts = -1 if frame.pts is None else frame.pts
            if not index:
                size = (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)
            rows.append(row_of(index, pts, pts * self._time_base, measured))
            embedding = measured.embedding.copy()
            if neural is None:
                embeddings.append(embedding)
            else:
                pictures.append(neural.prepare(frame, rotation))
                if len(pictures) == neural.batch:
                    embeddings.extend(neural.embed(pictures))
                    pictures.clear()
            complaints.append("libav's decoder found damage in it" if frame.is_corrupt else None)
            grays.append(measured.gray_row_ratio)
            interlaced = interlaced or frame.interlaced_frame
            keep, hold = rule.see(embedding, is_new=measured.pixel_hash not in seen)
            seen.add(measured.pixel_hash)
            if keep and held is not None:
                keeping.add(*held)
            if hold:
                held = (index, frame, rotation)
            check(1)

        codec, extradata = decoder.context.name, decoder.context.extradata
        numbers = FrameNumbers(extradata) if codec == "h264" else None
        for packet in chunk:
            if numbers is not None and (jump := numbers.jump(packet)):
                damage.add(packet.pts, jump)
            if packet.pts is not None and not packet.is_discard:
                damage.order[packet.pts] = len(damage.order)
                if not is_referred_to(packet, codec, extradata):
                    damage.disposable.add(packet.pts)
            if packet.is_corrupt:
                damage.add(packet.pts, "its packet is incomplete")
            try:
                frames = decoder.context.decode(packet)
            except (av.FFmpegError, EOFError) as error:
                damage.add(packet.pts, f"its packet does not decode ({reason_of(error)})")
                continue
            for frame in frames:
                take(frame)
        try:
            for frame in decoder.context.decode(None):
                take(frame)
        except (av.FFmpegError, EOFError) as error:
            damage.add(None, f"the last pictures do not decode ({reason_of(error)})")
        if rule.holds and held is not None:
            keeping.add(*held)
        if neural is not None and pictures:
            embeddings.extend(neural.embed(pictures))
        table = np.array(rows, dtype=FRAME_DTYPE)
        groups = _groups(chunk, table)
        result = ChunkResult(
            number=chunk.number,
            frames=table,
            embeddings=np.stack(embeddings) if rows else np.zeros((0, 0), np.float32),
            problems=[],
            kept=keeping.close(),
            groups=groups,
            width=size[0],
            height=size[1],
        )
        if self._settings.check_corruptness:
            if codec in _ONE_PICTURE_EACH and not interlaced:
                _count_missing(result, damage, self._time_base)
            starts = [first for _, first in groups]
            _judge(result, complaints, damage, grays, starts, self._settings.corruption_threshold)
        return result


def row_of(index: int, pts: int, seconds: float, measured: Measured) -> tuple[object, ...]:
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
