"""Which write requests to S3 are under way, so that what they have not finished is not saved yet."""

import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Writes:
    """Numbers write requests in the order in which they begin; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._next = 0
        self._running: set[int] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A request is under way for as long as the block."""
        with self._lock:
            number = next(self._numbers)
            self._next = number + 1
            self._running.add(number)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(number)

    @property
    def next_number(self) -> int:
        """The number that the next request will get."""
        with self._lock:
            return self._next

    @property
    def oldest_running(self) -> float:
        """The number of the oldest request under way; infinity when there is none."""
        with self._lock:
            return min(self._running, default=math.inf)
