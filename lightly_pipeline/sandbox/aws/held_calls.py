"""Calls that a test stops on their way, so that whoever makes them stands at one exact point of its work."""

import threading


class HeldCall:
    """A call that is stopped on its way, at the service's door or, once carried out, with its answer."""

    def __init__(self, action: str, mentions: str, answer: bool) -> None:
        self._action, self._mentions = action, mentions
        self.answer = answer
        self.arrived = threading.Event()
        self._decided = threading.Event()
        self._dropped = False

    def wait(self, timeout: float) -> None:
        """Wait until a call has arrived; TimeoutError after so many seconds."""
        if not self.arrived.wait(timeout):
            raise TimeoutError(f"No call of {self._action} {self._mentions} has come within {timeout:.0f} s.")

    def let_go(self, *, drop: bool = False) -> None:
        """Let it pass, and those that follow; `drop` has it lost on its way instead, without an effect."""
        self._dropped = self._dropped or (drop and not self._decided.is_set())
        self._decided.set()

    def matches(self, operation: str, text: str) -> bool:
        """Whether this call is one to be held."""
        names = (operation, operation.partition(":")[2])
        return self._action in names and self._mentions in text and not self._decided.is_set()

    def passes(self) -> bool:
        """Called by the held call itself: waits for the decision; False if it is lost on its way."""
        self.arrived.set()
        self._decided.wait()
        return not self._dropped
