"""One interrupt ends the work, and no second one can end the clean-up.

Ctrl-C on a terminal reaches a Dagster step twice within some 12 ms: once because the step is in the
terminal's process group, once because the executor forwards it. The second is raised inside the `finally:`
that the first one started, and leaves an instance running. A gate is opened around the whole work instead of
around the clean-up, so that there is no instant between the two at which a signal could slip in.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Interrupts that follow one another this fast, in seconds, are echoes of one press of the keys, or an impatient finger.
_ECHO = 5.0


class InterruptGate:
    """Lets one interrupt through to the handler that was there before, and holds the others back.

    As a context manager it replaces the handlers of SIGINT and SIGTERM; off the main thread, where Python
    delivers no signals, it does nothing. After the first interrupt was raised, later ones are dropped until
    `reopen()`. Inside `shield()` even the first one waits, and is delivered when the shield ends.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._shields = 0
        self._raised = False
        self._held: int | None = None
        self._reopened = False
        self._last = -math.inf

    def __enter__(self) -> InterruptGate:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.getsignal(number)
            for number in _SIGNALS:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self._held is not None and not self._raised:
            self._deliver(self._held, None)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """No interrupt is raised inside; one that arrives is raised at the end, unless one was raised before."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
            if self._shields == 0 and self._held is not None and not self._raised:
                self._deliver(self._held, None)

    def reopen(self) -> None:
        """Let an interrupt through again: what follows may be abandoned by whoever insists.

        But not by an echo of the interrupt that was raised: Dagster's executor forwards its own some time later.
        """
        self._raised = False
        self._held = None
        self._reopened = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        echo, self._last = self._reopened and now - self._last < _ECHO, now
        if self._shields or self._raised:
            self._held = number
        elif echo:
            return
        else:
            self._deliver(number, frame)

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        self._raised, self._held = True, None
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        elif previous == signal.SIG_IGN:
            self._raised = False
        else:
            # The default of both signals is to end the process at once, which would skip the clean-up.
            raise SystemExit(128 + number)
