"""Waiting: a clock, a sleep, and how often to look while something takes its time.

Every wait of the runner goes through here, so that tests run it on a clock of their own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# While an instance starts: every second at first, rarer the longer it takes.
STARTING = ((15.0, 1.0), (120.0, 2.0), (float("inf"), 5.0))
# While a command runs: short commands are seen to end within a second. Long ones are looked at less often,
# and whoever hears of the end elsewhere wakes the wait.
RUNNING = ((60.0, 1.0), (float("inf"), 5.0))
# After that: the worker has said its last word, and SSM will know of it in some seconds.
ENDING = ((15.0, 1.0), (float("inf"), 5.0))
# EC2 refills its bucket for each describe action with 20 calls a second (and lets 100 through at once); SSM's limits
# are not published. However many jobs a pool may have, all together keep to this for each action.
CALLS_A_SECOND = 12.0
# While all instances are busy.
QUEUED = ((30.0, 1.0), (300.0, 3.0), (float("inf"), 5.0))

_OVERSLEPT = 5.0


@dataclass(frozen=True)
class Clock:
    """Monotonic seconds and a sleep; `sleep` may return early, and True, when something of interest happened."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep


@dataclass(frozen=True)
class Tick:
    """One look at a thing that is being waited for: seconds since the wait began."""

    elapsed: float


def ticks(
    clock: Clock,
    pace: Sequence[tuple[float, float]],
    deadline: float,
    *,
    least: float = 0.0,
    woken: Sequence[tuple[float, float]] = (),
) -> Iterator[Tick]:
    """Yield at once, then again after each pause of `pace`, and a last time when `deadline` seconds have passed.

    `pace` is (until elapsed seconds, pause seconds) pairs; no pause is shorter than `least`. Once the sleep has
    returned True the pace is `woken`, from its beginning. Pauses vary by a tenth, so that jobs that began together
    do not ask AWS in step.
    """
    begun = paced_from = clock.monotonic()
    while True:
        now = clock.monotonic()
        yield Tick(now - begun)
        if now - begun >= deadline:
            return
        pause = max(least, next(seconds for until, seconds in pace if now - paced_from < until))
        pause = max(0.0, min(pause * random.uniform(0.9, 1.1), deadline - (now - begun)))  # noqa: S311
        before = clock.monotonic()
        if clock.sleep(pause) is True and woken:
            pace, paced_from, least = woken, clock.monotonic(), 0.0
        overslept = max(0.0, clock.monotonic() - before - pause - _OVERSLEPT)
        begun, paced_from = begun + overslept, paced_from + overslept
