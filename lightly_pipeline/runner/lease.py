"""Lease records in S3: read, change, write back by compare-and-swap.

One object per instance, `.lightly/instances/<instance-id>.json`, and one way to change it: a PUT that S3
accepts only if the object is still the one that was read (`If-Match`), or still absent (`If-None-Match: *`).
S3 is strongly consistent, so no two holders can both believe that they are the last.

All times in a record are by S3's own clock, as it stands in the `Date` header of every answer, carried on by
the local monotonic clock: hosts whose clocks disagree, or jump, read the same expiry at the same moment.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from lightly_pipeline.runner.aws import code_of, is_passing, said_plainly
from lightly_pipeline.runner.errors import LeaseConflict, PermanentError
from lightly_pipeline.runner.record import Record, UnreadableRecord

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

_CONFLICTS = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_ABSENT = frozenset({"NoSuchKey", "404"})
_WRITER = "writer"


class ServerClock:
    """S3's time of day, in seconds since 1970, known to about 0.1 s after some answers.

    Each answer says that at some moment between sending and receiving S3's clock stood within one second; the
    intersection of what the answers say narrows that down. Without any answer it is the local time of day.
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, fallback: Callable[[], float] = time.time
    ) -> None:
        self._monotonic = monotonic
        self._fallback = fallback
        self._low: float | None = None
        self._high = 0.0

    def now(self) -> float:
        """S3's time of day."""
        if self._low is None:
            return self._fallback()
        return self._monotonic() + (self._low + self._high) / 2

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps; only differences mean anything."""
        return self._monotonic()

    def learn(self, sent: float, received: float, headers: Mapping[str, str]) -> None:
        """Take in the Date header of an answer to a request of this interval of monotonic time."""
        try:
            date = parsedate_to_datetime(headers["date"]).timestamp()
        except (KeyError, TypeError, ValueError):
            return
        low, high = date - received, date + 1.0 - sent
        if self._low is not None and low <= self._high and high >= self._low:
            low, high = max(low, self._low), min(high, self._high)
        self._low, self._high = low, high


class LeaseStore:
    """The lease records of a bucket. Thread-safe as boto3 clients are.

    Keeps nothing between two calls but the clock.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        *,
        brisk: S3Client | None = None,
        prefix: str = ".lightly/instances/",
        clock: ServerClock | None = None,
        sleep: Callable[[float], object] = time.sleep,
        attempts: int = 60,
    ) -> None:
        self._client = client
        # For the release of an instance, which must not hang in a retry.
        self.brisk = brisk or client
        self.bucket = bucket
        self.prefix = prefix
        self.clock = clock or ServerClock()
        self._sleep = sleep
        self._attempts = attempts

    def key(self, instance_id: str) -> str:
        """Where the record of an instance is."""
        return f"{self.prefix}{instance_id}.json"

    def read(self, instance_id: str) -> Record:
        """The record as it is now; an empty one where there is none yet."""
        return self._get(self._client, instance_id)[0]

    def update(
        self,
        instance_id: str,
        change: Callable[[Record, float], tuple[Record, T]],
        *,
        client: S3Client | None = None,
    ) -> T:
        """Replace the record by what `change(record, now)` makes of it, and return what it says besides.

        `change` must have no effect of its own: it runs again whenever another writer was faster.
        LeaseConflict after `attempts` such losses.
        """
        client = client or self._client
        for attempt in range(self._attempts):
            record, etag, _ = self._get(client, instance_id)
            new, answer = change(record, self.clock.now())
            if new == record:
                return answer
            token = uuid.uuid4().hex
            if self._put(client, instance_id, new, etag, token):
                return answer
            # An earlier try of the same PUT may have arrived although its answer was lost: then the record is
            # ours.
            if self._get(client, instance_id)[2] == token:
                return answer
            self._sleep(random.uniform(0.005, 0.02 * min(attempt + 1, 10)))  # noqa: S311
        raise LeaseConflict(
            f"The lease record s3://{self.bucket}/{self.key(instance_id)} changed {self._attempts} times while it "
            f"was being written: too many jobs contend for {instance_id}. Add instances to the pool."
        )

    def _get(self, client: S3Client, instance_id: str) -> tuple[Record, str | None, str | None]:
        key = self.key(instance_id)
        sent = self.clock.monotonic()
        with said_plainly(f"read the lease record s3://{self.bucket}/{key}", let=_ABSENT):
            try:
                response = client.get_object(Bucket=self.bucket, Key=key)
                text = response["Body"].read()
            except ClientError as error:
                if code_of(error) not in _ABSENT:
                    raise
                self._learn(sent, error.response)
                return Record(), None, None
        self._learn(sent, response)
        try:
            record = Record.from_json(text)
        except UnreadableRecord as error:
            raise PermanentError(
                f"The lease record s3://{self.bucket}/{key} cannot be read: {error}. Delete it if no job runs on "
                f"{instance_id}."
            ) from error
        return record, response["ETag"], response.get("Metadata", {}).get(_WRITER)

    def _put(self, client: S3Client, instance_id: str, record: Record, etag: str | None, token: str) -> bool:
        key = self.key(instance_id)
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        sent = self.clock.monotonic()
        with said_plainly(f"write the lease record s3://{self.bucket}/{key}"):
            try:
                response = client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=record.to_json().encode(),
                    ContentType="application/json",
                    Metadata={_WRITER: token},
                    **condition,
                )
            except (ClientError, BotoCoreError) as error:
                # Lost to another writer, or nobody knows whether it arrived: the caller reads again and sees.
                if code_of(error) in _CONFLICTS | _ABSENT or is_passing(error):
                    return False
                raise
        self._learn(sent, response)
        return True

    def _learn(self, sent: float, response: Mapping[str, Any]) -> None:
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self.clock.learn(sent, self.clock.monotonic(), headers)
