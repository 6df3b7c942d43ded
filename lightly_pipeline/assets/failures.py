"""How the plain objects' errors become Dagster failures: the sentence, what it was about, and whether to try again."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from lightly_pipeline.pexels import PexelsError
from lightly_pipeline.runner import RunnerError
from lightly_pipeline.settings import SettingError
from lightly_pipeline.storage import StorageError


@contextmanager
def failures(**about: str) -> Iterator[None]:
    """Raise the known errors of the block as `dg.Failure` with the facts in `about` as metadata.

    Errors that say of themselves that they are transient may be retried by a policy; the others never are, as a
    second attempt would meet the same wrong key or missing bucket.
    """
    try:
        yield
    except (PexelsError, RunnerError, SettingError, StorageError) as error:
        raise dg.Failure(
            str(error),
            metadata={**about, "error": type(error).__name__},
            allow_retries=bool(getattr(error, "transient", False)),
        ) from error
