"""How a run tells what it is doing: a bar on a terminal, lines in a log, messages to Dagster.

Steps know one small interface; who listens is decided by the command. It is also where a run learns that it shall
end: every report of progress is a point at which it can.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from lightly_pipeline.worker.errors import Interrupted

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Somebody who is told how far a run is."""

    def begin(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins."""

    def advance(self, done: int, total: int | None, seconds: float) -> None:
        """So much of the stage is done after so many seconds; called often, from one thread at a time."""

    def end(self, done: int, seconds: float) -> None:
        """The stage has ended."""


class Progress:
    """What the steps report to; safe to use from several threads."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners
        self._lock = threading.Lock()
        self._interrupted_by: int | None = None
        self.seconds: dict[str, float] = {}

    def interrupt(self, signal_number: int) -> None:
        """Let the run end at its next report; called from a signal handler or another thread."""
        self._interrupted_by = signal_number

    def interrupted(self) -> bool:
        """Whether the run was asked to end."""
        return self._interrupted_by is not None

    def check(self) -> None:
        """Raise Interrupted when the run was asked to end."""
        if self._interrupted_by is not None:
            raise Interrupted(self._interrupted_by)

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "frames") -> Iterator["Stage"]:
        """A part of the run, of which `total` units are to be done, if that is known."""
        self.check()
        stage = Stage(self, total)
        for listener in self._listeners:
            listener.begin(name, total, unit)
        try:
            yield stage
        finally:
            took = time.monotonic() - stage.began
            self.seconds[name] = round(self.seconds.get(name, 0.0) + took, 3)
            for listener in self._listeners:
                listener.end(stage.done, took)

    def _report(self, stage: "Stage", more: int) -> None:
        self.check()
        with self._lock:
            stage.done += more
            for listener in self._listeners:
                listener.advance(stage.done, stage.total, time.monotonic() - stage.began)


class Stage:
    """One part of a run, under way."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress = progress
        self.total = total
        self.done = 0
        self.began = time.monotonic()

    def advance(self, more: int = 1) -> None:
        """So many more are done; raises Interrupted when the run was asked to end."""
        self._progress._report(self, more)

    def at(self, done: int, total: int) -> None:
        """So many of so many are done."""
        self.total = total
        self.advance(done - self.done)


class Bar:
    """A bar with speed and time left, for a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def begin(self, stage: str, total: int | None, unit: str) -> None:
        """Start a bar for the stage."""
        from tqdm import tqdm

        self._bar = tqdm(
            desc=f"{stage:<9}", total=total, unit=f" {unit}", leave=False, mininterval=0.2, dynamic_ncols=True
        )

    def advance(self, done: int, total: int | None, seconds: float) -> None:
        """Move the bar."""
        del seconds
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def end(self, done: int, seconds: float) -> None:
        """Remove the bar: what it came to is in the log line that follows."""
        del done, seconds
        self._bar.close()


class Lines:
    """A line every few seconds, for a log."""

    def __init__(self, write: Callable[[str], None] = log.info, every: float = 10.0) -> None:
        self._write, self._every = write, every
        self._name, self._unit, self._last = "", "", 0.0

    def begin(self, stage: str, total: int | None, unit: str) -> None:
        """Remember the stage."""
        del total
        self._name, self._unit, self._last = stage, unit, time.monotonic()

    def advance(self, done: int, total: int | None, seconds: float) -> None:
        """Write a line when it is time."""
        now = time.monotonic()
        if now - self._last < self._every or not done:
            return
        self._last = now
        speed = done / max(seconds, 1e-9)
        left = f", {max(0.0, total - done) / speed:,.0f} s left" if total and total > done else ""
        of = f" of {total:,}" if total else ""
        self._write(f"{self._name}: {done:,}{of} {self._unit}, {speed:,.0f} {self._unit}/s{left}")

    def end(self, done: int, seconds: float) -> None:
        """Nothing: the steps log their own results."""


def on_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stderr.isatty()
