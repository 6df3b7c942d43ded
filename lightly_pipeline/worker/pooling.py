"""The datapool as a run sees it: where it is, what it knows, and what this input adds to it."""

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from lightly_pipeline.worker.sources import whole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolPart:
    """The datapool that the options name, and this input's part of it. What it cannot do is DatapoolUnusable."""

    datapool: Datapool
    #: The part; of an input that is named by its content, too, what its parts begin with.
    name: str
    by_content: bool
    #: Whether the run adds to it what it selects, and keeps what it replaces.
    updates: bool
    keeps_history: bool

    def check(self, embedder: EmbedderIdentity) -> None:
        """Raise, before anything is decoded, where what is in the pool cannot be compared or read."""
        with _pool_errors():
            self.datapool.check(
                embedder,
                without=lambda part: part == self.name or (self.by_content and part.startswith(f"{self.name}-")),
            )

    def part(self, content: str) -> str:
        """The part of an input of this content (its hash): other content adds to what the pool knows.

        Where a user named it it is the same for any content: what is replaced there is up to whom.
        """
        if not self.by_content or self._holds(self.name, content):
            return self.name
        return f"{self.name}-{content[:8]}"

    def holds(self, content: str) -> bool:
        """Whether the pool has the part; one that cannot be read is told where the pool is used."""
        return self._holds(self.part(content), content)

    def _holds(self, part: str, content: str) -> bool:
        try:
            return self.datapool.read(part).content == content
        except (DatapoolError, OSError):
            return False

    def load(self, table: FrameTable, content: str, folder: Path) -> NDArray[np.float32]:
        """What everything else contributed to the pool: float32 [m, d]."""
        with _pool_errors():
            vectors = self.datapool.load(table.embedder, without=self.part(content), scratch=folder).embeddings
        log.info("The datapool '%s' holds %d frames of other inputs.", self.datapool.name, len(vectors))
        return vectors

    def contribute(self, outcome: Outcome, content: str) -> None:
        """Put the selected frames into the pool, in place of what the same input contributed before."""
        table, selected = outcome.table, outcome.selected
        names, vectors = table.names(selected), table.embeddings[selected]
        part = self.part(content)
        with _pool_errors():
            if self.keeps_history:
                self.datapool.keep_history(part)
            self.datapool.replace(part, names, vectors, table.embedder, content, table.labels[selected])


def find_pool(options: Options, source: str, target: str) -> PoolPart:
    """The pool that the options name.

    Raises DatapoolUnusable where there can be none, or where this run could not add to it.
    """
    uri = options.datapool.uri or pool_uri(target, options.run_directory)
    updates = options.datasource.enable_datapool_update
    with _pool_errors():
        datapool = Datapool(uri, options.datapool.name)
        if updates:
            datapool.prepare()
    named = options.datapool.part
    return PoolPart(datapool, named or pool_part(source), not named, updates, options.datapool.keep_history)


def no_pool(table: FrameTable) -> NDArray[np.float32]:
    """The vectors of no datapool: float32 [0, d]."""
    return np.empty((0, table.embedder.dimensions), dtype=np.float32)


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
    address = whole(source)
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", address.rstrip("/").rpartition("/")[2]).strip("-._") or "input"
    return f"{readable[:100]}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
