"""Decoding one chunk: every frame measured, checked, and kept in scratch if the rule says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.damage import Damage
from lightly_pipeline.worker.scan.decoder import Decoder
from lightly_pipeline.worker.scan.encode import KeptEncoder
from lightly_pipeline.worker.scan.h264 import FrameNumbers
from lightly_pipeline.worker.scan.keep import ChunkRule
from lightly_pipeline.worker.scan.kept import Pack
from lightly_pipeline.worker.scan.measure import Measured, Meter
from lightly_pipeline.worker.scan.neural import NeuralEmbedder
from lightly_pipeline.worker.scan.packets import (
    Chunk,
    Packet,
    reason_of,
)
from lightly_pipeline.worker.scan.types import FRAME_DTYPE, PictureTooLarge, Problem, ScanSettings

#: Codecs of which every packet shows one picture (VP8 hides some; MPEG-4 may pack two into one).
_ONE_PICTURE_EACH = frozenset({"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "mjpeg"})

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
    width: int
    height: int


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
        problems: list[Problem] = []
        if self._settings.check_corruptness:
            if decoder.context.name in _ONE_PICTURE_EACH and not frames.interlaced:
                problems += damage.missing(table, self._time_base)
            starts = [first for _, first in groups]
            problems += damage.judge(
                table, frames.complaints, frames.grays, starts, self._settings.corruption_threshold, self._time_base
            )
        return ChunkResult(chunk.number, table, embeddings, problems, kept, groups, *frames.size)

    def _decoded(
        self, chunk: Chunk, decoder: Decoder, before: Sequence[Packet], damage: Damage
    ) -> Iterator[av.VideoFrame]:
        """The frames of a chunk; what its packets and the decoder say against them goes to `damage`."""
        decoder.restart()
        for earlier in before:
            decoder.objection(earlier)
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
                if objection := decoder.objection(packet):
                    damage.add(packet.pts, f"its packet does not decode ({objection})")
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
