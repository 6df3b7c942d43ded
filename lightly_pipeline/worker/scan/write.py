"""Chosen frames become picture files: kept ones are copied, the others decoded again, exactly.

A second decode reads only the groups of pictures that hold a chosen frame, passes over pictures in them that
nothing refers to, and stops at the last chosen one. Each frame is recognised by its pixel hash.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import av
import numpy as np

from lightly_pipeline.worker.memory import give_back
from lightly_pipeline.worker.scan.chunk import Decoder
from lightly_pipeline.worker.scan.cores import usable_cores
from lightly_pipeline.worker.scan.encode import PictureEncoder, Size
from lightly_pipeline.worker.scan.images import ImageSource, open_image
from lightly_pipeline.worker.scan.measure import Meter
from lightly_pipeline.worker.scan.packets import (
    Header,
    Packet,
    Stopped,
    open_container,
    read_packets,
    video_stream,
)
from lightly_pipeline.worker.scan.types import FramesLost, ScanError, VideoScan


def _nothing(frames: int) -> None:
    """Do not follow progress."""


def write_frames(
    scan: VideoScan,
    picks: Sequence[int],
    targets: Callable[[int], Path],
    *,
    image_format: str | None = None,
    output_image_size: Size | None = None,
    on_progress: Callable[[int], None] = _nothing,
) -> None:
    """Write exactly the frames `picks` (indices into `scan.frames`) to `targets(index)`.

    image_format and output_image_size default to the scan's settings; with others nothing kept can be used.
    Folders are made. Each file appears whole or not at all. Raises FramesLost when frames do not decode again to the
    pixels that were scanned, PictureTooLarge, ScanError when an image cannot be read again, OSError when the target
    cannot be written.
    on_progress is called with 1 for each file, in several threads; what it raises ends the writing.
    """
    image_format = image_format or scan.settings.image_format
    size = scan.settings.output_image_size if output_image_size is None else output_image_size
    same = image_format == scan.settings.image_format and size == scan.settings.output_image_size
    folders: set[Path] = set()
    missing: list[int] = []
    for index in dict.fromkeys(int(pick) for pick in picks):
        if not 0 <= index < len(scan.frames):
            raise ScanError(f"{scan.path.name} has {len(scan.frames)} frames: there is no frame {index}.")
        target = targets(index)
        if target.parent not in folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.add(target.parent)
        kept = scan.pictures.read(index) if same else None
        if kept is None:
            missing.append(index)
        else:
            _write(kept, target)
            on_progress(1)
    if missing:
        give_back()
        encoder = _Encoding(scan, image_format, size, targets, on_progress)
        if isinstance(scan.source, ImageSource):
            encoder.images(missing, scan.source)
        else:
            encoder.video(missing)
        give_back()


def _write(picture: bytes, target: Path) -> None:
    """Write a file, whole or not at all."""
    part = target.with_name(target.name + ".part")
    part.write_bytes(picture)
    part.replace(target)


class _Encoding:
    """A second decode of one scan, on all cores."""

    def __init__(
        self,
        scan: VideoScan,
        image_format: str,
        size: Size,
        targets: Callable[[int], Path],
        on_progress: Callable[[int], None],
    ) -> None:
        self._scan = scan
        self._format = image_format
        self._size = size
        self._targets = targets
        self._hashes = scan.frames["pixel_hash"]
        self._stop = threading.Event()
        self._threads = scan.settings.threads or usable_cores()
        self._on_progress = on_progress

    def _encoder(self) -> PictureEncoder:
        return PictureEncoder(self._format, self._size, self._scan.settings.jpeg_quality)

    def _write(self, picture: bytes, index: int) -> None:
        _write(picture, self._targets(index))
        self._on_progress(1)

    def images(self, wanted: list[int], source: ImageSource) -> None:
        """Write images that were given as images."""

        def work(items: Iterator[int]) -> None:
            encoder = self._encoder()
            for index in items:
                try:
                    frame = open_image(source.paths[index])
                except OSError as error:
                    raise ScanError(f"{source.paths[index].name} cannot be read again: {error}.") from error
                self._write(encoder.encode(frame), index)

        self._in_threads(iter(wanted), work)

    def video(self, wanted: list[int]) -> None:
        """Write frames of a video: the groups that hold them in parallel, from the start what that missed."""
        left = set(wanted)
        done: set[int] = set()
        # Before the file is opened for reading: memory never holds two of its indexes.
        decoders = [Decoder(self._scan.path, self._scan.source.prime) for _ in range(min(self._threads, len(left)))]

        def work(groups: Iterator[tuple[list[Packet], list[int]]]) -> None:
            encoder, meter = self._encoder(), Meter()
            decoder: Decoder | None = None
            try:
                for packets, indices in groups:
                    decoder = decoder or decoders.pop()
                    done.update(self._group(decoder, meter, encoder, packets, indices))
            finally:
                if decoder is not None:
                    decoder.close()

        self._in_threads(self._groups(sorted(left)), work)
        left -= done
        if left:
            left -= self._from_the_start(left)
        if left:
            raise FramesLost(self._scan.path.name, left)

    def _groups(self, wanted: list[int]) -> Iterator[tuple[list[Packet], list[int]]]:
        """The packets of each group that holds a wanted frame, with the frames."""
        groups = self._scan.source.groups
        which = np.searchsorted(groups[:, 1], wanted, side="right") - 1
        members: dict[int, list[int]] = {}
        for group, index in zip(which.tolist(), wanted, strict=True):
            members.setdefault(group, []).append(index)
        with open_container(self._scan.path) as container:
            stream = video_stream(container)
            if stream is None:
                return
            packets: list[Packet] = []
            group = 0
            last = max(members)
            for number, packet in enumerate(read_packets(container, stream, Header(self._scan.path))):
                while group + 1 < len(groups) and number >= groups[group + 1, 0]:
                    if packets:
                        yield packets, members[group]
                        packets = []
                    group += 1
                if group > last:
                    break
                if group in members:
                    packets.append(packet)
            if packets:
                yield packets, members[group]

    def _group(
        self,
        decoder: Decoder,
        meter: Meter,
        encoder: PictureEncoder,
        packets: list[Packet],
        indices: list[int],
    ) -> set[int]:
        """Decode one group as far as its last wanted frame; returns the frames it wrote."""
        table = self._scan.frames
        by_time = {int(table["pts"][index]): index for index in indices}
        if -1 in by_time:
            return set()
        written: set[int] = set()
        context = decoder.context
        decoder.restart()

        def take(frames: list[av.VideoFrame]) -> None:
            for frame in frames:
                index = None if frame.pts is None else by_time.get(frame.pts)
                if index is not None and index not in written and self._is(frame, index, meter):
                    self._write(encoder.encode(frame, _rotation(frame)), index)
                    written.add(index)

        try:
            for packet in packets:
                if self._stop.is_set():
                    raise Stopped
                context.skip_frame = "DEFAULT" if packet.pts in by_time else "NONREF"
                take(_decoded(context, packet))
                if len(written) == len(indices):
                    return written
            take(_decoded(context, None))
        finally:
            context.skip_frame = "DEFAULT"
        return written

    def _is(self, frame: av.VideoFrame, index: int, meter: Meter) -> bool:
        return meter.hash(frame) == bytes(self._hashes[index])

    def _from_the_start(self, left: set[int]) -> set[int]:
        """Decode the whole file and take the wanted frames by their hash: for files without usable times."""
        encoder, meter = self._encoder(), Meter()
        by_hash: dict[bytes, list[int]] = {}
        for index in sorted(left):
            by_hash.setdefault(bytes(self._hashes[index]), []).append(index)
        decoder = Decoder(self._scan.path, None)
        written: set[int] = set()

        def take(frames: list[av.VideoFrame]) -> None:
            for frame in frames:
                for index in by_hash.pop(meter.hash(frame), ()):
                    self._write(encoder.encode(frame, _rotation(frame)), index)
                    written.add(index)

        try:
            with open_container(self._scan.path) as container:
                stream = video_stream(container)
                if stream is None:
                    return written
                for packet in chain(read_packets(container, stream, Header(self._scan.path)), [None]):
                    take(_decoded(decoder.context, packet))
                    if not by_hash:
                        break
        finally:
            decoder.close()
        return written

    def _in_threads(self, items: Iterator[object], work: Callable[..., None]) -> None:
        """Run `work` in one thread per core over shared items; the first error is raised here."""
        threads = self._threads
        shared: queue.Queue[object] = queue.Queue(maxsize=threads)
        errors: list[BaseException] = []
        end = object()

        def following() -> Iterator[object]:
            while not self._stop.is_set():
                try:
                    item = shared.get(timeout=0.1)
                except queue.Empty:
                    continue
                if item is end:
                    return
                yield item

        def run() -> None:
            try:
                work(following())
            except Stopped:
                return
            except BaseException as error:
                errors.append(error)
                self._stop.set()

        running = [threading.Thread(target=run, name=f"write-{n}", daemon=True) for n in range(threads)]
        for thread in running:
            thread.start()

        def put(item: object) -> None:
            while not self._stop.is_set():
                try:
                    shared.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return

        try:
            for item in items:
                put(item)
            for _ in running:
                put(end)
            for thread in running:
                while thread.is_alive():
                    thread.join(0.2)
        finally:
            self._stop.set()
            for thread in running:
                thread.join()
        if errors:
            raise errors[0]
        self._stop.clear()


def _decoded(context: av.VideoCodecContext, packet: Packet | None) -> list[av.VideoFrame]:
    """The frames that a packet completes; none of one that does not decode, as the scan has reported."""
    try:
        return context.decode(packet)
    except (av.FFmpegError, EOFError):
        return []


def _rotation(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) * 90 % 360
