"""The power states of an EC2 instance, which change by themselves as time passes.

State is worked out when somebody looks, never by a timer: an instance that was told to start is `pending` until its
delay has passed and `running` afterwards.
"""

import math
from collections.abc import Callable

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
_AFTERWARDS = {"pending": "running", "stopping": "stopped", "shutting-down": "terminated"}


class Power:
    """One instance's power state. Not locked: its machine holds the lock."""

    def __init__(self, clock: Callable[[], float], state: str = "stopped") -> None:
        self._clock = clock
        self._state = state
        self._since = clock()
        self._until = math.inf

    @property
    def state(self) -> str:
        """pending, running, stopping, stopped, shutting-down or terminated, as of now."""
        if self._clock() >= self._until:
            self._state, self._since, self._until = _AFTERWARDS[self._state], self._until, math.inf
        return self._state

    @property
    def since(self) -> float:
        """The clock's time at which the present state began."""
        _ = self.state
        return self._since

    @property
    def settles_at(self) -> float:
        """The clock's time at which the present state ends by itself; infinity when it does not."""
        _ = self.state
        return self._until

    def begin(self, state: str, seconds: float) -> None:
        """Enter a passing state (pending, stopping, shutting-down) that ends after `seconds`, maybe infinity."""
        self._state, self._since = state, self._clock()
        self._until = self._since + seconds
