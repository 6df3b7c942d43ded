"""The first and longest step: every file of the input, scanned once.

Files come from the source (a few at a time where they have to be downloaded), scans from the scan room. A bad file
never stops the others: its problems are in its scan.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lightly_pipeline.worker.budget import expected_share
from lightly_pipeline.worker.discover import Input, total_bytes
from lightly_pipeline.worker.frames import ScannedFiles
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.scan import ScanSettings, VideoScan, scan_images, scan_videos
from lightly_pipeline.worker.scratch import Scratch
from lightly_pipeline.worker.sources import InputFile, Source

log = logging.getLogger(__name__)

#: Videos that are on this machine at a time when they have to be downloaded: this batch and the next.
_BATCH_FILES = 16
_BATCH_BYTES = 512 * 1024**2
_IMAGES = 512


@dataclass(frozen=True)
class Scanner:
    """Scans an input with the options of a run."""

    source: Source
    options: Options
    scratch: Scratch
    progress: Progress

    def scan(self, found: Input) -> list[ScannedFiles]:
        """All files of the input, in its order."""
        settings = scan_settings(self.options)
        scanned: list[ScannedFiles] = []
        images = found.kind == "images"
        with self.progress.stage("scan", _declared_frames(found, self.source)) as stage:
            for files, paths, digests in self._batches(found.files, images):
                if images:
                    scan = scan_images(paths, scratch=self.scratch.scans, settings=settings, on_progress=stage.advance)
                    scanned.append(ScannedFiles(tuple(files), scan, tuple(digests), images=True))
                    continue
                scans = scan_videos(paths, scratch=self.scratch.scans, settings=settings, on_progress=stage.advance)
                for file, digest, scan in zip(files, digests, scans, strict=True):
                    scanned.append(ScannedFiles((file,), scan, (digest,), images=False))
                    self._tell(file, scan)
        return scanned

    def fetch(self, files: Sequence[InputFile]) -> list[Path]:
        """The files on this machine, downloaded again where they had to make room."""
        return [self.source.fetch(file, self.scratch.inputs) for file in files]

    def let_go(self) -> None:
        """Delete local copies of input files."""
        if self.source.copies:
            shutil.rmtree(self.scratch.inputs, ignore_errors=True)

    def _batches(
        self, files: Sequence[InputFile], images: bool
    ) -> Iterator[tuple[Sequence[InputFile], list[Path], list[str]]]:
        """Files that are on this machine; the next batch arrives while one is worked on, and then goes."""
        largest = (
            (_IMAGES if images else _BATCH_FILES, _BATCH_BYTES) if self.source.copies or images else (10**9, 1 << 62)
        )
        batches = list(_cut(files, *largest))
        with ThreadPoolExecutor(1, thread_name_prefix="fetch") as ahead:
            following: Future[tuple[list[Path], list[str]]] | None = None
            try:
                for number, batch in enumerate(batches):
                    paths, digests = following.result() if following else self._arrive(batch)
                    if number + 1 < len(batches):
                        following = ahead.submit(self._arrive, batches[number + 1])
                    yield batch, paths, digests
                    if self.source.copies and len(batches) > 1:
                        for path in paths:
                            path.unlink(missing_ok=True)
            finally:
                ahead.shutdown(wait=False, cancel_futures=True)

    def _arrive(self, batch: Sequence[InputFile]) -> tuple[list[Path], list[str]]:
        paths = []
        for file in batch:
            self.progress.check()
            paths.append(self.source.fetch(file, self.scratch.inputs))
        return paths, [file_sha256(path) for path in paths]

    def _tell(self, file: InputFile, scan: VideoScan) -> None:
        for problem in scan.problems:
            if problem.frame_index is None:
                log.warning("%s: %s", file.name, problem.reason)


def scan_settings(options: Options) -> ScanSettings:
    """How the scan room shall work for these options; pictures are kept only where frames will be written."""
    writes = options.dump_dataset or options.webdataset_shard_size_in_MB > 0
    keeps = writes and not exact_frames(options)
    return ScanSettings(
        threads=max(0, options.num_threads),
        check_corruptness=options.enable_corruptness_check,
        image_format=options.output_image_format,
        output_image_size=options.output_image_size,
        expected_share=expected_share(options) if keeps else 0.0,
        model=Path(options.embedder) if options.embedder else None,
    )


def exact_frames(options: Options) -> bool:
    """Whether precisely the picked frames are wanted, where they are whole sequences or said to be."""
    return options.exact_frames or options.selected_sequence_length > 1


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex; of an empty file where there is none."""
    digest = hashlib.sha256()
    with suppress(OSError), path.open("rb") as file:
        while block := file.read(1024**2):
            digest.update(block)
    return digest.hexdigest()


def _cut(files: Sequence[InputFile], count: int, size: int) -> Iterator[Sequence[InputFile]]:
    """Runs of files of at most `count` files and, but for single large files, `size` bytes."""
    start, held = 0, 0
    for number, file in enumerate(files):
        if number > start and (number - start >= count or held + file.bytes > size):
            yield files[start:number]
            start, held = number, 0
        held += file.bytes
    if start < len(files):
        yield files[start:]


def _declared_frames(found: Input, source: Source) -> int | None:
    """How many frames the containers promise, for the time left; None where that would mean a download."""
    if found.kind == "images":
        return len(found.files)
    if source.copies or total_bytes(found.files) == 0:
        return None
    import av

    frames = 0
    for file in found.files:
        try:
            with av.open(file.location) as container:
                stream = next(iter(container.streams.video), None)
                if stream is None:
                    continue
                seconds = (container.duration or 0) / av.time_base
                frames += stream.frames or int(seconds * float(stream.average_rate or 0))
        except (av.error.FFmpegError, OSError, ValueError):
            # It will be scanned, and said to be unreadable, in its turn.
            continue
    return frames or None
