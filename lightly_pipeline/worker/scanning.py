"""The first and longest step: every file of the input, scanned once.

Files come from the source (a few at a time where they have to be downloaded), scans from the scan room. A bad file
never stops the others: its problems are in its scan.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from lightly_pipeline.worker.budget import expected_share
from lightly_pipeline.worker.discover import Input
from lightly_pipeline.worker.errors import OptionError
from lightly_pipeline.worker.frames import ScannedFiles
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.output import layout
from lightly_pipeline.worker.progress import Progress, Stage
from lightly_pipeline.worker.scan import (
    ModelUnusable,
    NeuralEmbedder,
    ScanSettings,
    VideoScan,
    identity_of,
    scan_images,
    scan_videos,
)
from lightly_pipeline.worker.scan.cores import usable_cores
from lightly_pipeline.worker.scan_store import ScanStore
from lightly_pipeline.worker.scratch import Scratch
from lightly_pipeline.worker.sources import InputFile, Source, as_utf8

log = logging.getLogger(__name__)

#: Videos that are on this machine at a time when they have to be downloaded: this batch and the next.
_BATCH_FILES = 16
_BATCH_BYTES = 512 * 1024**2
_IMAGES = 512
#: Files that are downloaded or hashed at a time.
_FETCHES = 4
_DECODERS_PER_CORE = 4
#: Places of a damaged file that the log tells of.
_TOLD = 10


@dataclass(frozen=True)
class Scanner:
    """Scans an input with the options of a run."""

    source: Source
    options: Options
    scratch: Scratch
    progress: Progress
    model: NeuralEmbedder | None = None

    def scan(self, found: Input, under_way: Callable[[], None]) -> list[ScannedFiles]:
        """All files of the input, in its order; videos that an earlier run of the job finished are taken from it.

        under_way: called in this thread after some frames, again and again. Raises OptionError when the model that
        shall embed them does not run.
        """
        with _model_errors(self.options):
            return self._scan(found, under_way)

    def _scan(self, found: Input, under_way: Callable[[], None]) -> list[ScannedFiles]:
        settings = scan_settings(self.options)

        def advance(frames: int) -> None:
            under_way()
            stage.advance(frames)

        if found.kind == "images":
            with self.progress.stage("scan", len(found.files)) as stage:
                return list(self._scan_images(found.files, settings, advance))
        with self.progress.stage("scan") as stage:
            expected = _Expected(stage, found.files)
            store = ScanStore(self.scratch.scans, settings, identity_of(self.model))
            store.clear_unfinished()
            done = {file: scanned for file in found.files if (scanned := store.load(file))}
            if done:
                log.info("%d of %d videos were scanned by an earlier run.", len(done), len(found.files))
            for file, scanned in done.items():
                expected.add(file, len(scanned.scan.frames))
                advance(len(scanned.scan.frames))
            missing = [file for file in found.files if file not in done]
            done.update(self._scan_videos(missing, store, advance, expected))
            return [done[file] for file in found.files]

    def _scan_videos(
        self, files: Sequence[InputFile], store: ScanStore, advance: Callable[[int], None], expected: "_Expected"
    ) -> Iterator[tuple[InputFile, ScannedFiles]]:
        for batch, paths, digests in self._batches(files, _BATCH_FILES if self.source.copies else len(files)):

            def opened(number: int, frames: int, batch: Sequence[InputFile] = batch) -> None:
                expected.add(batch[number], frames)

            scans = scan_videos(
                paths,
                scratch=self.scratch.scans,
                settings=store.settings,
                model=self.model,
                on_progress=advance,
                on_opened=opened,
            )
            with closing(cast("Generator[VideoScan]", scans)):
                for file, digest, scan in zip(batch, digests, scans, strict=True):
                    _put_in_text(scan)
                    self.tell(file, scan)
                    kept = store.keep(file, digest.result(), scan)
                    yield file, ScannedFiles((file,), kept, (digest.result(),), images=False)

    def _scan_images(
        self, files: Sequence[InputFile], settings: ScanSettings, advance: Callable[[int], None]
    ) -> Iterator[ScannedFiles]:
        for batch, paths, digests in self._batches(files, _IMAGES):
            scan = scan_images(
                paths, scratch=self.scratch.scans, settings=settings, model=self.model, on_progress=advance
            )
            _put_in_text(scan)
            yield ScannedFiles(tuple(batch), scan, tuple(digest.result() for digest in digests), images=True)

    def fetch(self, files: Sequence[InputFile]) -> list[Path]:
        """The files on this machine, downloaded again where they had to make room."""
        return [self.source.fetch(file, self.scratch.inputs) for file in files]

    def let_go(self) -> None:
        """Delete local copies of input files."""
        if self.source.copies:
            shutil.rmtree(self.scratch.inputs, ignore_errors=True)

    def _batches(
        self, files: Sequence[InputFile], count: int
    ) -> Iterator[tuple[Sequence[InputFile], list[Path], list[Future[str]]]]:
        """Files that are on this machine, with their hashes to come; the next batch arrives while one is worked on.

        Copies are deleted when their batch is done with, unless there is only one.
        """
        batches = list(_cut(files, count, _BATCH_BYTES if self.source.copies else None))
        with ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch") as pool:
            arriving = self._arrive(pool, batches[0]) if batches else []
            try:
                for number, batch in enumerate(batches):
                    paths = [future.result() for future in arriving]
                    if number + 1 < len(batches):
                        arriving = self._arrive(pool, batches[number + 1])
                    yield batch, paths, [pool.submit(file_sha256, path) for path in paths]
                    if self.source.copies and len(batches) > 1:
                        for path in paths:
                            path.unlink(missing_ok=True)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _arrive(self, pool: ThreadPoolExecutor, batch: Sequence[InputFile]) -> list[Future[Path]]:
        return [pool.submit(self.source.fetch, file, self.scratch.inputs) for file in batch]

    @staticmethod
    def tell(file: InputFile, scan: VideoScan) -> None:
        """Log what is wrong with a file."""
        reasons = [problem.reason for problem in scan.problems if problem.frame_index is None]
        for reason in reasons[:_TOLD]:
            log.warning("%s: %s", file.name, reason)
        if len(reasons) > _TOLD:
            log.warning("%s: %d more such places, listed in %s.", file.name, len(reasons) - _TOLD, layout.CORRUPTNESS)


def _put_in_text(scan: VideoScan) -> None:
    """Make text of the reasons, which quote the names of files: not all of those are UTF-8, and all reports are."""
    scan.problems[:] = [replace(problem, reason=as_utf8(problem.reason)) for problem in scan.problems]


def scan_settings(options: Options) -> ScanSettings:
    """How the scan room shall work for these options; pictures are kept only where frames will be written."""
    writes = options.dump_dataset or options.webdataset_shard_size_in_MB > 0
    keeps = writes and not exact_frames(options)
    return ScanSettings(
        # Each decoder holds frames in memory, and beyond a few for each core they only wait for each other.
        threads=min(max(0, options.num_threads), _DECODERS_PER_CORE * usable_cores()),
        check_corruptness=options.enable_corruptness_check,
        corruption_threshold=options.corruptness_check.corruption_threshold,
        image_format=options.output_image_format,
        output_image_size=options.output_image_size,
        expected_share=expected_share(options) if keeps else 0.0,
    )


def open_model(options: Options) -> NeuralEmbedder | None:
    """The model that the options name, ready to embed. Raises OptionError when it does not fit."""
    with _model_errors(options):
        return (
            NeuralEmbedder(Path(options.embedder), normalize=options.normalize_embeddings) if options.embedder else None
        )


@contextmanager
def _model_errors(options: Options) -> Iterator[None]:
    try:
        yield
    except ModelUnusable as error:
        raise OptionError(f"Option embedder={options.embedder}: {error}") from error


def exact_frames(options: Options) -> bool:
    """Whether precisely the picked frames are wanted: wherever more is promised of them than that they cover all.

    A coreset is Lightly's to the frame, random frames would be no longer random, sequences are whole, and a frame
    beside the picked one may be too near to another for min_distance. Which pictures are kept is up to the built-in
    descriptor: other embeddings see differences that it does not.
    """
    return (
        options.exact_frames
        or bool(options.embedder or options.embeddings)
        or options.method != "balanced"
        or options.selection_config is not None
        or options.selected_sequence_length > 1
        or options.stopping_condition.min_distance != -1.0
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex; of an empty file where there is none."""
    digest = hashlib.sha256()
    with suppress(OSError), path.open("rb") as file:
        while block := file.read(1024**2):
            digest.update(block)
    return digest.hexdigest()


def _cut(files: Sequence[InputFile], count: int, size: int | None) -> Iterator[Sequence[InputFile]]:
    """Runs of files of at most `count` files and, but for single large files, `size` bytes."""
    start, held = 0, 0
    for number, file in enumerate(files):
        full = size is not None and held + file.bytes > size
        if number > start and (number - start >= count or full):
            yield files[start:number]
            start, held = number, 0
        held += file.bytes
    if start < len(files):
        yield files[start:]


class _Expected:
    """How many frames there will be, for the time left: as many in each byte as in the files that are known by now."""

    def __init__(self, stage: Stage, files: Sequence[InputFile]) -> None:
        self._stage = stage
        self._all = sum(file.bytes for file in files)
        self._frames = self._bytes = 0

    def add(self, file: InputFile, frames: int) -> None:
        """A file has, or promises, so many frames; 0 where it promises nothing."""
        if frames and file.bytes:
            self._frames += frames
            self._bytes += file.bytes
            self._stage.total = round(self._frames * self._all / self._bytes)
