"""Run Command's records: a command, its invocation on each instance, and how their statuses follow from one another.

The statuses are those of GetCommandInvocation and ListCommands; deadlines that nobody reports (a command that was never
taken, an instance that never came back) are worked out when somebody looks.
"""

import datetime as dt
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PLUGIN = "aws:RunShellScript"
DOCUMENT = "AWS-RunShellScript"
# What the agent says a command that it stopped itself has exited with, and how it reads such an exit code.
STOPPED_EXIT_CODE = 137
REBOOT_EXIT_CODE = 194
STDOUT_LIMIT = 24_000
STDERR_LIMIT = 8_000
LIST_LIMIT = 2_500
TRUNCATED = "--output truncated--"
DEFAULT_EXECUTION_SECONDS = 3600
_TERMINAL = frozenset({"Success", "Failed", "Cancelled", "TimedOut"})


def execution_seconds(text: str) -> int:
    """`executionTimeout` as the agent reads it: whatever is not a number from 5 to 172800 is one hour."""
    try:
        seconds = int(text)
    except ValueError:
        return DEFAULT_EXECUTION_SECONDS
    return seconds if 5 <= seconds <= 172_800 else DEFAULT_EXECUTION_SECONDS


def shortened(path: Path, limit: int) -> str:
    """The beginning of an output file as the API returns it: at most `limit` characters, a cut one says so."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        # No character takes more than four bytes.
        text = file.read(limit * 4 + 4).decode(errors="replace")
    return cut(text, limit)


def cut(text: str, limit: int) -> str:
    """`text`, or its beginning and the note that it was cut, together `limit` characters."""
    return text if len(text) <= limit else text[: limit - len(TRUNCATED)] + TRUNCATED


@dataclass
class Invocation:
    """A command on one instance. Times are the sandbox's clock (UTC); changed only under the cloud's lock."""

    instance_id: str
    status: str = "Pending"
    details: str = "Pending"
    response_code: int = -1
    taken: dt.datetime | None = None
    ended: dt.datetime | None = None
    stdout: str = ""
    stderr: str = ""
    stdout_url: str = ""
    stderr_url: str = ""
    # The boot of the machine that runs it; another boot's agent finds its worker gone.
    boot: int | None = None
    lost: bool = False

    @property
    def over(self) -> bool:
        """Whether the status will never change again."""
        return self.status in _TERMINAL

    def finish(self, status: str, details: str, response_code: int, ended: dt.datetime) -> None:
        """Reach a terminal status, once: a later report of the agent changes nothing."""
        if not self.over:
            self.status, self.details, self.response_code, self.ended = status, details, response_code, ended


@dataclass
class Command:
    """What SendCommand was asked for."""

    document: str
    parameters: dict[str, list[str]]
    comment: str
    timeout_seconds: int
    requested: dt.datetime
    bucket: str = ""
    prefix: str = ""
    log_group: str | None = None
    targets: list[dict[str, Any]] = field(default_factory=list)
    max_concurrency: str = "50"
    max_errors: str = "0"
    region: str = "us-east-1"
    timeout_scale: float = 1.0
    command_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    invocations: dict[str, Invocation] = field(default_factory=dict)

    @property
    def execution_timeout(self) -> int:
        """Seconds that the commands may run."""
        return execution_seconds((self.parameters.get("executionTimeout") or ["3600"])[0])

    @property
    def delivery_deadline(self) -> dt.datetime:
        """When a command that no agent has taken is given up."""
        return self.requested + dt.timedelta(seconds=self.timeout_seconds * self.timeout_scale)

    @property
    def total_deadline(self) -> dt.datetime:
        """When a command whose agent never answers again is given up."""
        return self.delivery_deadline + dt.timedelta(seconds=self.execution_timeout)

    def settle(self, now: dt.datetime) -> None:
        """Let the deadlines that have passed have their effect."""
        for invocation in self.invocations.values():
            if (invocation.status == "Pending" and now >= self.delivery_deadline) or (
                not invocation.over and now >= self.total_deadline
            ):
                invocation.finish("TimedOut", "DeliveryTimedOut", -1, now)

    @property
    def status(self) -> str:
        """The command's status: the worst of its invocations once all are over, else how far the first ones are."""
        statuses = [invocation.status for invocation in self.invocations.values()]
        if not statuses:
            return "Success"
        for unfinished in ("InProgress", "Cancelling"):
            if unfinished in statuses:
                return unfinished
        if "Pending" in statuses:
            return "Pending" if set(statuses) == {"Pending"} else "InProgress"
        for worst in ("Failed", "TimedOut", "Cancelled"):
            if worst in statuses:
                return worst
        return "Success"

    def description(self) -> dict[str, Any]:
        """The `Command` structure of the API."""
        invocations = self.invocations.values()
        status = self.status
        details = {invocation.details for invocation in invocations}
        return {
            "CommandId": self.command_id,
            "DocumentName": self.document,
            "DocumentVersion": "$DEFAULT",
            "Comment": self.comment,
            "ExpiresAfter": self.total_deadline,
            "Parameters": self.parameters,
            "InstanceIds": [] if self.targets else list(self.invocations),
            "Targets": self.targets,
            "RequestedDateTime": self.requested,
            "Status": status,
            "StatusDetails": details.pop() if len(details) == 1 else status,
            "OutputS3Region": self.region,
            "OutputS3BucketName": self.bucket,
            "OutputS3KeyPrefix": self.prefix,
            "MaxConcurrency": self.max_concurrency,
            "MaxErrors": self.max_errors,
            "TargetCount": len(self.invocations),
            "CompletedCount": sum(invocation.over for invocation in invocations),
            "ErrorCount": sum(invocation.status in ("Failed", "TimedOut") for invocation in invocations),
            "DeliveryTimedOutCount": sum(invocation.details == "DeliveryTimedOut" for invocation in invocations),
            "ServiceRole": "",
            "NotificationConfig": {"NotificationArn": "", "NotificationEvents": [], "NotificationType": ""},
            "CloudWatchOutputConfig": self._log_configuration(),
            "TimeoutSeconds": self.timeout_seconds,
        }

    def invocation_result(self, invocation: Invocation) -> dict[str, Any]:
        """The answer of GetCommandInvocation: output only at the end, cut to 24,000 and 8,000 characters."""
        elapsed = ""
        if invocation.taken is not None and invocation.ended is not None:
            elapsed = f"PT{(invocation.ended - invocation.taken).total_seconds():.3f}S"
        return {
            "CommandId": self.command_id,
            "InstanceId": invocation.instance_id,
            "Comment": self.comment,
            "DocumentName": self.document,
            "DocumentVersion": "$DEFAULT",
            "PluginName": PLUGIN,
            "ResponseCode": invocation.response_code,
            "ExecutionStartDateTime": _iso(invocation.taken),
            "ExecutionElapsedTime": elapsed,
            "ExecutionEndDateTime": _iso(invocation.ended),
            "Status": invocation.status,
            "StatusDetails": invocation.details,
            "StandardOutputContent": invocation.stdout,
            "StandardOutputUrl": invocation.stdout_url,
            "StandardErrorContent": invocation.stderr,
            "StandardErrorUrl": invocation.stderr_url,
            "CloudWatchOutputConfig": self._log_configuration(),
        }

    def invocation_description(self, invocation: Invocation, *, details: bool) -> dict[str, Any]:
        """The `CommandInvocation` structure of ListCommandInvocations; with `details` the plugin's."""
        description: dict[str, Any] = {
            "CommandId": self.command_id,
            "InstanceId": invocation.instance_id,
            "InstanceName": "",
            "Comment": self.comment,
            "DocumentName": self.document,
            "DocumentVersion": "$DEFAULT",
            "RequestedDateTime": self.requested,
            "Status": invocation.status,
            "StatusDetails": invocation.details,
            "StandardOutputUrl": invocation.stdout_url,
            "StandardErrorUrl": invocation.stderr_url,
            "CommandPlugins": [],
            "ServiceRole": "",
            "CloudWatchOutputConfig": self._log_configuration(),
        }
        if details:
            plugin: dict[str, Any] = {
                "Name": PLUGIN,
                "Status": invocation.status,
                "StatusDetails": invocation.details,
                "ResponseCode": invocation.response_code,
                "Output": cut(_both(invocation), LIST_LIMIT),
                "StandardOutputUrl": invocation.stdout_url,
                "StandardErrorUrl": invocation.stderr_url,
                "OutputS3Region": self.region,
                "OutputS3BucketName": self.bucket,
                "OutputS3KeyPrefix": self.prefix,
            }
            if invocation.taken is not None:
                plugin["ResponseStartDateTime"] = invocation.taken
            if invocation.ended is not None:
                plugin["ResponseFinishDateTime"] = invocation.ended
            description["CommandPlugins"] = [plugin]
        return description

    def _log_configuration(self) -> dict[str, Any]:
        if self.log_group is None:
            return {"CloudWatchLogGroupName": "", "CloudWatchOutputEnabled": False}
        return {"CloudWatchLogGroupName": self.log_group, "CloudWatchOutputEnabled": True}


def _iso(time: dt.datetime | None) -> str:
    return "" if time is None else time.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _both(invocation: Invocation) -> str:
    # As the agent joins the two streams for the short form.
    if not invocation.stderr:
        return invocation.stdout
    return f"{invocation.stdout}\n----------ERROR-------\n{invocation.stderr}"
