"""Faults that a test asks for: answers with AWS's errors, and instances that misbehave.

`Faults` works in the sandbox's own process; `RemoteFaults` has the same methods and reaches a sandbox in another
process through its control endpoint.
"""

import json
import threading
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightly_pipeline.sandbox.aws.held_calls import HeldCall

_STATUS = {
    "AccessDenied": 403,
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "InternalServerError": 500,
    "InternalFailure": 500,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "PreconditionFailed": 412,
    "ConditionalRequestConflict": 409,
    "RequestLimitExceeded": 503,
    "RequestTimeout": 400,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
    "UnauthorizedOperation": 403,
    "Unavailable": 503,
}
_MESSAGES = {
    "InsufficientInstanceCapacity": "We currently do not have sufficient capacity in the Availability Zone you "
    "requested. Our system will be working on provisioning additional capacity.",
    "RequestLimitExceeded": "Request limit exceeded.",
    "SlowDown": "Please reduce your request rate.",
    "ThrottlingException": "Rate exceeded",
    "UnauthorizedOperation": "You are not authorized to perform this operation. Encoded authorization failure message: "
    "c2FuZGJveA",
    "VcpuLimitExceeded": "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the "
    "instance bucket that the specified instance type belongs to.",
}
_SWITCHES = ("agent_remembered", "agent_silent", "boot", "stop", "lose_commands", "stop_under_command")


@dataclass
class Answer:
    """An error with which a call is to be answered instead of being carried out (or, `lost`, after it was)."""

    code: str
    message: str
    status: int
    lost: bool = False


@dataclass
class _Injection:
    """What is to become of some calls of `action`: an error as the answer, or a wait of `seconds`."""

    action: str
    times: int | None
    after: int
    mentions: str
    answer: Answer | None = None
    seconds: float = 0.0


class FaultOrders(ABC):
    """The faults one can ask for. Everything stays until it has been used up or `clear` is called."""

    @abstractmethod
    def _order(self, order: str, **arguments: Any) -> Any:
        """Carry out an order here, or send it to where it is carried out."""

    def inject(
        self,
        action: str,
        code: str,
        *,
        times: int | None = 1,
        after: int = 0,
        message: str | None = None,
        status: int | None = None,
        mentions: str = "",
    ) -> None:
        """Answer the next `times` calls of `action` with AWS's error `code`, the first `after` of them excepted.

        `action` is an operation as boto3's client names it in AWS's spelling, "StartInstances" or
        "ec2:StartInstances"; `times=None` means until cleared. `status` is the HTTP status (AWS's own by default:
        botocore retries some errors by it). Only calls that mention `mentions` are meant: an instance id, or the
        beginning or any part of `bucket/key`. Note that botocore's own retries count as calls.
        """
        self._order(
            "inject",
            action=action,
            code=code,
            times=times,
            after=after,
            message=message,
            status=status,
            mentions=mentions,
        )

    def delay(self, action: str, seconds: float, *, times: int | None = 1, after: int = 0, mentions: str = "") -> None:
        """Let the next calls of `action` wait for `seconds` before they are carried out: time to kill who calls."""
        self._order("delay", action=action, seconds=seconds, times=times, after=after, mentions=mentions)

    def lose_answer(self, action: str, *, times: int | None = 1, after: int = 0, mentions: str = "") -> None:
        """Carry `action` out and answer with InternalError (HTTP 500), as when a connection breaks at the end."""
        self._order("lose_answer", action=action, times=times, after=after, mentions=mentions)

    def lose_commands(self, times: int = 1) -> None:
        """The next `times` commands are accepted and never delivered: Pending until DeliveryTimedOut."""
        self._order("switch", name="lose_commands", value=times, instance_id=None)

    def silence_agent(self, instance_id: str | None = None) -> None:
        """The agent of the instance (or of all) neither takes commands nor reports nor pings until cleared.

        What runs goes on running. An agent that is silenced before it came online does not come online.
        """
        self._order("switch", name="agent_silent", value=True, instance_id=instance_id)

    def remember_agent(self) -> None:
        """An instance that boots shows as Online with the last ping of before, as AWS may do; commands are taken then.

        They stay Pending until the agent of this boot is there.
        """
        self._order("switch", name="agent_remembered", value=True, instance_id=None)

    def delay_boot(self, seconds: float) -> None:
        """Instances started from now on stay pending for so much longer."""
        self._order("switch", name="boot", value=seconds, instance_id=None)

    def delay_stop(self, seconds: float | None = None) -> None:
        """Instances stopped from now on stay stopping for so much longer; None: until StopInstances with Force."""
        self._order("switch", name="stop", value=seconds, instance_id=None)

    def stop_under_command(self, after_seconds: float = 0.5, *, times: int = 1) -> None:
        """Stop the instance (as somebody else might) when the next command has run for `after_seconds`."""
        self._order(
            "switch",
            name="stop_under_command",
            value={"after": after_seconds, "times": times},
            instance_id=None,
        )

    def clear(self) -> None:
        """Everything works again; a silent agent reports what it had to keep to itself."""
        self._order("clear")


class Faults(FaultOrders):
    """The faults of one sandbox; may be used from any thread."""

    def __init__(self) -> None:
        self._held: list[HeldCall] = []
        self._lock = threading.RLock()
        self._injections: list[_Injection] = []
        self._switches: dict[tuple[str, str | None], Any] = {}
        self._when_cleared: list[Callable[[], None]] = []
        self._on_change: Callable[[], None] = lambda: None

    def carry_out(self, order: str, arguments: dict[str, Any]) -> None:
        """An order that arrived over HTTP; ValueError for one that does not exist or lacks something."""
        if order not in ("inject", "delay", "lose_answer", "switch", "clear"):
            raise ValueError(f"{order!r} is no fault: use inject, delay, lose_answer, switch or clear.")
        try:
            self._order(order, **arguments)
        except (TypeError, KeyError) as error:
            raise ValueError(f"The order {order!r} cannot be read: {error}.") from error

    @contextmanager
    def hold(self, action: str, *, mentions: str = "", answer: bool = False) -> Iterator[HeldCall]:
        """Hold the calls of `action` whose text contains `mentions` until the block lets them go.

        A caller stands at one exact point of its work meanwhile, where it can be killed, say. With `answer` the call
        is carried out first and only its answer is held. What is still held when the block ends is let go.
        """
        held = HeldCall(action, mentions, answer)
        with self._lock:
            self._held.append(held)
        try:
            yield held
        finally:
            with self._lock:
                self._held.remove(held)
            held.let_go()

    def held(self, operation: str, text: str, *, answer: bool) -> HeldCall | None:
        """Who holds this call, or its answer."""
        with self._lock:
            for held in self._held:
                if held.answer == answer and held.matches(operation, text):
                    return held
        return None

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each order, so that who waits looks again."""
        self._on_change = callback

    def take(self, operation: str, text: str) -> Answer | None:
        """The error with which this call of `service:Operation` is to be answered, if one was asked for.

        `text` is where the call names its resources.
        """
        injection = self._use(operation, text, delays=False)
        return None if injection is None else injection.answer

    def take_delay(self, operation: str, text: str) -> float:
        """The seconds for which this call is to wait."""
        injection = self._use(operation, text, delays=True)
        return 0.0 if injection is None else injection.seconds

    def _use(self, operation: str, text: str, *, delays: bool) -> "_Injection | None":
        with self._lock:
            for injection in list(self._injections):
                if (
                    (injection.answer is None) != delays
                    or injection.action not in (operation, operation.partition(":")[2])
                    or injection.mentions not in text
                ):
                    continue
                if injection.after > 0:
                    injection.after -= 1
                    continue
                if injection.times is not None:
                    injection.times -= 1
                    if injection.times <= 0:
                        self._injections.remove(injection)
                return injection
        return None

    def is_set(self, name: str, instance_id: str) -> bool:
        """Whether a switch is set for this instance or for all."""
        with self._lock:
            return bool(self._switches.get((name, instance_id)) or self._switches.get((name, None)))

    def extra_seconds(self, name: str) -> float:
        """The delay asked for under `name` ("boot" or "stop"); infinity for one without an end."""
        with self._lock:
            value = self._switches.get((name, None), 0.0)
        return float("inf") if value is None else float(value)

    def lose_command(self) -> bool:
        """Whether this command is to be lost; counts it."""
        with self._lock:
            left = self._switches.get(("lose_commands", None), 0)
            if left <= 0:
                return False
            self._switches["lose_commands", None] = left - 1
            return True

    def take_stop_under_command(self) -> float | None:
        """Seconds after which the instance is to be stopped under the command that begins now, if asked for."""
        with self._lock:
            wish = self._switches.get(("stop_under_command", None))
            if not wish or wish["times"] <= 0:
                return None
            wish["times"] -= 1
            return float(wish["after"])

    def when_cleared(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when faults are cleared."""
        with self._lock:
            self._when_cleared.append(callback)

    def _order(self, order: str, **arguments: Any) -> None:
        callbacks: list[Callable[[], None]] = []
        with self._lock:
            if order == "clear":
                self._injections.clear()
                self._switches.clear()
                callbacks, self._when_cleared = self._when_cleared, []
            elif order == "switch":
                if arguments["name"] not in _SWITCHES:
                    raise ValueError(f"There is no fault {arguments['name']!r}: there are {', '.join(_SWITCHES)}.")
                self._switches[arguments["name"], arguments["instance_id"]] = arguments["value"]
            else:
                self._injections.append(_injection(order, **arguments))
        for callback in callbacks:
            callback()
        self._on_change()


class RemoteFaults(FaultOrders):
    """The faults of a sandbox in another process, reached at its endpoint URL."""

    def __init__(self, endpoint_url: str) -> None:
        self._url = f"{endpoint_url.rstrip('/')}/_sandbox/faults"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _order(self, order: str, **arguments: Any) -> None:
        request = urllib.request.Request(  # noqa: S310 (the sandbox's own http endpoint)
            f"{self._url}/{order}",
            data=json.dumps(arguments).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=30) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode(errors="replace")) from error


def _injection(
    order: str,
    *,
    action: str,
    code: str = "InternalError",
    times: int | None = 1,
    after: int = 0,
    message: str | None = None,
    status: int | None = None,
    mentions: str = "",
    seconds: float = 0.0,
) -> _Injection:
    if order == "delay":
        return _Injection(action, times, after, mentions, seconds=seconds)
    if message is None:
        message = _MESSAGES.get(code, f"Injected by the sandbox's faults: {code}.")
    answer = Answer(code, message, status or _STATUS.get(code, 400), lost=order == "lose_answer")
    return _Injection(action, times, after, mentions, answer)
