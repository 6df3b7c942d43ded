"""What a command hears and says through Dagster Pipes: its context and its messages, both in S3."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from dagster._core.pipes.context import PipesMessageHandler
from dagster_pipes import PIPES_PROTOCOL_VERSION_FIELD, PipesContextData, PipesParams

from lightly_pipeline.runner.aws import code_of, is_passing, said_plainly

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class PipesS3RunContextInjector(dg.PipesContextInjector):
    """Puts the context of one command into S3, where the command may read it: SSM bounds the length of a command."""

    def __init__(self, client: S3Client, bucket: str, key: str) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key

    @contextmanager
    def inject_context(self, context: PipesContextData) -> Iterator[PipesParams]:
        """Write the context; it stays beside the messages of the command. Raises the runner's errors."""
        with said_plainly(f"write the command's context to s3://{self._bucket}/{self._key}"):
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._key,
                Body=json.dumps(context).encode(),
                ContentType="application/json",
            )
        yield {"bucket": self._bucket, "key": self._key}

    def no_messages_debug_text(self) -> str:
        """What Dagster logs when nothing came."""
        return f"The command's context is in s3://{self._bucket}/{self._key}: it must read it by PipesS3ContextLoader."


class PipesS3RunReader(dg.PipesMessageReader):
    """Reads the messages of one command from one S3 prefix, once a second, until the command has ended.

    Made for one run of one command: dagster-aws's reader keeps a counter, and loses every message when it is
    used twice. S3 is consistent, so once the command has ended all of its messages are there, and reading
    ends at the first that is missing, without waiting.
    """

    # One command writes here, and Dagster warns of its own preview property otherwise.
    expected_writer_count = 1

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        prefix: str,
        *,
        on_message: Any = None,
        interval: float = 1.0,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix.rstrip("/")
        self._on_message = on_message
        self._interval = interval
        self._next = 1
        self.refused: str | None = None

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        """Read in a thread while the block runs, and to the end when it is left."""
        ended = Event()
        thread = Thread(target=self._read, args=(handler, ended), name="pipes-messages", daemon=True)
        thread.start()
        try:
            yield {"bucket": self._bucket, "key_prefix": self._prefix}
        finally:
            ended.set()
            thread.join(timeout=60)

    def no_messages_debug_text(self) -> str:
        """What Dagster logs when nothing came."""
        return (
            f"Looked for messages in s3://{self._bucket}/{self._prefix}/. The command must open Dagster Pipes with "
            f"PipesS3MessageWriter, and its instance must be allowed to write there."
        )

    def _read(self, handler: PipesMessageHandler, ended: Event) -> None:
        try:
            failures = 0
            while True:
                last = ended.is_set()
                try:
                    self._drain(handler)
                    failures = 0
                    if last:
                        return
                except (ClientError, BotoCoreError) as error:
                    failures += 1
                    if not is_passing(error) or (last and failures >= 10):
                        raise
                if last:
                    # Nothing to wake from any more: a pause before S3 is asked again.
                    time.sleep(self._interval)
                else:
                    ended.wait(self._interval)
        except Exception:
            handler.report_pipes_framework_exception(type(self).__name__, sys.exc_info())  # type: ignore[arg-type]

    def _drain(self, handler: PipesMessageHandler) -> None:
        while (chunk := self._chunk()) is not None:
            self._next += 1
            for line in chunk.splitlines():
                self._handle(handler, line)

    def _chunk(self) -> str | None:
        key = f"{self._prefix}/{self._next}.json"
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except (ClientError, BotoCoreError) as error:
            if code_of(error) in {"AccessDenied", "403"}:
                # Without s3:ListBucket S3 says "denied" of objects that are not there, too.
                self.refused = (
                    f"Not allowed to read s3://{self._bucket}/{key}: the worker's messages need "
                    f"s3:GetObject on the bucket's .lightly/ and s3:ListBucket on the bucket."
                )
                return None
            if code_of(error) in {"NoSuchKey", "404"}:
                return None
            raise
        return str(body.decode("utf-8", "replace"))

    def _handle(self, handler: PipesMessageHandler, line: str) -> None:
        try:
            message = json.loads(line)
        except json.JSONDecodeError:
            return
        if not isinstance(message, dict) or PIPES_PROTOCOL_VERSION_FIELD not in message:
            return
        if self._on_message is None or not self._on_message(message):
            handler.handle_message(message)  # type: ignore[arg-type]
