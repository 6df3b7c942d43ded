"""Faults on demand: what a test can make the stand-in's API and file host do wrong, and how often."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Where = Literal["api", "files"]


@dataclass(frozen=True)
class Fault:
    """One way of answering wrongly; several of its parts may be combined.

    status, headers, body: this answer in place of the real one (a redirect, a 429 with Retry-After, an HTML
    page, half a JSON document). drop: close the connection without an answer. The rest is for files:
    break_off_after so many bytes of the body; announce a Content-Length that is wrong by add_length, or
    none at all (no_length); send so many bytes_per_second; pretend that ranges are unknown (no_range); name
    another etag; gzip the body.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    drop: bool = False
    break_off_after: int | None = None
    add_length: int = 0
    no_length: bool = False
    bytes_per_second: int | None = None
    no_range: bool = False
    etag: str | None = None
    gzip: bool = False


class Faults:
    """The faults that lie ahead: each request takes the first; there are none when all are used up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[Where, list[Fault]] = {"api": [], "files": []}

    def add(self, where: Where, fault: Fault, times: int = 1) -> None:
        """The next `times` requests to the API or to the file host meet this fault."""
        with self._lock:
            self._queues[where].extend([fault] * times)

    def clear(self) -> None:
        """From now on all goes well."""
        with self._lock:
            for queue in self._queues.values():
                queue.clear()

    def take(self, where: Where) -> Fault:
        """The fault of the request at hand; one without any parts if none lies ahead."""
        with self._lock:
            queue = self._queues[where]
            return queue.pop(0) if queue else Fault()
