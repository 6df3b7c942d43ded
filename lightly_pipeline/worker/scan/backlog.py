"""What waits to be decoded: in its order while more comes, and at the end so that all threads end together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from lightly_pipeline.worker.scan.packets import Stopped

#: How many may wait, and how many bytes of packets they may have, unless it is a single one. No more may be
#: overtaken by another than `keep` lets a chunk depend on.
_MOST, _MOST_BYTES = 8, 12 << 20
#: CPU seconds of a decoder with several threads, of one with a single thread.
_TOGETHER = 1.4

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Waiting(Generic[Item]):
    item: Item
    octets: int
    work: float
    at_once: bool


class Backlog(Generic[Item]):
    """Between the thread that reads packets and those that decode them.

    One that is taken while others decode what came before may end long after them, with all cores but one idle. So
    when nothing more comes the longest go first. One that is longer than all others together would take the threads
    to finish goes last, for all of them to decode.
    """

    def __init__(self, threads: int, stop: threading.Event) -> None:
        self._threads, self._stop = threads, stop
        self._changed = threading.Condition()
        self._waiting: list[_Waiting[Item]] = []
        self._closed = False
        #: The work that other threads are at.
        self._taken: deque[float] = deque(maxlen=threads - 1)

    def put(self, item: Item, octets: int = 0, work: float = 1.0, *, at_once: bool = False) -> None:
        """Add one when there is room. Raises Stopped.

        octets: what it holds in memory. work: how long it takes, in any unit. at_once: whether it is not complete yet
        and has to be taken for more to come.
        """
        with self._changed:
            self._wait_until(lambda: self._has_room(octets))
            self._waiting.append(_Waiting(item, octets, work, at_once))
            self._changed.notify_all()

    def close(self) -> None:
        """Say that nothing more comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> tuple[Item, int | None] | None:
        """The next one, None when there is none any more, and how many were left with it if no more come.

        The newest waits until it is known whether it is the last. Raises Stopped.
        """
        with self._changed:
            self._wait_until(self._may_take)
            if not self._waiting:
                return None
            left = len(self._waiting) if self._closed else None
            taken = self._waiting.pop(0 if left is None else self._best())
            self._taken.append(taken.work)
            self._changed.notify_all()
            return taken.item, left

    def _best(self) -> int:
        """Which of all that are left comes first."""
        works = [one.work for one in self._waiting]
        longest = works.index(max(works))
        # Of what others are at, half is left on average.
        left = sum(works) + sum(self._taken) / 2
        if len(works) > 1 and works[longest] * self._threads > _TOGETHER * left:
            return 1 if longest == 0 else 0
        return longest

    def _has_room(self, octets: int) -> bool:
        held = sum(one.octets for one in self._waiting)
        return not self._waiting or (len(self._waiting) < _MOST and held + octets <= _MOST_BYTES)

    def _may_take(self) -> bool:
        return self._closed or len(self._waiting) > 1 or any(one.at_once for one in self._waiting)

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        while not self._stop.is_set():
            if ready():
                return
            self._changed.wait(0.1)
        raise Stopped
