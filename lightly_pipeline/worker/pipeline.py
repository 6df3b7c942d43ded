"""The spine: discover → scan → exact duplicates → select on top of the datapool → write → report → manifest.

The order of the work is the order of the lines in `select_frames`; each step is a module of its own. Nothing is
visible in OUTPUT before everything is ready, and the manifest appears last.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightly_pipeline.worker.ahead import loading_ahead
from lightly_pipeline.worker.arguments import make_options, require_place, result_options
from lightly_pipeline.worker.choosing import choose
from lightly_pipeline.worker.datapool import Datapool, DatapoolError
from lightly_pipeline.worker.discover import Input, discover
from lightly_pipeline.worker.errors import NothingToSelect
from lightly_pipeline.worker.frames import FrameTable, ScannedFiles, make_frame_table
from lightly_pipeline.worker.given_embeddings import GivenFile, give_embeddings, look_at
from lightly_pipeline.worker.manifest import (
    SCHEMA,
    Counts,
    Manifest,
    ManifestEmbedder,
    ManifestInput,
    ManifestPool,
    Selected,
    job_fingerprint,
    list_files,
    same_input,
    worker_version,
)
from lightly_pipeline.worker.memory import give_back
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.output import layout
from lightly_pipeline.worker.output.targets import Target, open_target
from lightly_pipeline.worker.pooling import check_pool, contribute_to, find_pool, load_pool
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.report.figures import Figures
from lightly_pipeline.worker.report.statistics import check
from lightly_pipeline.worker.scan import identity_of
from lightly_pipeline.worker.scanning import Scanner, file_sha256, open_model
from lightly_pipeline.worker.scratch import Scratch, open_scratch
from lightly_pipeline.worker.sources import Source, open_source
from lightly_pipeline.worker.tree import write_tree
from lightly_pipeline.worker.writing import RowsLost, Writer

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
    datapool, part = find_pool(options, source.uri, target.uri)
    found = discover(source, relevant_filenames_file=options.relevant_filenames_file, leave_out=target.uri)
    log.info("Found %d input %s in %s.", len(found.files), found.kind, source.uri)
    given_file = look_at(options, source)
    job = job_fingerprint(result_options(options), _attachments(options, given_file))

    with ExitStack() as stack:
        scratch = stack.enter_context(
            open_scratch(options.scratch, f"{source.uri}\n{target.uri}\n{job}", _bytes(options))
        )
        if done := _already_done(target, job, found, datapool, part):
            return done
        log_file = stack.enter_context(_log_file(scratch))
        model = open_model(options)
        check_pool(datapool, part, given_file.identity if given_file else identity_of(model))
        scanner = Scanner(source, options, scratch, progress, model)
        with loading_ahead() as load:
            scanned = scanner.scan(found, under_way=load)
        table = _table(scanned, found, source, scratch)
        give_back()

        given = None
        if given_file:
            given = give_embeddings(table, given_file, source, normalize=options.normalize_embeddings)
            table = given.table

        pool = load_pool(datapool, part, table, scratch.work)
        writer = Writer(table, options, scanner, progress)
        while True:
            outcome = choose(table, options, pool, progress, given)
            give_back()
            try:
                written = write_tree(scratch, outcome, found, options, writer, given.raw if given else None)
                give_back()
                break
            except RowsLost as lost:  # each time at least one frame fewer
                table.give_up(lost.rows, "It decodes to other pixels when it is decoded again: the file is damaged.")
                log.info("%d frames of a damaged file do not decode twice: selecting again.", len(lost.rows))
                scratch.discard_tree()
        manifest = _manifest(job, outcome, written.figures, scanned, found, options, datapool, part, progress)
        written.write_report(scratch.tree, manifest, options)
        log.info("Writing report to %s.", f"{target.uri.rstrip('/')}/{layout.REPORT_HTML}")

        def contribute() -> None:
            if datapool is not None and options.datasource.enable_datapool_update:
                contribute_to(datapool, part, outcome, manifest.input_hash, options.datapool.keep_history)

        log_file.rename(scratch.tree / layout.LOG)
        manifest = _publish(target, scratch.tree, manifest, contribute, progress)
    log.info("Done! %s", target.uri)
    return SelectionResult(target.uri, manifest, already_done=False, contact_sheet=written.contact_sheet)


def _attachments(options: Options, given_file: GivenFile | None) -> list[str]:
    """Hashes of the files that options point to: with other content it is another job."""
    digests = [given_file.sha256] if given_file else []
    if options.embedder:
        from lightly_pipeline.worker.scan.neural import sidecar_of

        model = Path(options.embedder)
        digests += [file_sha256(file) for file in (model, sidecar_of(model)) if file]
    return digests


def _already_done(
    target: Target, job: str, found: Input, datapool: Datapool | None, part: str
) -> SelectionResult | None:
    """The result of an earlier run of the same job on the same files, where all of it is still there."""
    content = target.read(layout.MANIFEST)
    manifest = Manifest.from_json(content) if content else None
    if manifest is None or manifest.job != job:
        return None
    if not same_input(manifest, found.files, [name for name, _ in found.unusable]):
        return None
    if not target.holds({file.path: file.bytes for file in manifest.files}):
        log.info("An earlier result in %s is no longer complete: it is made again.", target.uri)
        return None
    if datapool is not None and manifest.datapool and manifest.datapool.updated and not _is_in(datapool, part):
        log.info("The datapool '%s' lacks what an earlier run added: it is added again.", datapool.name)
        return None
    log.info("Already done: %s was made from the same input with the same options.", target.uri)
    return SelectionResult(target.uri, manifest, already_done=True, contact_sheet=target.read(layout.CONTACT_SHEET))


def _is_in(datapool: Datapool, part: str) -> bool:
    """Whether the pool has the part; one that cannot be read is told where the pool is used."""
    try:
        datapool.read(part)
    except (DatapoolError, OSError):
        return False
    return True


def _table(scanned: list[ScannedFiles], found: Input, source: Source, scratch: Scratch) -> FrameTable:
    if not any(len(part.scan.frames) for part in scanned):
        reasons = [problem.reason for part in scanned for problem in part.scan.problems]
        reasons += [reason for _, reason in found.unusable]
        raise NothingToSelect(
            f"None of the {len(found.files) + len(found.unusable)} {found.kind} in {source.uri} could be read: "
            f"{' '.join(reasons[:3]) or 'they hold no frame.'}"
        )
    table = make_frame_table(scanned, scratch.work)
    corrupt = int((~table.frames["ok"]).sum())
    log.info("Decoded %d frames, %d of them corrupt.", len(table), corrupt)
    return table


def _manifest(
    job: str,
    outcome: Outcome,
    figures: Figures,
    scanned: list[ScannedFiles],
    found: Input,
    options: Options,
    datapool: Datapool | None,
    part: str,
    progress: Progress,
) -> Manifest:
    table = outcome.table
    updated = datapool is not None and options.datasource.enable_datapool_update
    counts = Counts(
        videos=len(found.files) if found.kind == "videos" else 0,
        images=len(found.files) if found.kind == "images" else 0,
        unreadable=len(found.unusable) + sum(1 for part in scanned if not len(part.scan.frames)),
        frames=len(table),
        corrupt=int((~outcome.usable).sum()),
        duplicates=int((outcome.usable & ~outcome.unique).sum()),
        candidates=int(outcome.candidates.sum()),
        selected=len(outcome.picks),
        pool_before=len(outcome.pool),
        pool_after=len(outcome.pool) + (len(outcome.picks) if updated else 0),
    )
    return Manifest(
        schema_version=SCHEMA,
        worker=worker_version(),
        kind=found.kind,
        job=job,
        options=result_options(options),
        embedder=ManifestEmbedder(**vars(table.embedder)),
        counts=counts,
        distances=figures.distances,
        selection=Selected(
            strategy=outcome.strategy,
            engine=outcome.engine,
            budget=outcome.budget,
            min_distance=outcome.min_distance,
            stopped_by=outcome.stopped_by,
            notes=outcome.notes,
        ),
        checks=check(outcome, duplicates_removed=options.remove_exact_duplicates and outcome.sequences is None),
        datapool=ManifestPool(uri=datapool.uri, name=datapool.name, part=part, updated=updated) if datapool else None,
        input=tuple(_inputs(scanned, found)),
        files=(),
        seconds=dict(progress.seconds),
    )


def _inputs(scanned: list[ScannedFiles], found: Input) -> list[ManifestInput]:
    entries = []
    for part in scanned:
        whole = {problem.frame_index: problem.reason for problem in part.scan.problems}
        for index, (file, digest) in enumerate(zip(part.files, part.sha256, strict=True)):
            entries.append(
                ManifestInput(
                    name=file.name,
                    sha256=digest,
                    bytes=file.bytes,
                    frames=1 if part.images else len(part.scan.frames),
                    version=file.version,
                    problem=whole.get(index) if part.images else whole.get(None),
                )
            )
    for name, reason in found.unusable:
        entries.append(ManifestInput(name=name, sha256="", bytes=0, frames=0, version="unusable", problem=reason))
    return entries


def _publish(
    target: Target, tree: Path, manifest: Manifest, contribute: Callable[[], None], progress: Progress
) -> Manifest:
    """Complete the manifest with the files of the tree, and bring both to OUTPUT."""
    give_back()
    manifest = manifest.model_copy(update={"files": list_files(tree), "seconds": dict(progress.seconds)})
    manifest.write(tree / layout.MANIFEST)
    with progress.stage("publish", len(manifest.files) + 1, "files") as stage:
        target.publish(tree, contribute, stage.advance)
    return manifest


class _LogFile(logging.FileHandler):
    """A log file that stops nothing: on a full disk the run itself ends, with its own sentence."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line; the standard would print a traceback for each."""

    def close(self) -> None:
        """Close it, written or not."""
        with suppress(OSError):
            super().close()


@contextmanager
def _log_file(scratch: Scratch) -> Iterator[Path]:
    """A file that takes the log lines of this run."""
    path = scratch.work / layout.LOG
    logger = logging.getLogger("lightly_pipeline.worker")
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield path
    finally:
        logger.removeHandler(handler)
        handler.close()


def _bytes(options: Options) -> int:
    return int(options.scratch_size_in_GB * 1024**3)
