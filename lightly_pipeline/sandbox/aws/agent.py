"""The SSM agent of one boot of one instance, and the systemd timer beside it.

It comes online some time after boot, takes the commands that are waiting for its instance, five at once, runs them as
amazon-ssm-agent does, ends those whose time is up, and runs watchdog.sh at its interval. When the power goes, it and
all that it started are gone without a word; the next boot's agent reports what it finds interrupted as Failed.
"""

import datetime as dt
import logging
import math
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

from lightly_pipeline.sandbox.aws.commands import (
    REBOOT_EXIT_CODE,
    STOPPED_EXIT_CODE,
    Command,
    Invocation,
)
from lightly_pipeline.sandbox.aws.execution import Execution
from lightly_pipeline.sandbox.aws.output import LogTail, upload

if TYPE_CHECKING:
    from lightly_pipeline.sandbox.aws.machine import Machine

logger = logging.getLogger(__name__)

WORKERS = 5
_ORCHESTRATIONS_KEPT = 20


class Agent:
    """The agent of one boot. Its thread lives from boot to power-off; its state is guarded by the cloud's lock."""

    def __init__(self, machine: "Machine", online_at: float) -> None:
        self._machine = machine
        self._cloud = machine.cloud
        self._boot = machine.boot
        self._online_at = online_at
        self._off = False
        self._rebooting = False
        self._running: dict[str, Execution] = {}
        self._wake = threading.Condition(self._cloud.lock)
        self._silent_since: float | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._watchdog_at = online_at - self._cloud.timings.agent + self._cloud.timings.watchdog
        # One that is silenced now never comes online, also when nobody looks before it would have.
        self._observe_silence(self._cloud.clock())

    def start(self) -> None:
        """Begin to boot."""
        thread = threading.Thread(target=self._live, name=f"agent of {self._machine.id}", daemon=True)
        thread.start()

    def power_off(self) -> None:
        """The power is gone: no report, no farewell. Called under the cloud's lock."""
        self._off = True
        for execution in self._running.values():
            execution.invocation.lost = True
            execution.kill("power")
        if self._watchdog is not None:
            self._cloud.jobs.kill(self._watchdog)
        self._wake.notify_all()

    def notice(self) -> None:
        """Something may have changed: look again. Called under the cloud's lock."""
        self._wake.notify_all()

    @property
    def last_ping(self) -> float | None:
        """The clock's time of the last sign of life; None before the first."""
        now = self._cloud.clock()
        self._observe_silence(now)
        end = now if self._silent_since is None else self._silent_since
        if self._off or end < self._online_at:
            return None
        interval = max(self._cloud.timings.ping, 0.001)
        return self._online_at + (end - self._online_at) // interval * interval

    @property
    def ping_status(self) -> str | None:
        """Online or ConnectionLost; None for an agent that has not been heard since boot."""
        last = self.last_ping
        if last is None:
            return None
        silence = self._cloud.clock() - last
        if self._silent_since is not None and silence > self._cloud.timings.connection_lost:
            return "ConnectionLost"
        return "Online"

    # The agent's own thread.

    def _live(self) -> None:
        with self._cloud.lock:
            while not self._off and self._cloud.clock() < self._online_at:
                self._wake.wait(self._online_at - self._cloud.clock())
            reported = False
            while not self._off:
                now = self._cloud.clock()
                self._observe_silence(now)
                if self._silent_since is None:
                    if not reported:
                        self._report_interrupted()
                        reported = True
                    self._end_cancelled()
                    self._take_commands()
                self._end_overdue(now)
                self._tick_watchdog(now)
                self._wake.wait(self._until_next(now))

    def _observe_silence(self, now: float) -> None:
        silent = self._cloud.faults.is_set("agent_silent", self._machine.id)
        if silent and self._silent_since is None:
            self._silent_since = now
        elif not silent:
            self._silent_since = None

    def _report_interrupted(self) -> None:
        # The worker of a command that an earlier boot ran is gone: the agent finds that out and says Failed.
        for _, invocation in self._cloud.invocations_of(self._machine.id):
            if invocation.lost and invocation.status in ("InProgress", "Cancelling"):
                invocation.finish("Failed", "Failed", -1, self._cloud.now())

    def _take_commands(self) -> None:
        for command, invocation in self._cloud.invocations_of(self._machine.id):
            if len(self._running) >= WORKERS or self._rebooting:
                return
            if invocation.status == "Pending" and self._ready_in(command) <= 0 and not invocation.lost:
                invocation.status = invocation.details = "InProgress"
                invocation.taken = self._cloud.now()
                invocation.boot = self._boot
                self._run(command, invocation)

    def _ready_in(self, command: Command) -> float:
        delivered = command.requested + dt.timedelta(seconds=self._cloud.timings.delivery)
        return (delivered - self._cloud.now()).total_seconds()

    def _end_cancelled(self) -> None:
        for execution in self._running.values():
            if execution.invocation.status == "Cancelling":
                execution.kill("cancel")

    def _end_overdue(self, now: float) -> None:
        for execution in self._running.values():
            if now >= execution.deadline:
                execution.kill("timeout")

    def _until_next(self, now: float) -> float | None:
        due = [execution.deadline for execution in self._running.values() if execution.killed_for is None]
        if self._cloud.watchdog is not None:
            due.append(self._watchdog_at)
        if len(self._running) < WORKERS and self._silent_since is None and not self._rebooting:
            for command, invocation in self._cloud.invocations_of(self._machine.id):
                if invocation.status == "Pending" and not invocation.lost:
                    due.append(now + max(self._ready_in(command), 0.001))
        soonest = min(due, default=math.inf)
        return None if math.isinf(soonest) else max(soonest - now, 0.001)

    # A command.

    def _run(self, command: Command, invocation: Invocation) -> None:
        folder = self._machine.folder / "orchestration"
        execution = self._running[command.command_id] = Execution(command, invocation, folder, self._cloud.jobs)
        threading.Thread(
            target=self._execute, args=[execution], name=f"command {command.command_id}", daemon=True
        ).start()

    def _execute(self, execution: Execution) -> None:
        code = -1
        try:
            execution.write()
            if self._start(execution):
                tail = None
                if execution.command.log_group is not None:
                    tail = LogTail(self._cloud.client, execution.command, self._machine.id, execution.folder)
                code = execution.wait(tail, self._cloud.timings.log_lines, lambda: not self._off)
        except OSError as error:
            execution.note_failure(error)
            code = 1
        finally:
            self._finish(execution, code)

    def _start(self, execution: Execution) -> bool:
        """Start the process, unless the power went or it was cancelled while its script was written."""
        with self._cloud.lock:
            if self._off or execution.killed_for is not None:
                return False
            execution.start(self._machine.environment())
            execution.deadline = self._cloud.clock() + execution.command.execution_timeout
            self._wake.notify_all()
            self._plan_stop()
            return True

    def _plan_stop(self) -> None:
        seconds = self._cloud.faults.take_stop_under_command()
        if seconds is not None:
            timer = threading.Timer(seconds, self._machine.stop_from_outside, [self._boot])
            timer.daemon = True
            timer.start()

    def _finish(self, execution: Execution, code: int) -> None:
        # What no longer has power uploads nothing and reports nothing.
        if not self._off and execution.command.bucket:
            upload(self._cloud.client, execution.command, execution.invocation, execution.folder)
        with self._cloud.lock:
            self._running.pop(execution.command.command_id, None)
            self._wake.notify_all()
            if self._off:
                return
            report = _outcome(execution, code)
            if report is None:
                # The next boot's agent takes it again, not this one.
                self._rebooting = True
                execution.invocation.status = execution.invocation.details = "Pending"
                threading.Thread(target=self._machine.reboot, name="reboot", daemon=True).start()
                return
            if self._cloud.faults.is_set("agent_silent", self._machine.id):
                # The result waits in the agent until it is heard again, or is lost with it.
                execution.invocation.lost = True
                self._cloud.faults.when_cleared(lambda: self._publish(execution, report))
                return
            self._publish(execution, report)
        self._clear_orchestrations()

    def _publish(self, execution: Execution, report: tuple[str, str, int]) -> None:
        with self._cloud.lock:
            if self._off:
                return
            execution.invocation.lost = False
            execution.collect_output()
            execution.invocation.finish(*report, self._cloud.now())

    def _clear_orchestrations(self) -> None:
        root = self._machine.folder / "orchestration"
        with self._cloud.lock:
            running = set(self._running)
        finished = sorted(
            (entry for entry in root.iterdir() if entry.name not in running),
            key=lambda entry: entry.stat().st_mtime,
        )
        for entry in finished[:-_ORCHESTRATIONS_KEPT]:
            shutil.rmtree(entry, ignore_errors=True)

    # The timer.

    def _tick_watchdog(self, now: float) -> None:
        if self._cloud.watchdog is None or now < self._watchdog_at:
            return
        # So that a timer set to nothing does not turn in circles.
        self._watchdog_at = now + max(self._cloud.timings.watchdog, 0.05)
        if self._watchdog is not None and self._watchdog.poll() is None:
            return
        process = self._cloud.jobs.start(
            ["bash", str(self._cloud.watchdog)],
            owner=self._machine.id,
            environment=self._machine.environment(),
            cwd=self._machine.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._watchdog = process
        threading.Thread(target=self._wait_for, args=[process], name="watchdog", daemon=True).start()

    def _wait_for(self, process: "subprocess.Popen[bytes]") -> None:
        if process.wait() not in (0, -9):
            logger.warning("watchdog.sh on %s ended with exit code %d.", self._machine.id, process.returncode)
        self._cloud.jobs.ended(process)


def _outcome(execution: Execution, code: int) -> tuple[str, str, int] | None:
    """Status, details and response code; None where the exit code asks for a reboot and another run."""
    if execution.killed_for == "cancel":
        return "Cancelled", "Cancelled", STOPPED_EXIT_CODE
    if execution.killed_for == "timeout" or code == STOPPED_EXIT_CODE:
        return "TimedOut", "ExecutionTimedOut", STOPPED_EXIT_CODE
    if code == 0:
        return "Success", "Success", 0
    if code == REBOOT_EXIT_CODE:
        return None
    return "Failed", "Failed", code
