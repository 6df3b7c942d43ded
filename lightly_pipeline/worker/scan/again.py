"""The second decode of a video, for frames of which no picture was kept.

It reads only the groups of pictures that hold a wanted frame, passes over pictures in them that nothing refers to, and
stops at the last wanted one. Each frame is recognised by its pixel hash. Groups are decoded side by side; the last
one, for which a core would wait, by all cores together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

import av
import numpy as np

from lightly_pipeline.worker.memory import give_back
from lightly_pipeline.worker.scan.backlog import Backlog, Item
from lightly_pipeline.worker.scan.cores import usable_cores
from lightly_pipeline.worker.scan.decoder import Decoder
from lightly_pipeline.worker.scan.encode import PictureEncoder, picture_encoder, small_encoder
from lightly_pipeline.worker.scan.images import ImageSource, alone_if_large, open_image
from lightly_pipeline.worker.scan.measure import Meter
from lightly_pipeline.worker.scan.packets import (
    Chunk,
    Header,
    Packet,
    Stopped,
    is_referred_to,
    open_container,
    read_packets,
    video_stream,
)
from lightly_pipeline.worker.scan.types import FramesLost, ScanError, VideoScan


def write_whole(picture: bytes, target: Path) -> None:
    """Write a file, whole or not at all."""
    part = target.with_name(target.name + ".part")
    part.write_bytes(picture)
    part.replace(target)


@dataclass(frozen=True)
class SecondDecode:
    """What a second decode of one scan, on all cores, is to give."""

    scan: VideoScan
    picks: Mapping[int, Path]
    small: Mapping[int, Path]
    on_progress: Callable[[int], None]
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def threads(self) -> int:
        """How many decode and encode at a time."""
        return self.scan.settings.threads or usable_cores()

    @property
    def wanted(self) -> list[int]:
        """The frames that are decoded, ascending."""
        return sorted({*self.picks, *self.small})

    def images(self, source: ImageSource) -> None:
        """Write images that were given as images."""

        def put(backlog: Backlog[int]) -> None:
            for index in self.wanted:
                backlog.put(index)

        def work(backlog: Backlog[int]) -> None:
            pictures = _Pictures(self)
            while taken := backlog.take():
                index, _ = taken
                path = source.paths[index]
                with alone_if_large(path):
                    try:
                        frame = open_image(path)
                    except OSError as error:
                        raise ScanError(f"{path.name} cannot be read again: {error}.") from error
                    pictures.write(frame, index)

        self._in_threads(put, work)

    def video(self) -> None:
        """Write frames of a video: the groups that hold them in parallel, from the start what that missed."""
        left = set(self.wanted)
        done: set[int] = set()
        members = self._members()
        # Before the file is opened for reading: memory never holds two of its indexes.
        decoders = [self._decoder() for _ in range(min(self.threads, len(members) - 1))]
        for_last = self._decoder(self.threads)

        def put(backlog: Backlog[Chunk]) -> None:
            for group in self._groups(members):
                backlog.put(group, octets=group.octets, work=len(group.packets), at_once=group.stream is not None)

        def work(backlog: Backlog[Chunk]) -> None:
            pictures, meter = _Pictures(self), Meter()
            own: Decoder | None = None
            try:
                while taken := backlog.take():
                    group, left = taken
                    # Of one that is streamed it is not known how many are left: all before it have been taken.
                    streamed = left is None and group.stream is not None
                    if left == 1 or (streamed and group.number == max(members)):
                        decoder = for_last
                    else:
                        decoder = own = own or decoders.pop()
                    done.update(self._group(decoder, meter, pictures, group, members[group.number]))
            finally:
                if own is not None:
                    own.close()

        try:
            self._in_threads(put, work)
        finally:
            for_last.close()
        left -= done
        if left:
            left -= self._from_the_start(left)
        if left:
            raise FramesLost(self.scan.path.name, left)

    def _decoder(self, threads: int = 1) -> Decoder:
        return Decoder(self.scan.path, self.scan.source.prime, threads)

    def _members(self) -> dict[int, list[int]]:
        """The wanted frames of each group that holds any."""
        which = np.searchsorted(self.scan.source.groups[:, 1], self.wanted, side="right") - 1
        members: dict[int, list[int]] = {}
        for group, index in zip(which.tolist(), self.wanted, strict=True):
            members.setdefault(group, []).append(index)
        return members

    def _groups(self, members: Mapping[int, list[int]]) -> Iterator[Chunk]:
        """Each group that holds a wanted frame, by its number."""
        begins, last = self.scan.source.groups[:, 0], max(members)

        def chunk(number: int) -> Chunk:
            return Chunk(number, number, int(begins[number]), stop=self.stop)

        with open_container(self.scan.path) as container:
            stream = video_stream(container)
            if stream is None:
                return
            give_back()  # twice its index is needed to open a file
            current = chunk(0)
            for number, packet in enumerate(read_packets(container, stream, Header(self.scan.path))):
                while current.number + 1 < len(begins) and number >= begins[current.number + 1]:
                    current.end()
                    if current.stream is None and current.packets:
                        yield current
                    current = chunk(current.number + 1)
                if current.number > last:
                    return
                if current.number in members and current.add(packet):
                    yield current
            current.end()
            if current.stream is None and current.packets:
                yield current

    def _group(self, decoder: Decoder, meter: Meter, pictures: _Pictures, group: Chunk, indices: list[int]) -> set[int]:
        """Decode one group as far as its last wanted frame; returns the frames it wrote."""
        packets = iter(group)
        written = self._wanted(decoder, meter, pictures, packets, indices)
        for _ in packets:
            pass  # whoever reads them would wait for room
        return written

    def _wanted(
        self, decoder: Decoder, meter: Meter, pictures: _Pictures, packets: Iterator[Packet], indices: list[int]
    ) -> set[int]:
        table = self.scan.frames
        by_time = {int(table["pts"][index]): index for index in indices}
        if -1 in by_time:
            return set()
        written: set[int] = set()
        context = decoder.context
        codec, extradata = context.name, context.extradata
        decoder.restart()

        def take(frames: list[av.VideoFrame]) -> None:
            for frame in frames:
                index = None if frame.pts is None else by_time.get(frame.pts)
                if index is not None and index not in written and meter.hash(frame) == self._hash(index):
                    pictures.write(frame, index, _rotation(frame))
                    written.add(index)

        try:
            for packet in packets:
                if self.stop.is_set():
                    raise Stopped
                wanted = packet.pts in by_time
                # Not even sent: with several threads a picture that is skipped waits for the one before the last.
                if not wanted and not is_referred_to(packet, codec, extradata):
                    continue
                context.skip_frame = "DEFAULT" if wanted else "NONREF"
                take(_decoded(context, packet))
                if len(written) == len(by_time):
                    return written
            take(_decoded(context, None))
        finally:
            context.skip_frame = "DEFAULT"
        return written

    def _hash(self, index: int) -> bytes:
        return bytes(self.scan.frames["pixel_hash"][index])

    def _from_the_start(self, left: set[int]) -> set[int]:
        """Decode the whole file and take the wanted frames by their hash: for files without usable times."""
        pictures, meter = _Pictures(self), Meter()
        by_hash: dict[bytes, list[int]] = {}
        for index in sorted(left):
            by_hash.setdefault(self._hash(index), []).append(index)
        decoder = Decoder(self.scan.path, None)
        written: set[int] = set()

        def take(frames: list[av.VideoFrame]) -> None:
            for frame in frames:
                for index in by_hash.pop(meter.hash(frame), ()):
                    pictures.write(frame, index, _rotation(frame))
                    written.add(index)

        try:
            with open_container(self.scan.path) as container:
                stream = video_stream(container)
                if stream is None:
                    return written
                for packet in chain(read_packets(container, stream, Header(self.scan.path)), [None]):
                    take(_decoded(decoder.context, packet))
                    if not by_hash:
                        break
        finally:
            decoder.close()
        return written

    def _in_threads(self, put: Callable[[Backlog[Item]], None], work: Callable[[Backlog[Item]], None]) -> None:
        """Run `work` in one thread per core on what `put` gives; the first error is raised here."""
        backlog: Backlog[Item] = Backlog(self.threads, self.stop)
        errors: list[BaseException] = []

        def run() -> None:
            try:
                work(backlog)
            except Stopped:
                return
            except BaseException as error:
                errors.append(error)
                self.stop.set()

        running = [threading.Thread(target=run, name=f"write-{n}", daemon=True) for n in range(self.threads)]
        for thread in running:
            thread.start()
        try:
            with suppress(Stopped):
                put(backlog)
                backlog.close()
            for thread in running:
                while thread.is_alive():
                    thread.join(0.2)
        finally:
            self.stop.set()
            for thread in running:
                thread.join()
        if errors:
            raise errors[0]
        self.stop.clear()


class _Pictures:
    """Encodes and writes what is wanted of frames, in one thread."""

    def __init__(self, again: SecondDecode) -> None:
        self._again = again

    @cached_property
    def _encoder(self) -> PictureEncoder:
        return picture_encoder(self._again.scan.settings)

    @cached_property
    def _small(self) -> PictureEncoder:
        return small_encoder()

    def write(self, frame: av.VideoFrame, index: int, rotation: int = 0) -> None:
        """Write the picture of a frame, the small one, or both. Raises PictureTooLarge, OSError."""
        again = self._again
        if index in again.small:
            write_whole(self._small.encode(frame, rotation), again.small[index])
        if index in again.picks:
            write_whole(self._encoder.encode(frame, rotation), again.picks[index])
        again.on_progress(int(index in again.picks))


def _decoded(context: av.VideoCodecContext, packet: Packet | None) -> list[av.VideoFrame]:
    """The frames that a packet completes; none of one that does not decode, as the scan has reported."""
    try:
        return context.decode(packet)
    except (av.FFmpegError, EOFError):
        return []


def _rotation(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) * 90 % 360
