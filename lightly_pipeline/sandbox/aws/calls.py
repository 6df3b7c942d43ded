"""What was called: each AWS call as `service:Operation`, with whose credentials, and how it was answered.

The recent ones in order, and all of them as counts: from these a test compares what the pipeline really calls with what
its IAM policies allow.
"""

import json
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

_KEPT = 20_000


@dataclass(frozen=True)
class Call:
    """One call. `resource` is the bucket and key of an S3 call, else empty."""

    time: float
    caller: str
    operation: str
    resource: str
    status: int


class CallLog:
    """The calls of one sandbox, bounded; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[Call] = deque(maxlen=_KEPT)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._under_way: Counter[str] = Counter()

    def record(self, caller: str, operation: str, resource: str, status: int) -> None:
        """Note one call that has been answered."""
        with self._lock:
            self._recent.append(Call(time.time(), caller, operation, resource, status))
            self._counts[caller, operation] += 1

    @contextmanager
    def under_way_now(self, operation: str) -> Iterator[None]:
        """A call of `operation` is under way for as long as the block."""
        with self._lock:
            self._under_way[operation] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[operation] -= 1

    def under_way(self) -> dict[str, int]:
        """How many calls of which operation have begun and are not answered: where a client is just now."""
        with self._lock:
            return {operation: count for operation, count in self._under_way.items() if count}

    def recent(self) -> list[Call]:
        """The last calls, oldest first."""
        with self._lock:
            return list(self._recent)

    def counts(self, caller: str | None = None) -> dict[str, int]:
        """How often each operation was called, by everybody or by `caller` ("user" or "instance")."""
        totals: Counter[str] = Counter()
        with self._lock:
            for (who, operation), count in self._counts.items():
                if caller in (None, who):
                    totals[operation] += count
        return dict(totals)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._recent.clear()
            self._counts.clear()

    def as_json(self) -> dict[str, Any]:
        """Counts by caller and the recent calls, for the control endpoint."""
        return {
            "counts": {caller: self.counts(caller) for caller in ("user", "instance")},
            "under_way": self.under_way(),
            "recent": [asdict(call) for call in self.recent()],
        }


def calls_of(endpoint_url: str) -> dict[str, Any]:
    """The calls of a sandbox in another process: counts, under_way and recent, as `CallLog` has them."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{endpoint_url.rstrip('/')}/_sandbox/calls", timeout=30) as answer:
        return cast("dict[str, Any]", json.load(answer))
