"""Grafts onto moto's SSM: Run Command for real, and the actions that moto does not have.

moto finds an action by the name of a method on its response class; these replace or add such methods. An error must be
an `SSMException`: moto looks up the service's model by the module of the exception.
"""

import datetime as dt
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ssm.exceptions import SSMException
from moto.ssm.responses import SimpleSystemManagerResponse

from lightly_pipeline.sandbox.aws.commands import DOCUMENT, PLUGIN, Command, Invocation
from lightly_pipeline.sandbox.aws.grafts import Grafts

if TYPE_CHECKING:
    from lightly_pipeline.sandbox.aws.cloud import Cloud
    from lightly_pipeline.sandbox.aws.machine import Machine

_PARAMETERS = {"commands", "workingDirectory", "executionTimeout"}
_DEFAULT_LOG_GROUP = "/aws/ssm/AWS-RunShellScript"


def graft(grafts: Grafts, cloud: "Cloud") -> None:
    """Make moto's SSM that of `cloud` until `grafts` is undone."""
    actions = _Actions(cloud)

    def method(action: Callable[[Any], ActionResult]) -> Callable[[Any], ActionResult]:
        # A plain function: moto looks for those only.
        return lambda response: action(response._get_param)

    for name, action in (
        ("describe_instance_information", actions.describe_instance_information),
        ("get_connection_status", actions.get_connection_status),
        ("send_command", actions.send_command),
        ("get_command_invocation", actions.get_command_invocation),
        ("list_commands", actions.list_commands),
        ("list_command_invocations", actions.list_command_invocations),
        ("cancel_command", actions.cancel_command),
    ):
        grafts.replace(SimpleSystemManagerResponse, name, method(action))


class _Actions:
    """SSM's actions on instances and commands. `param(name, default)` reads a request parameter."""

    def __init__(self, cloud: "Cloud") -> None:
        self._cloud = cloud

    # The fleet.

    def describe_instance_information(self, param: Callable[..., Any]) -> ActionResult:
        """The instances whose agent has been heard since they were started; a stopped one is absent."""
        wanted: dict[str, list[str]] = {}
        for entry in param("Filters", []):
            wanted[entry["Key"]] = entry["Values"]
        for entry in param("InstanceInformationFilterList", []):
            wanted[entry["key"]] = entry["valueSet"]
        with self._cloud.lock:
            found = [
                self._information(machine)
                for machine in self._cloud.machines.values()
                if self._ping_status(machine) is not None and self._matches(machine, wanted)
            ]
        page, token = _page(found, param, largest=50)
        return ActionResult({"InstanceInformationList": page, **token})

    def get_connection_status(self, param: Callable[..., Any]) -> ActionResult:
        """Whether an agent is online now."""
        target = param("Target")
        with self._cloud.lock:
            machine = self._cloud.machines.get(target)
            online = machine is not None and self._ping_status(machine) == "Online"
        return ActionResult({"Target": target, "Status": "connected" if online else "notconnected"})

    def _ping_status(self, machine: "Machine") -> str | None:
        return self._ping(machine)[0]

    def _ping(self, machine: "Machine") -> tuple[str | None, float]:
        """The ping status and the clock's time of the last ping."""
        if machine.power.state in ("pending", "running") and machine.agent is not None:
            last = machine.agent.last_ping
            if last is not None and machine.power.state == "running":
                return machine.agent.ping_status, last
            if machine.last_heard is not None and self._cloud.faults.is_set("agent_remembered", machine.id):
                return "Online", machine.last_heard
        return None, 0.0

    def _information(self, machine: "Machine") -> dict[str, Any]:
        status, last = self._ping(machine)
        silence = self._cloud.clock() - last
        return {
            "InstanceId": machine.id,
            "PingStatus": status,
            "LastPingDateTime": self._cloud.now() - dt.timedelta(seconds=silence),
            "AgentVersion": "3.3.2299.0",
            "IsLatestVersion": True,
            "PlatformType": "Linux",
            "PlatformName": "Ubuntu",
            "PlatformVersion": "24.04",
            "ResourceType": "EC2Instance",
            "IPAddress": machine.record.private_ip,
            "ComputerName": machine.record.private_dns_name,
            "SourceId": machine.id,
            "SourceType": "AWS::EC2::Instance",
        }

    def _matches(self, machine: "Machine", wanted: dict[str, list[str]]) -> bool:
        for key, values in wanted.items():
            if key == "InstanceIds":
                have = {machine.id}
            elif key in ("PingStatus", "PingStatuses"):
                have = {str(self._ping_status(machine))}
            elif key in ("ResourceType", "ResourceTypes"):
                have = {"EC2Instance"}
            elif key in ("PlatformType", "PlatformTypes"):
                have = {"Linux"}
            elif key.startswith("tag:"):
                have = {tag["value"] for tag in machine.record.get_tags() if tag["key"] == key[4:]}
            else:
                raise SSMException("InvalidInstanceInformationFilterValue", f"The filter {key} is not valid.")
            if have.isdisjoint(values):
                return False
        return True

    # Commands.

    def send_command(self, param: Callable[..., Any]) -> ActionResult:
        """Accept a command for the named instances, all of which must be online."""
        document = str(param("DocumentName"))
        if document.rpartition("/")[2] != DOCUMENT:
            raise SSMException("InvalidDocument", f"Document with name {document} does not exist.")
        parameters = _checked_parameters(param("Parameters", {}))
        timeout = int(param("TimeoutSeconds") or 3600)
        if not 30 <= timeout <= 2_592_000:
            raise SSMException("ValidationException", "TimeoutSeconds must be between 30 and 2592000.")
        comment = param("Comment", "")
        if len(comment) > 100:
            raise SSMException("ValidationException", "Comment must have at most 100 characters.")
        logs = param("CloudWatchOutputConfig", {})
        targets = param("Targets", [])
        command = Command(
            document=document,
            parameters=parameters,
            comment=comment,
            timeout_seconds=timeout,
            requested=self._cloud.now(),
            bucket=param("OutputS3BucketName", ""),
            prefix=param("OutputS3KeyPrefix", ""),
            log_group=(logs.get("CloudWatchLogGroupName") or _DEFAULT_LOG_GROUP)
            if logs.get("CloudWatchOutputEnabled")
            else None,
            targets=targets,
            max_concurrency=param("MaxConcurrency", "50"),
            max_errors=param("MaxErrors", "0"),
            timeout_scale=self._cloud.timings.timeout_scale,
        )
        with self._cloud.lock:
            for instance_id in self._recipients(param("InstanceIds", []), targets):
                command.invocations[instance_id] = Invocation(instance_id)
            self._cloud.add_command(command)
            return ActionResult({"Command": command.description()})

    def get_command_invocation(self, param: Callable[..., Any]) -> ActionResult:
        """One invocation, some moments after it was sent."""
        with self._cloud.lock:
            command = self._command(param("CommandId"))
            invocation = command.invocations.get(param("InstanceId"))
            if (
                invocation is None
                or param("PluginName") not in (None, PLUGIN, "aws:runShellScript")
                or not self._visible(command)
            ):
                raise SSMException(
                    "InvocationDoesNotExist",
                    "The command ID and managed node ID you specified did not match any "
                    "invocations. Verify the command ID and the managed node ID and try again.",
                )
            return ActionResult(command.invocation_result(invocation))

    def list_commands(self, param: Callable[..., Any]) -> ActionResult:
        """Commands, newest first."""
        with self._cloud.lock:
            found = [
                command.description()
                for command in self._cloud.settled_commands()
                if param("CommandId") in (None, command.command_id)
                and (param("InstanceId") is None or param("InstanceId") in command.invocations)
                and _passes(param("Filters", []), command, command.status)
            ]
        if param("CommandId") is not None and not found:
            raise SSMException("InvalidCommandId", f"The command ID {param('CommandId')} is not valid.")
        page, token = _page(found, param, largest=50)
        return ActionResult({"Commands": page, **token})

    def list_command_invocations(self, param: Callable[..., Any]) -> ActionResult:
        """Invocations, newest first; with Details their short output."""
        with self._cloud.lock:
            if param("CommandId") is not None:
                self._command(param("CommandId"))
            found = [
                command.invocation_description(invocation, details=bool(param("Details", False)))
                for command in self._cloud.settled_commands()
                if param("CommandId") in (None, command.command_id) and self._visible(command)
                for invocation in command.invocations.values()
                if param("InstanceId") in (None, invocation.instance_id)
                and _passes(param("Filters", []), command, invocation.status)
            ]
        page, token = _page(found, param, largest=50)
        return ActionResult({"CommandInvocations": page, **token})

    def cancel_command(self, param: Callable[..., Any]) -> ActionResult:
        """Kill the command where it runs, forget it where it waits; one that is over stays as it is."""
        with self._cloud.lock:
            command = self._command(param("CommandId"))
            for instance_id in param("InstanceIds", []) or list(command.invocations):
                invocation = command.invocations.get(instance_id)
                if invocation is None:
                    raise SSMException("InvalidInstanceId", f"The command was not sent to {instance_id}.")
                if invocation.status == "Pending":
                    invocation.finish("Cancelled", "Cancelled", -1, self._cloud.now())
                elif invocation.status == "InProgress":
                    invocation.status = invocation.details = "Cancelling"
                    agent = self._cloud.machine(instance_id).agent
                    if agent is not None:
                        # It kills it as soon as it hears of it.
                        agent.notice()
        return EmptyResult()

    def _command(self, command_id: str) -> Command:
        command = self._cloud.commands.get(command_id)
        if command is None:
            raise SSMException("InvalidCommandId", f"The command ID {command_id} is not valid.")
        command.settle(self._cloud.now())
        return command

    def _visible(self, command: Command) -> bool:
        age = (self._cloud.now() - command.requested).total_seconds()
        return age >= self._cloud.timings.invocation_visible

    def _recipients(self, instance_ids: list[str], targets: list[dict[str, Any]]) -> list[str]:
        online = {machine.id for machine in self._cloud.machines.values() if self._ping_status(machine) == "Online"}
        if targets:
            wanted = {target["Key"]: target["Values"] for target in targets}
            return [
                machine.id
                for machine in self._cloud.machines.values()
                if machine.id in online and self._matches(machine, wanted)
            ]
        if not instance_ids:
            raise SSMException("InvalidInstanceId", "InstanceIds or Targets must be given.")
        absent = [instance_id for instance_id in instance_ids if instance_id not in online]
        if absent:
            raise SSMException(
                "InvalidInstanceId",
                f"Instances [[{', '.join(absent)}]] not in a valid state for account {self._cloud.account}",
            )
        return list(dict.fromkeys(instance_ids))


def _checked_parameters(parameters: Any) -> dict[str, list[str]]:
    if not isinstance(parameters, dict) or set(parameters) - _PARAMETERS:
        unknown = sorted(set(parameters) - _PARAMETERS) if isinstance(parameters, dict) else [repr(parameters)]
        raise SSMException("InvalidParameters", f"Invalid parameters for document {DOCUMENT}: {', '.join(unknown)}.")
    if not parameters.get("commands"):
        raise SSMException("InvalidParameters", "Parameter commands is required.")
    for name, values in parameters.items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise SSMException("InvalidParameters", f"Parameter {name} must be a list of strings.")
    return parameters


def _passes(filters: Iterable[dict[str, str]], command: Command, status: str) -> bool:
    for entry in filters:
        key, value = entry["key"], entry["value"]
        if key == "Status":
            passes = status == value
        elif key == "DocumentName":
            passes = command.document == value
        elif key == "ExecutionStage":
            over = all(invocation.over for invocation in command.invocations.values())
            passes = (value == "Complete") == over
        elif key in ("InvokedAfter", "InvokedBefore"):
            moment = dt.datetime.fromisoformat(value.replace("Z", "+00:00"))
            passes = command.requested >= moment if key == "InvokedAfter" else command.requested < moment
        else:
            raise SSMException("InvalidFilterKey", f"The filter {key} is not valid.")
        if not passes:
            return False
    return True


def _page(entries: list[Any], param: Callable[..., Any], *, largest: int) -> tuple[list[Any], dict[str, str]]:
    """One page and, if more follow, the token for the next."""
    start = int(param("NextToken") or 0)
    size = min(int(param("MaxResults") or largest), largest)
    more = len(entries) > start + size
    return entries[start : start + size], ({"NextToken": str(start + size)} if more else {})
