"""The output of a running command, live from CloudWatch Logs, where commands are configured to write there.

SSM's agent pushes whole lines every second. What arrives late or not at all is made good by the complete
output that SSM puts into S3 at the end (`command.py`): the follower says how many lines it has passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from lightly_pipeline.runner.aws import code_of, is_passing, said_plainly
from lightly_pipeline.runner.command import Sent, Stream

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient


class LiveOutput:
    """Passes the lines of one command on to `write(stream, line)` as they come."""

    def __init__(
        self,
        client: CloudWatchLogsClient,
        group: str,
        sent: Sent,
        write: Callable[[Stream, str], object],
        *,
        monotonic: Callable[[], float],
        interval: float = 2.0,
    ) -> None:
        self._client = client
        self._group = group
        self._sent = sent
        self._write = write
        self._monotonic = monotonic
        self._interval = interval
        self._looked = 0.0
        self._tokens: dict[Stream, str] = {}
        self._lines: dict[Stream, int] = {"stdout": 0, "stderr": 0}

    def look(self) -> None:
        """Pass on what is new, at most every `interval` seconds.

        Throttling and absence are for the next look.
        """
        now = self._monotonic()
        if now - self._looked < self._interval:
            return
        self._looked = now
        streams: tuple[Stream, Stream] = ("stdout", "stderr")
        for stream in streams:
            with said_plainly(f"read the log group {self._group}"):
                try:
                    self._read(stream)
                except (ClientError, BotoCoreError) as error:
                    if code_of(error) != "ResourceNotFoundException" and not is_passing(error):
                        raise

    def rest(self, stream: Stream, text: Iterable[str]) -> Iterator[str]:
        """The complete output without the lines that were passed on already."""
        skip = self._lines[stream]
        for chunk in text:
            while skip and chunk:
                _, newline, chunk = chunk.partition("\n")
                skip -= 1 if newline else 0
            if chunk:
                yield chunk

    def _read(self, stream: Stream) -> None:
        name = f"{self._sent.id}/{self._sent.instance_id}/aws-runShellScript/{stream}"
        while True:
            token = self._tokens.get(stream)
            more = {"nextToken": token} if token else {}
            answer = self._client.get_log_events(
                logGroupName=self._group,
                logStreamName=name,
                startFromHead=True,
                **more,  # type: ignore[arg-type]
            )
            for event in answer["events"]:
                for line in event.get("message", "").splitlines():
                    self._write(stream, line)
                    self._lines[stream] += 1
            self._tokens[stream] = answer["nextForwardToken"]
            if not answer["events"] or answer["nextForwardToken"] == token:
                return
