"""Where a command's output goes besides the API's short form: S3 at the end, CloudWatch Logs while it runs.

Both go through the sandbox's own endpoint with the instance profile's credentials, as the agent's do.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from lightly_pipeline.sandbox.aws.commands import Command, Invocation

logger = logging.getLogger(__name__)

_STREAMS = ("stdout", "stderr")
# PutLogEvents takes a megabyte and 10,000 events at once; an event is at most 256 KB.
_BATCH_BYTES = 600_000
_BATCH_EVENTS = 10_000
_LINE_BYTES = 200_000


def upload(client: Callable[[str], Any], command: Command, invocation: Invocation, folder: Path) -> None:
    """Put what the command wrote into its bucket, in AWS's key layout; a stream without output makes no object.

    A failing upload does not change the command's status, as with AWS.
    """
    for stream in _STREAMS:
        path = folder / stream
        if not path.is_file() or path.stat().st_size == 0:
            continue
        parts = [command.prefix.strip("/"), command.command_id, invocation.instance_id]
        key = "/".join([part for part in parts if part] + ["awsrunShellScript", "0.awsrunShellScript", stream])
        try:
            client("s3").upload_file(str(path), command.bucket, key)
        except (Boto3Error, BotoCoreError, ClientError, OSError) as error:
            logger.warning("Output of command %s could not be put into S3: %s", command.command_id, error)
            continue
        url = f"https://s3.{command.region}.amazonaws.com/{command.bucket}/{key}"
        if stream == "stdout":
            invocation.stdout_url = url
        else:
            invocation.stderr_url = url


class LogTail:
    """Delivers the whole lines of a running command to CloudWatch Logs, a batch each interval."""

    def __init__(self, client: Callable[[str], Any], command: Command, instance_id: str, folder: Path) -> None:
        self._client = client
        self._command = command
        self._folder = folder
        self._names = {stream: f"{command.command_id}/{instance_id}/aws-runShellScript/{stream}" for stream in _STREAMS}
        self._offsets = dict.fromkeys(_STREAMS, 0)
        self._created: set[str] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, interval: float) -> None:
        """Deliver each `interval` seconds until `stop`."""
        self._thread = threading.Thread(target=self._follow, args=[interval], name="log tail", daemon=True)
        self._thread.start()

    def stop(self, *, deliver: bool) -> None:
        """The command has ended: with `deliver`, its last lines go out, also one without a newline."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if deliver:
            self._deliver(last=True)

    def _follow(self, interval: float) -> None:
        while not self._stop.wait(interval):
            self._deliver(last=False)

    def _deliver(self, *, last: bool) -> None:
        for stream in _STREAMS:
            try:
                while self._deliver_batch(stream, last=last):
                    pass
            except (BotoCoreError, ClientError) as error:
                logger.warning("Lines of command %s could not be logged: %s", self._command.command_id, error)

    def _deliver_batch(self, stream: str, *, last: bool) -> bool:
        """Send one batch of `stream`; whether there may be more."""
        with (self._folder / stream).open("rb") as file:
            file.seek(self._offsets[stream])
            data = file.read(_BATCH_BYTES)
        end = data.rfind(b"\n") + 1
        if end == 0 and (len(data) >= _LINE_BYTES or last):
            # A line longer than an event is delivered in pieces.
            end = min(len(data), _LINE_BYTES)
        if end == 0:
            return False
        lines = data[:end].split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        if len(lines) > _BATCH_EVENTS:
            lines = lines[:_BATCH_EVENTS]
            end = sum(len(line) + 1 for line in lines)
        now = round(time.time() * 1000)
        # CloudWatch refuses an empty message.
        events = [
            {"timestamp": now, "message": line[start : start + _LINE_BYTES].decode(errors="replace") or " "}
            for line in lines
            for start in range(0, max(len(line), 1), _LINE_BYTES)
        ]
        self._create(stream)
        self._client("logs").put_log_events(
            logGroupName=self._command.log_group, logStreamName=self._names[stream], logEvents=events
        )
        self._offsets[stream] += end
        return True

    def _create(self, stream: str) -> None:
        if stream in self._created:
            return
        logs = self._client("logs")
        for create, arguments in (
            (logs.create_log_group, {"logGroupName": self._command.log_group}),
            (
                logs.create_log_stream,
                {"logGroupName": self._command.log_group, "logStreamName": self._names[stream]},
            ),
        ):
            try:
                create(**arguments)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
                    raise
        self._created.add(stream)
