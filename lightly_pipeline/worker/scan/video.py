"""Scanning video: one feeder cuts files into chunks, one thread per core decodes them, results come in order.

libav, the compiled kernels and the JPEG and PNG encoders release the GIL, so threads use the cores. One
single-thread decoder per chunk uses them better than the decoder's own threads do. All queues are bounded.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.memory import give_back
from lightly_pipeline.worker.scan.backlog import Backlog
from lightly_pipeline.worker.scan.chunk import ChunkDecoder, ChunkResult
from lightly_pipeline.worker.scan.cores import usable_cores
from lightly_pipeline.worker.scan.decoder import Decoder, Purpose
from lightly_pipeline.worker.scan.keep import KeepRule
from lightly_pipeline.worker.scan.kept import KeptPictures
from lightly_pipeline.worker.scan.measure import Meter
from lightly_pipeline.worker.scan.neural import NeuralEmbedder, identity_of
from lightly_pipeline.worker.scan.packets import (
    Chunk,
    Header,
    Packet,
    Stopped,
    chunks,
    describe,
    open_container,
    promised_frames,
    reason_of,
)
from lightly_pipeline.worker.scan.store import EmbeddingStore
from lightly_pipeline.worker.scan.timing import timing_problems
from lightly_pipeline.worker.scan.types import FRAME_DTYPE, EmbedderIdentity, Problem, ScanSettings, VideoScan

#: Chunks that may be decoded and not yet fetched by the caller, over all files.
_UNFETCHED = 64
_PROGRESS_STEP = 32
_MOST_THREADS = 64


def _nothing(frames: int) -> None:
    """Do not follow progress."""


def _nothing_opened(number: int, frames: int) -> None:
    """Do not follow what is opened."""


def scan_video(
    path: Path,
    *,
    scratch: Path,
    settings: ScanSettings,
    model: NeuralEmbedder | None = None,
    on_progress: Callable[[int], None] = _nothing,
) -> VideoScan:
    """Decode every frame of one video once, and say what is wrong with it.

    model: embeds the frames instead of the built-in descriptor. scratch: an existing directory; a folder of its own is
    made in it. on_progress is called in the calling thread with the number of frames finished since its last call. A
    file that does not open, holds no video or is damaged never raises: it comes back with a `Problem` and the frames
    that could be had. The result is the same for any number of threads. Raises OSError when scratch cannot be written,
    ModelUnusable when the model does not run.
    """
    return next(iter(scan_videos([path], scratch=scratch, settings=settings, model=model, on_progress=on_progress)))


def scan_videos(
    paths: Sequence[Path],
    *,
    scratch: Path,
    settings: ScanSettings,
    model: NeuralEmbedder | None = None,
    on_progress: Callable[[int], None] = _nothing,
    on_opened: Callable[[int, int], None] = _nothing_opened,
) -> Iterator[VideoScan]:
    """Scan many videos, one `VideoScan` each in the order of `paths`; short ones share the cores.

    Same arguments and guarantees as `scan_video`; prefer this when there is more than one video. on_opened is called
    in the calling thread, too: with the place in `paths` of a file and how many frames its container promises.
    Closing the generator, or an exception in the caller's loop, stops the threads within a picture or two.
    """
    scan = _Scan([Path(path) for path in paths], Path(scratch), settings, model, on_progress, on_opened)
    try:
        yield from scan.results()
    finally:
        scan.shut_down()


@dataclass
class _File:
    """One file on its way through the scan."""

    number: int
    header: Header
    folder: Path
    store: EmbeddingStore
    expected_chunks: int | None = None
    #: Chunks that came before an earlier one did.
    early: dict[int, ChunkResult] = field(default_factory=dict)
    chunks: int = 0
    count: int = 0
    tables: list[NDArray[np.void]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    kept: list[NDArray[np.void]] = field(default_factory=list)
    groups: list[tuple[int, int]] = field(default_factory=list)
    width: int = 0
    height: int = 0

    def add(self, result: ChunkResult) -> None:
        """Take a chunk, in any order; what is complete from the start of the file is appended to the rest."""
        self.early[result.number] = result
        while (following := self.early.pop(self.chunks, None)) is not None:
            self._append(following)
            self.chunks += 1

    def _append(self, result: ChunkResult) -> None:
        first = self.count
        result.frames["index"] += first
        self.tables.append(result.frames)
        self.store.append(result.embeddings)
        for problem in result.problems:
            index = None if problem.frame_index is None else problem.frame_index + first
            self.problems.append(Problem(index, problem.reason, problem.kind))
        sound = result.kept[result.frames["ok"][result.kept["index"]]]
        sound["index"] += first
        self.kept.append(sound)
        self.groups += [(packet, frame + first) for packet, frame in result.groups]
        if not self.width:
            self.width, self.height = result.width, result.height
        self.count += len(result.frames)

    @property
    def complete(self) -> bool:
        """Whether all of the file has come."""
        return self.expected_chunks is not None and self.chunks == self.expected_chunks


@dataclass
class _Opened:
    number: int
    frames: int


@dataclass
class _Failure:
    error: BaseException


@dataclass
class _Task:
    file: _File
    chunk: Chunk
    #: The packets before the chunk, in case it must be decoded again with them.
    before: list[Packet]


class _Scan:
    """The threads and queues of one call of `scan_videos`."""

    def __init__(
        self,
        paths: list[Path],
        scratch: Path,
        settings: ScanSettings,
        model: NeuralEmbedder | None,
        on_progress: Callable[[int], None],
        on_opened: Callable[[int, int], None],
    ) -> None:
        self._paths = paths
        self._scratch = scratch
        self._settings = settings
        self._on_progress = on_progress
        self._on_opened = on_opened
        self._threads = min(settings.threads or usable_cores(), _MOST_THREADS)
        self._neural = model
        self._embedder = identity_of(model)
        self._stop = threading.Event()
        self._rule = KeepRule(settings.expected_share, self._stop)
        self._tasks: Backlog[_Task] = Backlog(self._threads, self._stop)
        self._events: queue.Queue[int | _Opened | _File | tuple[_File, ChunkResult] | _Failure] = queue.Queue()
        self._unfetched = threading.Semaphore(_UNFETCHED)
        self._running: list[threading.Thread] = []

    def results(self) -> Iterator[VideoScan]:
        """The scans, in the order of the paths."""
        self._start(self._feed, "scan-feed")
        for number in range(self._threads):
            self._start(self._work, f"scan-{number}")
        waiting: dict[int, _File] = {}
        for number, path in enumerate(self._paths):
            while not (number in waiting and waiting[number].complete):
                event = self._events.get()
                if isinstance(event, _Failure):
                    raise event.error
                if isinstance(event, int):
                    self._on_progress(event)
                elif isinstance(event, _Opened):
                    self._on_opened(event.number, event.frames)
                elif isinstance(event, _File):
                    waiting[event.number] = event
                else:
                    file, result = event
                    file.add(result)
                    self._unfetched.release()
            yield _assemble(waiting.pop(number), path, self._settings, self._embedder)

    def _start(self, target: Callable[[], None], name: str) -> None:
        def run() -> None:
            try:
                target()
            except Stopped:
                return
            except BaseException as error:
                self._stop.set()
                self._events.put(_Failure(error))

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._running.append(thread)
        thread.start()

    def shut_down(self) -> None:
        """Stop what still runs and wait for it."""
        self._stop.set()
        for thread in self._running:
            thread.join()
        give_back()

    # --- the feeder -----------------------------------------------------------------------------------------

    def _feed(self) -> None:
        sequence = 0
        for number, path in enumerate(self._paths):
            folder = Path(tempfile.mkdtemp(prefix="scan-", dir=self._scratch))
            store = EmbeddingStore(folder / "embeddings.float32", self._embedder.dimensions)
            file = _File(number, Header(path), folder, store)
            count = 0
            chunk: Chunk | None = None
            try:
                with open_container(path) as container:
                    stream = describe(container, file.header)
                    if stream is not None:
                        self._events.put(_Opened(number, promised_frames(container, stream)))
                        before: list[Packet] = []
                        for chunk in chunks(
                            container,
                            stream,
                            file.header,
                            first_sequence=sequence,
                            stop=self._stop,
                        ):
                            count += 1
                            self._acquire()
                            self._tasks.put(
                                _Task(file, chunk, before),
                                octets=chunk.octets,
                                work=len(chunk.packets) * file.header.pixels,
                                at_once=chunk.stream is not None,
                            )
                            before = chunk.packets
            except (av.FFmpegError, OSError, ValueError) as error:
                if chunk is not None:
                    chunk.end()
                empty = path.is_file() and not path.stat().st_size
                reason = "the file is empty" if empty else reason_of(error)
                file.header.problems.append(
                    Problem(None, f"{path.name} does not open as a video: {reason}.", "unreadable")
                )
            sequence += count
            file.expected_chunks = count
            self._events.put(file)
        self._tasks.close()

    def _acquire(self) -> None:
        while not self._unfetched.acquire(timeout=0.1):
            if self._stop.is_set():
                raise Stopped

    # --- the workers ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        meter: Meter | None = None
        decoders: dict[tuple[int, Purpose], Decoder] = {}
        current: _File | None = None
        try:
            while taken := self._tasks.take():
                task, left = taken
                # Nothing comes to keep the other cores busy before a streamed one ends, nor after the last ones.
                if task.chunk.stream is not None:
                    task.chunk.threads = self._threads
                elif left is not None:
                    task.chunk.threads = max(1, self._threads // left)
                if meter is None:
                    meter = Meter()
                if task.file is not current:
                    _close(decoders)
                    current = task.file
                self._events.put((task.file, self._decode(task, meter, decoders)))
        finally:
            _close(decoders)

    def _decode(self, task: _Task, meter: Meter, decoders: dict[tuple[int, Purpose], Decoder]) -> ChunkResult:
        chunk, header = task.chunk, task.file.header
        pending = 0

        def check(frames: int) -> None:
            nonlocal pending
            if self._stop.is_set():
                raise Stopped
            pending += frames
            if pending >= _PROGRESS_STEP:
                self._events.put(pending)
                pending = 0

        worker = ChunkDecoder(meter, self._settings, task.file.folder, float(header.time_base), self._neural)
        # What is streamed cannot be decoded again.
        kind: tuple[int, Purpose] = (chunk.threads, "damage" if chunk.stream is None else "both")
        if kind not in decoders:
            _close(decoders)  # one at a time: each holds some tens of pictures
            decoders[kind] = Decoder(header.path, header.prime, *kind)
        rule = self._rule.begin(chunk.sequence)
        first_delta = rule.copy()
        result = worker.run(chunk, decoders[kind], rule, check)
        if result.problems and chunk.stream is None:
            # Damage is believed when a fresh decoder with one thread, warmed up with the packets before, sees
            # it too: what several threads make of a damaged picture depends on their timing.
            fresh = Decoder(header.path, header.prime, purpose="both")
            try:
                rule = first_delta
                result = worker.run(chunk, fresh, rule, lambda frames: check(0), task.before)
            finally:
                fresh.close()
        self._rule.finish(chunk.sequence, rule)
        if pending:
            self._events.put(pending)
        return result


def _close(decoders: dict[tuple[int, Purpose], Decoder]) -> None:
    for decoder in decoders.values():
        decoder.close()
    decoders.clear()


@dataclass(frozen=True)
class VideoSource:
    """How to find the frames of a scanned video again.

    groups: int64 [g, 2], first packet and first frame of each run of packets that decodes on its own.
    """

    groups: NDArray[np.int64]
    prime: Packet | None


def _assemble(file: _File, path: Path, settings: ScanSettings, embedder: EmbedderIdentity) -> VideoScan:
    header = file.header
    frames = np.concatenate(file.tables) if file.tables else np.zeros(0, FRAME_DTYPE)
    if header.fps and (frames["pts"] == -1).all():
        # A bare stream: one picture after the other, at the rate that it names or libav takes for granted.
        frames["seconds"] = frames["index"] / header.fps
    problems, count = file.problems, file.count
    if not count and not any(item.kind == "unreadable" for item in header.problems):
        header.problems.append(
            Problem(None, f"{path.name} has a video stream, but not one picture of it decodes.", "unreadable")
        )
    if count and settings.check_corruptness:
        problems += timing_problems(frames, header)
    return VideoScan(
        path=path,
        frames=frames,
        embeddings=file.store.finish(),
        problems=header.problems + problems,
        embedder=embedder,
        width=file.width,
        height=file.height,
        fps=header.fps,
        declared_frames=header.declared_frames,
        codec=header.codec,
        settings=settings,
        scratch=file.folder,
        pictures=KeptPictures.of(file.folder, file.kept),
        source=VideoSource(np.array(file.groups, np.int64).reshape(-1, 2), header.prime),
    )
