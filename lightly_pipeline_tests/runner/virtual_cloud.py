"""EC2, SSM and S3 on a clock of their own, for tests of waits that take minutes and of races between holders.

The sandbox runs real commands in real time; here nothing runs, and time passes only when somebody sleeps, so that a
deadline of ten minutes takes a millisecond and a test decides which of two processes makes its call first. The
behaviours are those of reference AWS that the runner relies on; the sandbox's contract tests pin the same ones.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from lightly_pipeline.runner import Clients, Clock, InstanceRunner, RunnerSettings

BUCKET = "bucket"
_STATUS = {"InsufficientInstanceCapacity": 500, "InternalError": 500, "PreconditionFailed": 412, "NoSuchKey": 404}


def aws_error(
    code: str, operation: str, message: str = "said AWS", headers: dict[str, str] | None = None
) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": _STATUS.get(code, 400), "HTTPHeaders": headers or {}},
        },
        operation,
    )


@dataclass
class Machine:
    id: str
    state: str = "stopped"
    launched: float = 0.0
    until: float = 0.0
    agent_at: float | None = None
    starts: int = 0
    tags: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Command:
    id: str
    instance: str
    comment: str
    sent: float
    ends: float
    code: int
    timeout: int
    text: str
    status: str = "Pending"
    details: str = "Pending"
    launched: float = 0.0


class VirtualCloud:
    """The account: its machines, commands and objects, the time, and everything that was called."""

    def __init__(
        self, machines: int = 1, *, pending: float = 20.0, agent: float = 30.0, stopping: float = 40.0
    ) -> None:
        self.now = 1_800_000_000.0
        self.pending, self.agent, self.stopping = pending, agent, stopping
        self.machines = {name: Machine(name) for name in (f"i-{number:017x}" for number in range(1, machines + 1))}
        self.commands: dict[str, Command] = {}
        self.objects: dict[str, tuple[bytes, str, dict[str, str]]] = {}
        self.calls: list[tuple[float, str, dict[str, Any]]] = []
        self.faults: list[tuple[str, Callable[..., Any], list[int]]] = []
        self.job_seconds = 10.0
        self.job_code = 0
        self.agent_takes_commands = True

    # --- what a test arranges ---

    def fail(self, operation: str, code: str, *, times: int = 1_000_000, message: str = "said AWS") -> None:
        def refuse(**_: Any) -> None:
            raise aws_error(code, operation, message)

        self.meddle(operation, refuse, times=times)

    def meddle(self, operation: str, change: Callable[..., Any], *, times: int = 1_000_000) -> None:
        """Call `change` with the arguments of the next `times` calls; what it returns, if anything, is the answer."""
        self.faults.append((operation, change, [times]))

    def at(self, moment: float, change: Callable[[], None]) -> None:
        """Have something happen when the time comes."""
        self._later = sorted([*getattr(self, "_later", []), (moment, id(change), change)], key=lambda entry: entry[:2])

    def pass_time(self, seconds: float) -> None:
        """Let time pass, machine by machine and event by event."""
        end = self.now + max(0.0, seconds)
        while getattr(self, "_later", []) and self._later[0][0] <= end:
            moment, _, change = self._later.pop(0)
            self.now = max(self.now, moment)
            self._turn()
            change()
        self.now = end
        self._turn()

    def called(self, operation: str) -> int:
        return sum(1 for _, name, _ in self.calls if name == operation)

    def lose(self, name: str) -> None:
        """Somebody stops the machine; its commands die with it and stay InProgress."""
        machine = self.machines[name]
        machine.state, machine.until, machine.agent_at = "stopping", self.now + self.stopping, None

    # --- clients ---

    def clients(self, gate: Callable[[str], None] = lambda operation: None) -> Clients:
        """Clients of one process; `gate` is called before each call is carried out."""

        def operation(method: Callable[..., Any], name: str) -> Callable[..., Any]:
            def call(**arguments: Any) -> Any:
                gate(name)
                self._turn()
                self.calls.append((self.now, name, arguments))
                for fault in self.faults:
                    wanted, change, left = fault
                    if wanted == name and left[0] > 0:
                        left[0] -= 1
                        answer = change(**arguments)
                        if answer is not None:
                            return answer
                        break
                return method(**arguments)

            return call

        def service(*names: str) -> Any:
            methods = {name: operation(getattr(self, f"_{name}"), _camel(name)) for name in names}
            if "describe_instances" in methods:
                describe = methods["describe_instances"]
                methods["get_paginator"] = lambda name: SimpleNamespace(paginate=lambda **query: [describe(**query)])
            return SimpleNamespace(**methods)

        ec2 = service("describe_instances", "start_instances", "stop_instances")
        ssm = service(
            "describe_instance_information",
            "send_command",
            "get_command_invocation",
            "list_command_invocations",
            "cancel_command",
        )
        s3 = service("get_object", "put_object", "list_objects_v2")
        sts = service("decode_authorization_message")
        return Clients(
            ec2=ec2,
            ssm=ssm,
            s3=s3,
            brisk_ec2=ec2,
            brisk_ssm=ssm,
            brisk_s3=s3,
            logs=lambda: None,  # type: ignore[arg-type, return-value]
            sts=lambda: sts,
            region="us-east-1",
        )

    def runner(
        self,
        settings: RunnerSettings | None = None,
        *,
        instances: str | None = None,
        skew: float = 0.0,
        gate: Callable[[str], None] = lambda operation: None,
        sleep: Callable[[float], None] | None = None,
    ) -> InstanceRunner:
        """A runner in a process of its own, whose monotonic clock began at some other time."""
        clock = Clock(monotonic=lambda: self.now - 1_700_000_000.0 + skew, sleep=sleep or self.pass_time)
        return InstanceRunner.open(
            self.clients(gate),
            instances=instances or ",".join(self.machines),
            bucket=BUCKET,
            settings=settings,
            clock=clock,
        )

    # --- EC2 ---

    def _turn(self) -> None:
        """Bring machines and commands to the present."""
        for machine in self.machines.values():
            if machine.state == "pending" and self.now >= machine.until:
                machine.state, machine.agent_at = "running", machine.until + self.agent
            if machine.state == "stopping" and self.now >= machine.until:
                machine.state = "stopped"
        for command in self.commands.values():
            machine = self.machines[command.instance]
            alive = machine.state == "running" and machine.launched == command.launched
            if command.status in ("Pending", "InProgress") and alive and self.agent_takes_commands:
                command.status = command.details = "InProgress"
                if self.now >= min(command.ends, command.sent + command.timeout):
                    timed_out = command.ends > command.sent + command.timeout
                    command.status = "TimedOut" if timed_out else "Success" if command.code == 0 else "Failed"
                    command.details = "ExecutionTimedOut" if timed_out else command.status
            elif command.status == "InProgress" and machine.state == "running" and not alive:
                command.status = command.details = "Failed"

    def _machine(self, name: str, operation: str) -> Machine:
        if name not in self.machines:
            raise aws_error("InvalidInstanceID.NotFound", operation, f"The instance ID '{name}' does not exist")
        return self.machines[name]

    def _describe_instances(self, InstanceIds: Any = (), Filters: Any = ()) -> Any:
        names = [self._machine(name, "DescribeInstances").id for name in InstanceIds] or list(self.machines)
        for query in Filters:
            if query["Name"] == "instance-id":
                names = [name for name in names if name in query["Values"]]
            else:
                key = query["Name"].removeprefix("tag:")
                wanted = [{"Key": key, "Value": value} for value in query["Values"]]
                names = [name for name in names if any(tag in wanted for tag in self.machines[name].tags)]
        return {
            "Reservations": [
                {
                    "Instances": [
                        {
                            "InstanceId": name,
                            "State": {"Name": self.machines[name].state},
                            "LaunchTime": datetime.fromtimestamp(self.machines[name].launched, timezone.utc),
                            "Tags": self.machines[name].tags,
                        }
                    ]
                }
                for name in names
            ]
        }

    def _start_instances(self, InstanceIds: list[str]) -> Any:
        machine = self._machine(InstanceIds[0], "StartInstances")
        if machine.state == "stopped":
            machine.state, machine.until = "pending", self.now + self.pending
            machine.launched = float(int(self.now))
            machine.starts += 1
        elif machine.state != "running" and machine.state != "pending":
            raise aws_error("IncorrectInstanceState", "StartInstances", f"{machine.id} is {machine.state}")
        return {}

    def _stop_instances(self, InstanceIds: list[str], Force: bool = False) -> Any:
        machine = self._machine(InstanceIds[0], "StopInstances")
        if machine.state == "pending":
            raise aws_error("IncorrectInstanceState", "StopInstances", "has never reached the 'running' state")
        if machine.state == "terminated":
            raise aws_error("IncorrectInstanceState", "StopInstances", "is terminated")
        if machine.state == "running":
            self.lose(machine.id)
        if machine.state == "stopping" and Force:
            machine.until = self.now
        return {"StoppingInstances": [{"InstanceId": machine.id, "CurrentState": {"Name": machine.state}}]}

    # --- SSM ---

    def _online(self, machine: Machine) -> bool:
        return machine.state == "running" and machine.agent_at is not None and self.now >= machine.agent_at

    def _describe_instance_information(self, Filters: Any) -> Any:
        listed = []
        for name in Filters[0]["Values"]:
            machine = self.machines.get(name)
            if machine is not None and self._online(machine):
                ping = datetime.fromtimestamp(self.now, timezone.utc)
                listed.append({"InstanceId": name, "PingStatus": "Online", "LastPingDateTime": ping})
        return {"InstanceInformationList": listed}

    def _send_command(self, InstanceIds: list[str], Parameters: Any, Comment: str = "", **_: Any) -> Any:
        machine = self.machines.get(InstanceIds[0])
        if machine is None or not self._online(machine):
            raise aws_error("InvalidInstanceId", "SendCommand", "not in a valid state for account")
        timeout = int(Parameters["executionTimeout"][0])
        command = Command(
            str(uuid.uuid4()),
            machine.id,
            Comment,
            self.now,
            self.now + self.job_seconds,
            self.job_code,
            timeout,
            "\n".join(Parameters["commands"]),
            launched=machine.launched,
        )
        self.commands[command.id] = command
        return {"Command": {"CommandId": command.id}}

    def _get_command_invocation(self, CommandId: str, InstanceId: str) -> Any:
        command = self.commands.get(CommandId)
        if command is None or self.now < command.sent + 0.5:
            raise aws_error("InvocationDoesNotExist", "GetCommandInvocation")
        self._turn()
        ended = command.status in ("Success", "Failed")
        return {
            "Status": command.status,
            "StatusDetails": command.details,
            "ResponseCode": command.code if ended else -1,
            "StandardOutputContent": "",
            "StandardErrorContent": "",
        }

    def _list_command_invocations(self, InstanceId: str, Filters: Any = ()) -> Any:
        statuses = [query["value"] for query in Filters if query["key"] == "Status"]
        moments = [query["value"].replace("Z", "+00:00") for query in Filters if query["key"] == "InvokedAfter"]
        after = [datetime.fromisoformat(moment) for moment in moments]
        return {
            "CommandInvocations": [
                {
                    "CommandId": command.id,
                    "Comment": command.comment,
                    "Status": command.status,
                    "RequestedDateTime": datetime.fromtimestamp(command.sent, timezone.utc),
                }
                for command in self.commands.values()
                if command.instance == InstanceId
                and (not statuses or command.status in statuses)
                and all(command.sent >= moment.timestamp() for moment in after)
            ]
        }

    def _cancel_command(self, CommandId: str, InstanceIds: list[str]) -> Any:
        command = self.commands[CommandId]
        if command.status in ("Pending", "InProgress"):
            command.status = command.details = "Cancelled"
        return {}

    def _decode_authorization_message(self, EncodedMessage: str) -> Any:
        return {"DecodedMessage": f"decoded:{EncodedMessage}"}

    # --- S3 ---

    def _headers(self) -> dict[str, str]:
        return {"date": formatdate(self.now, usegmt=True)}

    def _answer(self, **more: Any) -> Any:
        return {"ResponseMetadata": {"HTTPHeaders": self._headers()}, **more}

    def _get_object(self, Bucket: str, Key: str, **_: Any) -> Any:
        if Key not in self.objects:
            raise aws_error("NoSuchKey", "GetObject", headers=self._headers())
        body, etag, metadata = self.objects[Key]
        return self._answer(Body=io.BytesIO(body), ETag=etag, Metadata=metadata)

    def _put_object(
        self,
        Bucket: str,
        Key: str,
        Body: bytes,
        IfMatch: str | None = None,
        IfNoneMatch: str | None = None,
        Metadata: dict[str, str] | None = None,
        **_: Any,
    ) -> Any:
        present = self.objects.get(Key)
        if (IfNoneMatch and present is not None) or (IfMatch and (present is None or present[1] != IfMatch)):
            raise aws_error("PreconditionFailed", "PutObject", headers=self._headers())
        self.objects[Key] = (Body, hashlib.sha256(Body).hexdigest(), Metadata or {})
        return self._answer(ETag=self.objects[Key][1])

    def _list_objects_v2(self, Bucket: str, Prefix: str, Delimiter: str = "") -> Any:
        keys = [key for key in self.objects if key.startswith(Prefix)]
        if not Delimiter:
            return {"Contents": [{"Key": key} for key in keys]}
        folders = {Prefix + key.removeprefix(Prefix).split("/")[0] + "/" for key in keys}
        return {"CommonPrefixes": [{"Prefix": folder} for folder in sorted(folders)]}


class Killed(BaseException):
    """The process is dead: it makes no further call."""


class VirtualProcess(threading.Thread):
    """A process of the pipeline, in a thread that stands still before each call to AWS and in each sleep.

    It moves when it is told to. Killed, it makes no further call, as after SIGKILL: no `finally` has any effect.
    """

    def __init__(
        self, cloud: VirtualCloud, settings: RunnerSettings, work: Callable[[InstanceRunner], Any], *, skew: float = 0.0
    ) -> None:
        super().__init__(daemon=True)
        self._cloud = cloud
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._work = work
        self._patience = settings.lease.ttl / 2
        self.runner = cloud.runner(settings, skew=skew, gate=self._call, sleep=self._sleep)
        self.waits_for: str | None = "start"
        # Stood still for so long that its lease was over: then even a job that lives may end with a sentence.
        self.starved = False
        self.moved_at = cloud.now
        self.wakes_at = 0.0
        self.dead = False
        self.holder = ""
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        self._go.acquire()
        try:
            if not self.dead:
                self.result = self._work(self.runner)
        except BaseException as error:
            self.error = error
        self.waits_for = None
        self._back.release()

    def move(self) -> None:
        """Let it go on to its next call, sleep or end."""
        self.starved = self.starved or self._cloud.now - self.moved_at > self._patience
        self.moved_at = self._cloud.now
        self._go.release()
        assert self._back.acquire(timeout=20), "the process neither ended nor called nor slept"

    def kill(self) -> None:
        self.dead = True
        while self.waits_for is not None:
            self.move()

    @property
    def can_move(self) -> bool:
        return self.waits_for is not None and (self.waits_for != "sleep" or self._cloud.now >= self.wakes_at)

    def _stand_still(self, reason: str) -> None:
        if self.dead:
            raise Killed
        self.waits_for = reason
        self._back.release()
        self._go.acquire()
        if self.dead:
            raise Killed

    def _call(self, operation: str) -> None:
        self._stand_still(operation)

    def _sleep(self, seconds: float) -> None:
        self.wakes_at = self._cloud.now + seconds
        self._stand_still("sleep")


def run_together(processes: list[VirtualProcess], cloud: VirtualCloud) -> None:
    """Let them work side by side, call by call, until all have ended; time passes when all sleep."""
    while any(process.waits_for is not None for process in processes):
        moving = [process for process in processes if process.can_move]
        for process in moving:
            process.move()
        if not moving:
            cloud.pass_time(min(process.wakes_at for process in processes if process.waits_for == "sleep") - cloud.now)


def _camel(name: str) -> str:
    return re.sub(r"(?:^|_)([a-z])", lambda match: match[1].upper(), name).replace("V2", "V2")
