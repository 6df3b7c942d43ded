"""One SSM command: send it, follow it to its end, cancel it, fetch what it wrote.

boto3's waiter is not used: it gives up after 100 s, and cannot tell "failed" from "not there yet".
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from lightly_pipeline.runner.aws import Clients, code_of, is_passing, may_have_arrived, said_plainly
from lightly_pipeline.runner.clock import ENDING, RUNNING, STARTING, Clock, ticks
from lightly_pipeline.runner.errors import (
    CommandCancelled,
    CommandError,
    CommandFailed,
    CommandKilled,
    CommandTimedOut,
    ConfigurationError,
    InstanceGone,
    InstanceTaken,
    NotReady,
)
from lightly_pipeline.runner.instance import Instances
from lightly_pipeline.runner.script import KILLED_REMAPPED, REBOOT, REBOOT_REMAPPED, kill_container_text

if TYPE_CHECKING:
    from mypy_boto3_ssm.type_defs import GetCommandInvocationResultTypeDef

DOCUMENT = "AWS-RunShellScript"
# The agent silently takes 3600 for a value outside.
SHORTEST_TIMEOUT, LONGEST_TIMEOUT = 5, 172800
ENDED = frozenset({"Success", "Failed", "TimedOut", "Cancelled"})
# The command never reached the instance: worth sending again.
_UNDELIVERED = frozenset({"DeliveryTimedOut", "Undeliverable"})
_NOTHING_TO_CANCEL = frozenset({"InvalidInstanceId", "InvalidCommandId", "DuplicateInstanceId"})
_NOT_THERE_YET = frozenset({"InvocationDoesNotExist"})
# SSM's comment and the tail in an error have limits of their own.
COMMENT_LENGTH = 100
TAIL_BYTES = 4096

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True)
class CommandSettings:
    """How commands are sent and followed.

    `delivery_timeout` seconds (30 or more) for the agent to take the command; `state_interval` seconds
    between two looks at EC2, to notice that the instance was stopped under the command; `output_wait` seconds
    that the complete output may take to appear in S3 once the command has ended. SSM's lists show a command up to
    `visible_within` seconds after it was accepted, and one that it knows by its id up to `missing_wait` (some 0.1 s
    were seen; neither is documented).
    """

    document: str = DOCUMENT
    delivery_timeout: int = 60
    missing_wait: float = 30.0
    visible_within: float = 3.0
    state_interval: float = 10.0
    output_wait: float = 10.0
    log_group: str | None = None


@dataclass(frozen=True)
class Sent:
    """A command on its instance. `launched` is the instance's start under which it was sent, as EC2 tells it."""

    id: str
    instance_id: str
    launched: float | None
    output_prefix: str
    timeout: int


@dataclass(frozen=True)
class Found:
    """A command that is still under way on an instance, known by its comment."""

    id: str
    instance_id: str
    comment: str


@dataclass(frozen=True)
class Ended:
    """How a command ended, in SSM's words; `exit_code` is None where SSM has none."""

    status: str
    details: str
    exit_code: int | None
    stdout: str
    stderr: str


@dataclass
class Commands:
    """Sends and follows commands; keeps nothing between two calls."""

    clients: Clients
    instances: Instances
    bucket: str
    settings: CommandSettings = field(default_factory=CommandSettings)
    clock: Clock = field(default_factory=Clock)

    def send(
        self,
        instance_id: str,
        text: str,
        *,
        timeout: int,
        comment: str,
        output_prefix: str,
        launched: float | None = None,
        tick: Callable[[], object] = lambda: None,
    ) -> Sent:
        """Send the text to the instance; its complete output will be in S3 under `output_prefix`.

        A running instance whose agent SSM does not know yet is tried again for `deadlines.agent` seconds, and so
        is a call that SSM did not answer; but one that arrived all the same, known by its comment, is not
        repeated: `comment` must be this command's alone. InstanceTaken where it is not running any more.
        """
        if not SHORTEST_TIMEOUT <= timeout <= LONGEST_TIMEOUT:
            raise ConfigurationError(
                f"A command may run for {SHORTEST_TIMEOUT} to {LONGEST_TIMEOUT} s (48 hours), not {timeout} "
                f"s: split the work, or set timeout_seconds within these limits."
            )
        request: dict[str, Any] = {
            "InstanceIds": [instance_id],
            "DocumentName": self.settings.document,
            "Parameters": {"commands": text.split("\n"), "executionTimeout": [str(timeout)]},
            "TimeoutSeconds": self.settings.delivery_timeout,
            "Comment": comment[:COMMENT_LENGTH],
            "OutputS3BucketName": self.bucket,
            "OutputS3KeyPrefix": output_prefix.rstrip("/"),
        }
        if self.settings.log_group:
            request["CloudWatchOutputConfig"] = {
                "CloudWatchOutputEnabled": True,
                "CloudWatchLogGroupName": self.settings.log_group,
            }
        what = f"send a command to instance {instance_id}"
        deadline = self.instances.deadlines.agent
        unanswered: ClientError | BotoCoreError | None = None
        asked_at = 0.0
        for look in ticks(self.clock, STARTING, deadline, least=self.instances.least_pause):
            tick()
            if unanswered is not None and may_have_arrived(unanswered):
                found = self.sent_before(instance_id, request["Comment"], since=launched)
                if found is not None:
                    return Sent(found.id, instance_id, launched, output_prefix, timeout)
                if look.elapsed - asked_at < self.settings.visible_within:
                    continue
            asked_at = look.elapsed
            with said_plainly(what, self.clients.sts, let=frozenset({"InvalidInstanceId"})):
                try:
                    answer = self.clients.brisk_ssm.send_command(**request)
                except (ClientError, BotoCoreError) as error:
                    unanswered = error if is_passing(error) else None
                    if unanswered is None and code_of(error) != "InvalidInstanceId":
                        raise
                else:
                    command_id = answer["Command"]["CommandId"]
                    return Sent(command_id, instance_id, launched, output_prefix, timeout)
            self._must_run(instance_id, launched)
        if unanswered is not None:
            with said_plainly(what, self.clients.sts):
                raise unanswered
        raise NotReady(
            f"SSM has refused commands to instance {instance_id} for {deadline:.0f} s, although it is "
            f"running: check its "
            f"instance profile (AmazonSSMManagedInstanceCore), its way to the SSM endpoints, and its agent."
        )

    def find(self, instance_id: str, comments: Collection[str], *, since: float | None) -> Found | None:
        """A command that has not ended on the instance and whose comment begins with one of `comments`.

        `since` is the instance's start: a command of before was killed with it, whatever SSM still says.
        """
        with said_plainly(f"list the commands of instance {instance_id}", self.clients.sts):
            for status in ("InProgress", "Pending"):
                answer = self.clients.ssm.list_command_invocations(
                    InstanceId=instance_id, Filters=[{"key": "Status", "value": status}]
                )
                for invocation in answer.get("CommandInvocations", []):
                    comment = invocation.get("Comment", "")
                    requested = invocation.get("RequestedDateTime")
                    stale = since is not None and requested is not None and requested.timestamp() < since - 1.0
                    if invocation.get("Status") in ENDED or stale or not comment.startswith(tuple(comments)):
                        continue
                    return Found(invocation["CommandId"], instance_id, comment)
        return None

    def sent_before(self, instance_id: str, comment: str, *, since: float | None, brisk: bool = False) -> Found | None:
        """The command of this very comment that SSM has accepted since the instance's start, ended or not."""
        client = self.clients.brisk_ssm if brisk else self.clients.ssm
        request: dict[str, Any] = {"InstanceId": instance_id}
        if since is not None:
            after = datetime.fromtimestamp(since - 1.0, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            request["Filters"] = [{"key": "InvokedAfter", "value": after}]
        with said_plainly(f"list the commands of instance {instance_id}", self.clients.sts):
            while True:
                answer = client.list_command_invocations(**request)
                for invocation in answer.get("CommandInvocations", []):
                    if invocation.get("Comment", "") == comment[:COMMENT_LENGTH]:
                        return Found(invocation["CommandId"], instance_id, comment)
                if not answer.get("NextToken"):
                    return None
                request["NextToken"] = answer["NextToken"]

    def invocation(self, command_id: str, instance_id: str) -> GetCommandInvocationResultTypeDef | None:
        """What SSM says of the command now; None while it does not know it yet."""
        what = f"ask SSM for command {command_id}"
        with said_plainly(what, self.clients.sts, let=_NOT_THERE_YET):
            try:
                return self.clients.ssm.get_command_invocation(CommandId=command_id, InstanceId=instance_id)
            except ClientError as error:
                if code_of(error) not in _NOT_THERE_YET:
                    raise
        return None

    def follow(self, sent: Sent, tick: Callable[[], object] = lambda: None) -> Ended:
        """Wait until the command has ended, however it did.

        InstanceTaken when the instance was stopped, started anew or lost under it, or when the agent never
        took the command, or was silent beyond every timeout.
        """
        looked_at_instance = 0.0
        budget = sent.timeout + self.settings.delivery_timeout + 60.0
        for look in ticks(self.clock, RUNNING, budget, least=self.instances.least_pause, woken=ENDING):
            tick()
            answer = self.invocation(sent.id, sent.instance_id)
            if answer is None:
                if look.elapsed >= self.settings.missing_wait:
                    raise InstanceTaken(
                        f"SSM has not known command {sent.id} for {look.elapsed:.0f} s after it was sent to "
                        f"{sent.instance_id}."
                    )
            elif answer["Status"] in ENDED:
                return self._ended(sent, answer)
            if look.elapsed - looked_at_instance >= max(self.settings.state_interval, self.instances.least_pause):
                looked_at_instance = look.elapsed
                try:
                    self._must_run(sent.instance_id, sent.launched)
                except InstanceTaken:
                    # It may have ended in the very second before the instance was stopped.
                    last = self.invocation(sent.id, sent.instance_id)
                    if last is not None and last["Status"] == "Success":
                        return _end_of(last)
                    raise
        raise InstanceTaken(
            f"The agent of {sent.instance_id} has not reported the end of command {sent.id} within {budget:.0f} s, "
            f"which is beyond its timeout."
        )

    def _ended(self, sent: Sent, answer: GetCommandInvocationResultTypeDef) -> Ended:
        ended = _end_of(answer)
        if ended.status == "Success":
            return ended
        if ended.details.replace(" ", "") in _UNDELIVERED:
            raise InstanceTaken(
                f"Command {sent.id} was not delivered to {sent.instance_id} ({ended.details}): its agent "
                f"did not take it."
            )
        # Stopping an instance kills its commands, and after the next boot the agent reports them as failed.
        self._must_run(sent.instance_id, sent.launched)
        return ended

    def _must_run(self, instance_id: str, launched: float | None) -> None:
        try:
            seen = self.instances.look(instance_id)
        except InstanceGone as error:
            raise InstanceTaken(f"Instance {instance_id} is gone under the command: {error}") from error
        if seen.state != "running":
            raise InstanceTaken(f"Instance {instance_id} is {seen.state} under the command.")
        if launched is not None and seen.launched is not None and abs(seen.launched - launched) >= 1.0:
            raise InstanceTaken(f"Instance {instance_id} was stopped and started again under the command.")

    def cancel(self, command_id: str, instance_id: str) -> None:
        """Ask SSM, twice at the most, to end the command: the agent kills its process group. Best effort, as
        SSM's own is."""
        with said_plainly(f"cancel command {command_id}", self.clients.sts):
            for _ in range(2):
                try:
                    self.clients.brisk_ssm.cancel_command(CommandId=command_id, InstanceIds=[instance_id])
                except (ClientError, BotoCoreError) as error:
                    if is_passing(error):
                        continue
                    if code_of(error) not in _NOTHING_TO_CANCEL:
                        raise
                return

    def kill_container(self, command_id: str, instance_id: str) -> None:
        """End the docker container of a cancelled command, which killing its process group does not reach.

        For an instance that stays up for others; sends a second, short command and does not wait for it.
        """
        with said_plainly(f"end the container of command {command_id}", self.clients.sts):
            try:
                self.clients.brisk_ssm.send_command(
                    InstanceIds=[instance_id],
                    DocumentName=self.settings.document,
                    Parameters={
                        "commands": kill_container_text(command_id).split("\n"),
                        "executionTimeout": ["60"],
                    },
                    TimeoutSeconds=30,
                    Comment=f"lightly: end what {command_id} left behind"[:COMMENT_LENGTH],
                )
            except (ClientError, BotoCoreError) as error:
                if code_of(error) not in _NOTHING_TO_CANCEL and not is_passing(error):
                    raise

    def check(self, sent: Sent, ended: Ended, tail: str) -> None:
        """Raise the error that says how the command ended.

        Nothing after a success. `tail` is its last output.
        """
        if ended.status == "Success" and ended.exit_code in (0, None):
            return
        where = f"Command {sent.id} on {sent.instance_id}"
        lines = f" Its last lines:\n{tail}" if tail else " It wrote nothing."
        failure: type[CommandError] = CommandFailed
        code = ended.exit_code
        if ended.status == "Cancelled":
            failure, said = CommandCancelled, f"{where} was cancelled."
        elif ended.status == "TimedOut":
            failure = CommandTimedOut
            said = (
                f"{where} did not end within its {sent.timeout} s and was killed ({ended.details}): raise "
                f"timeout_seconds, or give it less to do."
            )
        elif code == KILLED_REMAPPED:
            failure, code = CommandKilled, 137
            said = (
                f"{where} was killed on the instance (exit code 137), almost always because memory ran out: "
                f"use a type of instance with more memory."
            )
        else:
            code = REBOOT if code == REBOOT_REMAPPED else code
            said = f"{where} ended with exit code {code} ({ended.details})."
        raise failure(said + lines, exit_code=code, tail=tail)

    def output(self, sent: Sent, stream: Stream) -> str | None:
        """The S3 key of the complete output of a command that has ended; None where it wrote none."""
        prefix = f"{sent.output_prefix.rstrip('/')}/{sent.id}/"
        with said_plainly(f"list the output s3://{self.bucket}/{prefix}", self.clients.sts):
            answer = self.clients.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        keys = [entry["Key"] for entry in answer.get("Contents", []) if entry["Key"].endswith(f"/{stream}")]
        return keys[0] if keys else None

    def chunks(self, sent: Sent, ended: Ended, stream: Stream) -> Iterator[str]:
        """The complete output as text in pieces, from S3; what SSM itself kept of it where S3 has nothing.

        SSM keeps the first 24,000 characters of stdout and 8,000 of stderr.
        """
        kept = ended.stdout if stream == "stdout" else ended.stderr
        key = self.output(sent, stream) if kept else None
        if key is None:
            yield kept
            return
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        body = self.clients.s3.get_object(Bucket=self.bucket, Key=key)["Body"]
        for chunk in body.iter_chunks(256 * 1024):
            yield decode(chunk)
        yield decode(b"", True)

    def tail(self, sent: Sent, ended: Ended) -> str:
        """The last lines that a failed command wrote, of stderr where there are any, at most 4 KB."""
        streams: tuple[tuple[Stream, str], ...] = (("stderr", ended.stderr), ("stdout", ended.stdout))
        for stream, kept in streams:
            if not kept.strip():
                continue
            key = self.output(sent, stream)
            text = kept[-TAIL_BYTES:]
            if key is not None:
                answer = self.clients.s3.get_object(Bucket=self.bucket, Key=key, Range=f"bytes=-{TAIL_BYTES}")
                text = answer["Body"].read().decode("utf-8", "replace")
            return "\n".join(text.rstrip().splitlines()[-20:])
        return ""


def _end_of(answer: GetCommandInvocationResultTypeDef | Mapping[str, Any]) -> Ended:
    code = int(answer.get("ResponseCode", -1))
    return Ended(
        status=str(answer["Status"]),
        details=str(answer.get("StatusDetails") or answer["Status"]),
        exit_code=code if code >= 0 else None,
        stdout=str(answer.get("StandardOutputContent", "")),
        stderr=str(answer.get("StandardErrorContent", "")),
    )
