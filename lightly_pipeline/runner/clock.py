"""Waiting: a clock, a sleep, and how often to look while something takes its time.

Every wait of the runner goes through here, so that tests run it on a clock of their own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# While an instance starts: every second at first, rarer the longer it takes, so that 32 starting instances
# stay within EC2's 20 describe calls a second.
STARTING = ((15.0, 1.0), (120.0, 2.0), (float("inf"), 5.0))
# While a command runs: short commands are seen to end within a second. Long ones are looked at less often,
# and whoever hears of the end elsewhere wakes the wait.
RUNNING = ((60.0, 1.0), (float("inf"), 5.0))
# While all instances are busy.
QUEUED = ((30.0, 1.0), (300.0, 3.0), (float("inf"), 5.0))

_OVERSLEPT = 5.0


@dataclass(frozen=True)
class Clock:
    """Monotonic seconds and a sleep; `sleep` may return early when something of interest happened."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep


@dataclass(frozen=True)
class Tick:
    """One look at a thing that is being waited for: seconds since the wait began."""

    elapsed: float


def ticks(clock: Clock, pace: Sequence[tuple[float, float]], deadline: float) -> Iterator[Tick]:
    """Yield at once, then again after each pause of `pace`, and a last time when `deadline` seconds have passed.

    `pace` is (until elapsed seconds, pause seconds) pairs. Pauses vary by a tenth, so that jobs that began
    together do not ask AWS in step.
    """
    begun = clock.monotonic()
    while True:
        elapsed = clock.monotonic() - begun
        yield Tick(elapsed)
        if elapsed >= deadline:
            return
        pause = next(seconds for until, seconds in pace if elapsed < until)
        pause = max(0.0, min(pause * random.uniform(0.95, 1.05), deadline - elapsed))  # noqa: S311
        before = clock.monotonic()
        clock.sleep(pause)
        begun += max(0.0, clock.monotonic() - before - pause - _OVERSLEPT)
