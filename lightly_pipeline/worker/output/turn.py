"""Whose turn it is to publish below an S3 prefix.

A small object that appears by a conditional write, so that of two runs one has it; it is written again every few
seconds by the run that has it, and gone when that run is done. One that stays as it is for longer is that of a run
that was killed, and the next one takes it over. S3's own clock tells how old it is. A store that does not know
conditional writes lets every run have its turn at once.
"""

import json
import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from lightly_pipeline.worker.errors import StorageError
from lightly_pipeline.worker.s3 import s3_client

if TYPE_CHECKING:
    from types import TracebackType

    from botocore.exceptions import ClientError

log = logging.getLogger(__name__)

#: Seconds: between two writes of who has the turn; of silence after which it is somebody else's; between two looks.
_RENEWED_EVERY, _LAPSES_AFTER, _LOOKS_EVERY = 5.0, 30.0, 1.0
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_UNKNOWN = frozenset({"NotImplemented", "501"})
_GONE = frozenset({"NoSuchKey", "404"})


class Turn:
    """The turn of one run, which others wait for; a context."""

    def __init__(self, bucket: str, key: str, uri: str, check: Callable[[], None]) -> None:
        """uri: how messages name the place. check: called while waiting; what it raises ends that."""
        self._at: dict[str, Any] = {"Bucket": bucket, "Key": key}
        self._uri, self._check = uri, check
        self._body = json.dumps({"run": uuid.uuid4().hex}).encode()
        self._etag = ""
        self._lost = False
        self._done = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="turn", daemon=True)

    def __enter__(self) -> "Turn":
        """Wait for the turn and take it."""
        told = False
        while not self._take():
            if not told:
                log.info("Another run publishes to %s: waiting for it.", self._uri)
                told = True
            self._check()
            self._done.wait(_LOOKS_EVERY)
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: "TracebackType | None"
    ) -> None:
        """Let the next one have it."""
        self._done.set()
        self._renewing.join()
        if not self.lost:
            s3_client().delete_object(**self._at)

    @property
    def lost(self) -> bool:
        """Whether another run took it over, which it does when this one was not heard of for long."""
        return self._lost

    def check(self) -> None:
        """Raise StorageError when another run took it over."""
        if self._lost:
            raise StorageError(
                f"Another run publishes to {self._uri}, since this one stood still for {_LAPSES_AFTER:.0f} seconds or "
                f"more: start it again."
            )

    def _take(self) -> bool:
        if self._put(IfNoneMatch="*"):
            return True
        there = self._look()
        if there is None or there.is_ours:
            return there is not None
        return there.silent > _LAPSES_AFTER and self._put(IfMatch=there.etag)

    def _look(self) -> "_There | None":
        """Who has the turn, None if nobody."""
        from botocore.exceptions import ClientError

        try:
            answer = s3_client().get_object(**self._at)
        except ClientError as error:
            if _code(error) in _GONE:
                return None
            raise
        there = _There(
            # Where its ETag is not known, the answer to the write was lost, and it was sent again.
            is_ours=answer["Body"].read() == self._body,
            etag=answer["ETag"],
            silent=(
                parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]) - answer["LastModified"]
            ).total_seconds(),
        )
        if there.is_ours:
            self._etag = there.etag
        return there

    def _put(self, **condition: Any) -> bool:
        """Write who has the turn, unless somebody else has it."""
        from botocore.exceptions import ClientError

        try:
            self._etag = s3_client().put_object(**self._at, Body=self._body, **condition)["ETag"]
        except ClientError as error:
            if _code(error) in _UNKNOWN and condition:
                return self._put()
            if _code(error) in _TAKEN | _GONE:
                return False
            raise
        return True

    def _renew(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        while not self._done.wait(_RENEWED_EVERY):
            try:
                if not self._put(IfMatch=self._etag):
                    there = self._look()
                    if there is None or not there.is_ours:
                        self._lost = True
                        return
            except (BotoCoreError, ClientError) as error:
                log.warning("It could not be said that this run publishes to %s: %s", self._uri, error)


@dataclass(frozen=True)
class _There:
    """Who has the turn: whether it is this run, and the seconds since it was last heard of."""

    is_ours: bool
    etag: str
    silent: float


def _code(error: "ClientError") -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
