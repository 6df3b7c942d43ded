"""What a caller gives to `InstanceRunner.run` and gets of it: a job, a watcher of its course, how it ended."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from lightly_pipeline.runner.command import Sent, Stream
from lightly_pipeline.runner.instance import Seen


@dataclass(frozen=True)
class Job:
    """A program to run once, on whichever instance.

    `holder` names it in lease records, commands and S3 (`.lightly/runs/<holder>/`): `<run>/<step>/<retry>`.
    `adopt` are the holders of dead runs of the same work, `instance_hint` the instance on which one of these,
    or this one before a crash, was last seen: what still runs of them is followed instead of being started
    again. The job must be one that may run twice: it is sent again when its instance is lost under it.
    """

    holder: str
    argv: Sequence[str]
    timeout: int
    environment: Mapping[str, str] = field(default_factory=dict)
    adopt: Sequence[str] = ()
    instance_hint: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One command for a job: its number, where its files go in S3, and whether it was found already running."""

    number: int
    prefix: str
    attached: bool


class Watcher:
    """What a caller of `InstanceRunner.run` may want to know or add while it runs; does nothing by itself.

    `woken` ends the runner's current pause early when it is set.
    """

    def __init__(self) -> None:
        self.woken = threading.Event()

    def said(self, sentence: str) -> None:
        """Something that a person who waits wants to read."""

    def chosen(self, instance_id: str) -> None:
        """This instance is leased and ready; called before anything is sent to it."""

    def attempt(self, attempt: Attempt) -> AbstractContextManager[Mapping[str, str]]:
        """Surround one command; what it yields is added to the command's environment. Left after the release."""
        return nullcontext({})

    def sent(self, sent: Sent) -> None:
        """The command is on its way; called before the wait for its end."""

    def tick(self, sent: Sent) -> None:
        """Called at every look at the running command."""

    def linger(self) -> float:
        """Seconds for which the instance should stay for a next job, beyond the runner's own setting."""
        return 0.0

    def output(self, stream: Stream, text: Iterable[str]) -> None:
        """The complete output of the command, in pieces, once it has ended."""


@dataclass(frozen=True)
class Finished:
    """A job that ended well. Seconds are measured here, except `billed_seconds`, which is this job's share."""

    instance: Seen
    command_id: str
    attempts: int
    attached: bool
    starts: int
    command_seconds: float
    seconds_to_send: float
    seconds_to_stop: float | None
    billed_seconds: float
    cost: float | None
    others: tuple[str, ...]
