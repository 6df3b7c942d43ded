"""What a run shall do: all that is fixed before the first frame is decoded."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lightly_pipeline.worker.arguments import result_options
from lightly_pipeline.worker.discover import Input
from lightly_pipeline.worker.manifest import job_fingerprint
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.output.targets import Target
from lightly_pipeline.worker.scanning import file_sha256
from lightly_pipeline.worker.sources import Source

if TYPE_CHECKING:
    from lightly_pipeline.worker.given_embeddings import GivenFile
    from lightly_pipeline.worker.pooling import PoolPart


@dataclass(frozen=True)
class Job:
    """Input, output and options, with what the options name: the datapool, and the file of given embeddings."""

    source: Source
    target: Target
    options: Options
    found: Input
    pool: "PoolPart | None"
    given: "GivenFile | None"

    @cached_property
    def fingerprint(self) -> str:
        """Next to the input, what makes two runs the same job."""
        return job_fingerprint(result_options(self.options), self._attachments())

    def _attachments(self) -> list[str]:
        """Hashes of the files that options point to: with other content it is another job."""
        digests = [self.given.sha256] if self.given else []
        if self.options.embedder:
            from lightly_pipeline.worker.scan.neural import sidecar_of

            model = Path(self.options.embedder)
            digests += [file_sha256(file) for file in (model, sidecar_of(model)) if file]
        return digests
