"""The spine: discover → scan → result, which is exact duplicates → selection → tree → report → manifest.

The order of the work is the order of the lines, here and in `result`; each step is a module of its own. Nothing is
visible in OUTPUT before everything is ready, and the manifest appears last.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightly_pipeline.worker.ahead import loading_ahead
from lightly_pipeline.worker.arguments import make_options, require_place
from lightly_pipeline.worker.discover import discover
from lightly_pipeline.worker.job import Job
from lightly_pipeline.worker.manifest import Manifest, same_input
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.output import layout
from lightly_pipeline.worker.output.targets import Target, open_target
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.scan import identity_of
from lightly_pipeline.worker.scanning import Scanner, open_model
from lightly_pipeline.worker.scratch import Scratch, open_scratch
from lightly_pipeline.worker.sources import Source, open_source, whole

if TYPE_CHECKING:
    from lightly_pipeline.worker.given_embeddings import GivenFile
    from lightly_pipeline.worker.pooling import PoolPart

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectionResult:
    """What `select_frames` leaves: where it is, its manifest, and whether it had been there before."""

    uri: str
    manifest: Manifest
    already_done: bool
    contact_sheet: bytes | None


def select_frames(
    input: str | Path,
    output: str | Path,
    options: Options | Mapping[str, Any] | None = None,
    *,
    progress: Progress | None = None,
) -> SelectionResult:
    """Select a clean, diverse few of all frames below `input` and write them, lists and report to `output`.

    input, output: folders or `s3://` prefixes. options: `Options`, or values by Lightly's names, dotted or nested,
    such as `{"stopping_condition.n_samples": 0.1, "dump_dataset": True}`.

    Raises WorkerError (OptionError, NothingToSelect, StorageError, DatapoolUnusable) with a sentence; then nothing
    was written. A second call with the same input and options finds the result and does nothing.
    """
    options = make_options(options or {})
    progress = progress or Progress()
    require_place("INPUT", str(input))
    require_place("OUTPUT", str(output))
    source, target = open_source(str(input)), open_target(str(output), options.run_directory)
    target.prepare()
    pool = _pool(options, source, target)
    found = discover(source, relevant_filenames_file=options.relevant_filenames_file, leave_out=target.uri)
    log.info("Found %d input %s in %s.", len(found.files), found.kind, source.uri)
    job = Job(source, target, options, found, pool, _given(options, source))

    with ExitStack() as stack:
        scratch = stack.enter_context(
            open_scratch(
                options.scratch, f"{whole(source.uri)}\n{whole(target.uri)}\n{job.fingerprint}", _bytes(options)
            )
        )
        if done := _already_done(job):
            return done
        end_log = stack.enter_context(_log_file(scratch))
        model = open_model(options)
        if pool:
            pool.check(job.given.identity if job.given else identity_of(model))
        scanner = Scanner(source, options, scratch, progress, model)
        with loading_ahead() as load:
            scanned = scanner.scan(found, under_way=load)
        from lightly_pipeline.worker.result import make_result  # loaded ahead

        manifest, contact_sheet = make_result(job, scanned, scanner, scratch, progress, end_log)
    log.info("Done! %s", target.uri)
    return SelectionResult(target.uri, manifest, already_done=False, contact_sheet=contact_sheet)


def _pool(options: Options, source: Source, target: Target) -> "PoolPart | None":
    """The datapool that the options name, if any."""
    if not options.datapool.name:
        if options.datapool.uri or options.datapool.part:
            log.warning("No datapool is used: datapool.name says which one, and is empty.")
        return None
    from lightly_pipeline.worker.pooling import find_pool

    return find_pool(options, source.uri, target.uri)


def _given(options: Options, source: Source) -> "GivenFile | None":
    """The file of given embeddings that the options name, if any."""
    if not options.embeddings:
        return None
    from lightly_pipeline.worker.given_embeddings import look_at

    return look_at(options, source)


def _already_done(job: Job) -> SelectionResult | None:
    """The result of an earlier run of the same job on the same files, where all of it is still there."""
    target, pool = job.target, job.pool
    content = target.read(layout.MANIFEST)
    manifest = Manifest.from_json(content) if content else None
    if manifest is None or manifest.job != job.fingerprint:
        return None
    if not same_input(manifest, job.found.files, [name for name, _ in job.found.unusable]):
        return None
    if not target.holds({file.path: file.bytes for file in manifest.files}):
        log.info("An earlier result in %s is no longer complete: it is made again.", target.uri)
        return None
    if pool and manifest.datapool and manifest.datapool.updated and not pool.holds(manifest.input_hash):
        log.info("The datapool '%s' lacks what an earlier run added: it is added again.", pool.datapool.name)
        return None
    log.info("Already done: %s was made from the same input with the same options.", target.uri)
    return SelectionResult(target.uri, manifest, already_done=True, contact_sheet=target.read(layout.CONTACT_SHEET))


class _LogFile(logging.FileHandler):
    """A log file that stops nothing: on a full disk the run itself ends, with its own sentence."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line; the standard would print a traceback for each."""

    def close(self) -> None:
        """Close it, written or not."""
        with suppress(OSError):
            super().close()


class _Onwards(logging.Handler):
    """Passes on what is above a level, as if there were no file."""

    def emit(self, record: logging.LogRecord) -> None:
        """To whoever listens above the worker's loggers."""
        logging.getLogger("lightly_pipeline").callHandlers(record)


@contextmanager
def _log_file(scratch: Scratch) -> Iterator[Callable[[Path], None]]:
    """A file that takes the log lines of this run, until it is told where it shall lie: it changes no more then."""
    path = scratch.work / layout.LOG
    logger = logging.getLogger("lightly_pipeline.worker")
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)

    def end(target: Path | None = None) -> None:
        logger.removeHandler(handler)
        handler.close()
        if target is not None:
            path.rename(target)

    try:
        with _every_line(logger):
            yield end
    finally:
        end()


@contextmanager
def _every_line(logger: logging.Logger) -> Iterator[None]:
    """Handlers of the logger get lines from INFO on; to the program that runs this goes what it asked for."""
    level, propagates = logger.level, logger.propagate
    if logger.isEnabledFor(logging.INFO):
        yield
        return
    onwards = _Onwards(logger.getEffectiveLevel())
    if propagates:
        logger.addHandler(onwards)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(onwards)
        logger.setLevel(level)
        logger.propagate = propagates


def _bytes(options: Options) -> int:
    return int(options.scratch_size_in_GB * 1024**3)
