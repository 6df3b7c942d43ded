"""The second half of the spine: from the scanned files to the published result.

Loaded while the first half decodes (`ahead`): nothing that begins a run may import it.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from lightly_pipeline.worker.arguments import result_options
from lightly_pipeline.worker.choosing import choose
from lightly_pipeline.worker.errors import NothingToSelect
from lightly_pipeline.worker.frames import FrameTable, ScannedFiles, make_frame_table
from lightly_pipeline.worker.given_embeddings import give_embeddings
from lightly_pipeline.worker.job import Job
from lightly_pipeline.worker.manifest import (
    SCHEMA,
    Counts,
    Manifest,
    ManifestEmbedder,
    ManifestInput,
    ManifestPool,
    Selected,
    input_hash,
    list_files,
    worker_version,
)
from lightly_pipeline.worker.memory import give_back
from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.output import layout
from lightly_pipeline.worker.pooling import no_pool
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.report.figures import Figures
from lightly_pipeline.worker.report.statistics import check
from lightly_pipeline.worker.scanning import Scanner
from lightly_pipeline.worker.scratch import Scratch
from lightly_pipeline.worker.tree import write_tree
from lightly_pipeline.worker.writing import RowsLost, Writer

log = logging.getLogger(__name__)


def make_result(
    job: Job,
    scanned: list[ScannedFiles],
    scanner: Scanner,
    scratch: Scratch,
    progress: Progress,
    end_log: Callable[[Path], None],
) -> tuple[Manifest, bytes | None]:
    """Select from the frames of the scans and bring the result to OUTPUT; its manifest and contact sheet.

    end_log: puts the log where it becomes part of the result. Raises NothingToSelect when there is no frame, and what
    the steps raise; then OUTPUT is as it was.
    """
    options = job.options
    table = _table(job, scanned, scratch)
    give_back()

    given = None
    if job.given:
        given = give_embeddings(table, job.given, job.source, normalize=options.normalize_embeddings)
        table = given.table
    raw = given.raw if given else None
    if options.embedder and not options.normalize_embeddings:
        raw = table.embeddings

    content = input_hash(_inputs(job, scanned))
    pool = job.pool.load(table, content, scratch.work) if job.pool else no_pool(table)
    writer = Writer(table, options, scanner, progress)
    while True:
        outcome = choose(table, options, pool, progress, given)
        give_back()
        try:
            written = write_tree(scratch, outcome, job.found, options, writer, raw)
            give_back()
            break
        except RowsLost as lost:  # each time at least one frame fewer
            table.give_up(lost.rows, "It decodes to other pixels when it is decoded again: the file is damaged.")
            log.info("%d frames of a damaged file do not decode twice: selecting again.", len(lost.rows))
            scratch.discard_tree()
    manifest = _manifest(job, outcome, written.figures, scanned, content, progress)
    written.write_report(scratch.tree, manifest, options)
    log.info("Writing report to %s.", f"{job.target.uri.rstrip('/')}/{layout.REPORT_HTML}")
    end_log(scratch.tree / layout.LOG)
    return _publish(job, scratch.tree, manifest, outcome, progress), written.contact_sheet


def _table(job: Job, scanned: list[ScannedFiles], scratch: Scratch) -> FrameTable:
    found = job.found
    if not any(len(part.scan.frames) for part in scanned):
        reasons = [problem.reason for part in scanned for problem in part.scan.problems]
        reasons += [reason for _, reason in found.unusable]
        raise NothingToSelect(
            f"None of the {len(found.files) + len(found.unusable)} {found.kind} in {job.source.uri} could be read: "
            f"{' '.join(reasons[:3]) or 'they hold no frame.'}"
        )
    table = make_frame_table(scanned, scratch.work)
    corrupt = int((~table.frames["ok"]).sum())
    log.info("Decoded %d frames, %d of them corrupt.", len(table), corrupt)
    return table


def _manifest(
    job: Job, outcome: Outcome, figures: Figures, scanned: list[ScannedFiles], content: str, progress: Progress
) -> Manifest:
    table, options, found, pool = outcome.table, job.options, job.found, job.pool
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
        pool_after=len(outcome.pool) + (len(outcome.picks) if pool and pool.updates else 0),
    )
    return Manifest(
        schema_version=SCHEMA,
        worker=worker_version(),
        kind=found.kind,
        job=job.fingerprint,
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
        datapool=ManifestPool(
            uri=pool.datapool.uri, name=pool.datapool.name, part=pool.part(content), updated=pool.updates
        )
        if pool
        else None,
        input=tuple(_inputs(job, scanned)),
        files=(),
        seconds=dict(progress.seconds),
    )


def _inputs(job: Job, scanned: list[ScannedFiles]) -> list[ManifestInput]:
    entries = []
    for part in scanned:
        reasons: defaultdict[int | None, list[str]] = defaultdict(list)
        for problem in part.scan.problems:
            reasons[problem.frame_index].append(problem.reason)
        for index, (file, digest) in enumerate(zip(part.files, part.sha256, strict=True)):
            entries.append(
                ManifestInput(
                    name=file.name,
                    sha256=digest,
                    bytes=file.bytes,
                    frames=1 if part.images else len(part.scan.frames),
                    version=file.version,
                    problem=_in_short(reasons[index if part.images else None]),
                )
            )
    for name, reason in job.found.unusable:
        entries.append(ManifestInput(name=name, sha256="", bytes=0, frames=0, version="unusable", problem=reason))
    return entries


def _in_short(reasons: list[str]) -> str | None:
    """The first, and how many more there are; the lists have them all."""
    if len(reasons) < 2:
        return reasons[0] if reasons else None
    return f"{reasons[0]} ({len(reasons) - 1} more)"


def _publish(job: Job, tree: Path, manifest: Manifest, outcome: Outcome, progress: Progress) -> Manifest:
    """Complete the manifest with the files of the tree, and bring both to OUTPUT and what was selected to the pool."""
    give_back()
    manifest = manifest.model_copy(update={"files": list_files(tree), "seconds": dict(progress.seconds)})
    manifest.write(tree / layout.MANIFEST)

    def contribute() -> None:
        if job.pool and job.pool.updates:
            job.pool.contribute(outcome, manifest.input_hash)

    with progress.stage("publish", len(manifest.files) + 1, "files") as stage:
        job.target.publish(tree, contribute, stage.advance)
    return manifest
