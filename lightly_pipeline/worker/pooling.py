"""The datapool as a run sees it: where it is, what it knows, and what this input adds to it."""

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.datapool import Datapool, DatapoolError
from lightly_pipeline.worker.errors import DatapoolUnusable
from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.s3 import S3Address, is_s3
from lightly_pipeline.worker.scan import EmbedderIdentity

log = logging.getLogger(__name__)


def find_pool(options: Options, source: str, target: str) -> tuple[Datapool | None, str]:
    """The pool that the options name, if any, and the name of this input's part of it.

    Raises DatapoolUnusable where there can be none, or where this run could not add to it.
    """
    if not options.datapool.name:
        return None, ""
    uri = options.datapool.uri or pool_uri(target, options.run_directory)
    with _pool_errors():
        datapool = Datapool(uri, options.datapool.name)
        if options.datasource.enable_datapool_update:
            datapool.prepare()
    return datapool, options.datapool.part or pool_part(source)


def check_pool(datapool: Datapool | None, part: str, embedder: EmbedderIdentity) -> None:
    """Raise DatapoolUnusable, before anything is decoded, where what is in the pool cannot be compared or read."""
    if datapool is not None:
        with _pool_errors():
            datapool.check(embedder, without=part)


def load_pool(datapool: Datapool | None, part: str, table: FrameTable, folder: Path) -> NDArray[np.float32]:
    """What other inputs contributed to the pool: float32 [m, d], empty without a pool."""
    if datapool is None:
        return np.empty((0, table.embedder.dimensions), dtype=np.float32)
    with _pool_errors():
        vectors = datapool.load(table.embedder, without=part, scratch=folder).embeddings
    log.info("The datapool '%s' holds %d frames of other inputs.", datapool.name, len(vectors))
    return vectors


def contribute_to(datapool: Datapool, part: str, outcome: Outcome, content: str, keep_history: bool) -> None:
    """Put the selected frames into the pool, in place of what the same input contributed before.

    content: hash of the input. With `keep_history` what was there before is kept under history/.
    """
    table, selected = outcome.table, outcome.selected
    with _pool_errors():
        if keep_history:
            datapool.keep_history(part)
        datapool.replace(
            part, table.names(selected), table.embeddings[selected], table.embedder, content, table.video[selected]
        )


@contextmanager
def _pool_errors() -> Iterator[None]:
    """What the pool cannot do is DatapoolUnusable."""
    try:
        yield
    except DatapoolError as error:
        raise DatapoolUnusable(str(error)) from error


def pool_uri(output: str, run_directory: str) -> str:
    """`datapool` beside OUTPUT in its parent folder; in the bucket for S3."""
    if is_s3(output):
        return f"s3://{S3Address.parse(output).bucket}/datapool"
    root = Path(output).absolute()
    for _ in Path(run_directory).parts:
        root = root.parent
    return str(root.parent / "datapool")


def pool_part(source: str) -> str:
    """A name that tells the input to people, and by its hash is no other input's."""
    address = source if is_s3(source) else str(Path(source).resolve())
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", address.rstrip("/").rpartition("/")[2]).strip("-._") or "input"
    return f"{readable[:100]}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
