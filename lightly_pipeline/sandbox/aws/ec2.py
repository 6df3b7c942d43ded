"""Grafts onto moto's EC2: instances that take time, refuse what AWS refuses, and have a machine behind them.

moto changes an instance's state at once and allows everything. Here `Instance._state`, from which moto reads the state
everywhere, asks the machine, and the four actions that change it check first and act then, all ids or none.
"""

import datetime as dt
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import Instance, InstanceBackend, InstanceState, StateReason
from moto.ec2.responses.instances import InstanceResponse

from lightly_pipeline.sandbox.aws.grafts import Grafts
from lightly_pipeline.sandbox.aws.power import CODES

if TYPE_CHECKING:
    from lightly_pipeline.sandbox.aws.cloud import Cloud
    from lightly_pipeline.sandbox.aws.machine import Machine

IMAGE = "ami-05a9db0c000000001"
INSTANCE_TYPE = "g4dn.xlarge"
_ID = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_USER_SHUTDOWN = StateReason("Client.UserInitiatedShutdown: User initiated shutdown", "Client.UserInitiatedShutdown")
_OWN_SHUTDOWN = StateReason(
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown", "Client.InstanceInitiatedShutdown"
)


def graft(grafts: Grafts, cloud: "Cloud") -> None:
    """Make moto's EC2 that of `cloud` until `grafts` is undone."""

    def get_state(instance: Any) -> InstanceState:
        state = cloud.machine(instance.id).state
        return InstanceState(state, CODES[state])

    def set_state(instance: Any, _: InstanceState) -> None:
        # Only Instance.__init__ assigns: RunInstances has begun, and the machine does not exist yet, unless it is
        # one that the sandbox put there stopped.
        with cloud.lock:
            if instance.id in cloud.machines:
                machine = cloud.machines[instance.id]
            else:
                machine = cloud.add_machine(instance.id, "stopped")
                machine.start()
            machine.record = instance

    grafts.replace(Instance, "_state", property(get_state, set_state))

    actions = _Actions(cloud)
    for name, method in (
        ("start_instances", lambda response: actions.start(response)),
        ("stop_instances", lambda response: actions.stop(response)),
        ("reboot_instances", lambda response: actions.reboot(response)),
        ("terminate_instances", lambda response: actions.terminate(response)),
    ):
        grafts.replace(InstanceResponse, name, method)

    for name in ("get_multi_instances_by_id", "get_reservations_by_instance_ids"):
        _check_ids_first(grafts, name, lambda ids: ids)
    _check_ids_first(grafts, "get_instance", lambda instance_id: [instance_id])


def run_stopped(backend: Any, name: str) -> None:
    """Put an instance into moto's records; its machine exists already."""
    backend.run_instances(
        image_id=IMAGE,
        count=1,
        user_data=None,
        security_group_names=[],
        instance_type=INSTANCE_TYPE,
        is_instance_type_default=False,
        instance_initiated_shutdown_behavior="stop",
        tags={"instance": {"Name": name, "lightly:pool": "sandbox"}},
    )


def note_stop(machine: "Machine", *, from_inside: bool) -> None:
    """Write into the instance's record why it stops, as DescribeInstances shows it."""
    instance = machine.record
    stamp = dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S GMT")
    instance._reason = "" if from_inside else f"User initiated ({stamp})"
    instance.state_reason = _OWN_SHUTDOWN if from_inside else _USER_SHUTDOWN
    for nic in instance.nics.values():
        nic.stop()


class _Actions:
    """The four actions that change an instance's state."""

    def __init__(self, cloud: "Cloud") -> None:
        self._cloud = cloud

    def start(self, response: Any) -> ActionResult:
        """StartInstances: from stopped; a running or pending one is left as it is."""

        def begin(machine: "Machine") -> None:
            if machine.state != "stopped":
                return
            instance = machine.record
            for nic in instance.nics.values():
                nic.start()
            instance._reason, instance.state_reason = "", StateReason()
            # Naive, as moto's own times are.
            instance.launch_time = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
            machine.start()

        return self._change(response, "started", "StartingInstances", ("stopped", "pending", "running"), begin)

    def stop(self, response: Any) -> ActionResult:
        """StopInstances: from running; with Force also one that hangs in stopping; never a pending one."""
        force = bool(response._get_param("Force", False))

        def begin(machine: "Machine") -> None:
            if machine.state == "running" or (force and machine.state == "stopping"):
                note_stop(machine, from_inside=False)
                machine.stop(force=force)

        return self._change(response, "stopped", "StoppingInstances", ("running", "stopping", "stopped"), begin)

    def reboot(self, response: Any) -> ActionResult:
        """RebootInstances: of running ones."""
        self._change(response, "rebooted", "", ("running",), lambda machine: machine.reboot())
        return EmptyResult()

    def terminate(self, response: Any) -> ActionResult:
        """TerminateInstances: from any state."""

        def begin(machine: "Machine") -> None:
            if machine.state not in ("shutting-down", "terminated"):
                note_stop(machine, from_inside=False)
                machine.record.teardown_defaults()
                machine.terminate()

        return self._change(response, "terminated", "TerminatingInstances", tuple(CODES), begin)

    def _change(
        self,
        response: Any,
        participle: str,
        result: str,
        allowed: tuple[str, ...],
        begin: Callable[["Machine"], None],
    ) -> ActionResult:
        ids = response._get_param("InstanceIds", [])
        instances = response.ec2_backend.get_multi_instances_by_id(ids)
        response.error_on_dryrun()
        with self._cloud.lock:
            machines = [self._cloud.machine(instance.id) for instance in instances]
            for machine, instance in zip(machines, instances, strict=True):
                self._check(machine, participle, allowed, instance)
            before = [machine.state for machine in machines]
            for machine in machines:
                begin(machine)
            return ActionResult(
                {
                    result: [
                        {
                            "InstanceId": machine.id,
                            "CurrentState": InstanceState(machine.state, CODES[machine.state]),
                            "PreviousState": InstanceState(previous, CODES[previous]),
                        }
                        for machine, previous in zip(machines, before, strict=True)
                    ]
                }
            )

    def _check(self, machine: "Machine", participle: str, allowed: tuple[str, ...], instance: Any) -> None:
        if machine.state not in allowed:
            raise EC2ClientError(
                "IncorrectInstanceState",
                f"The instance '{machine.id}' is not in a state from which it can be {participle}.",
            )
        if participle == "stopped" and instance.disable_api_stop:
            raise EC2ClientError(
                "OperationNotPermitted",
                f"The instance '{machine.id}' may not be stopped. Modify its 'disableApiStop' instance attribute and "
                "try again.",
            )
        if participle == "terminated" and instance.disable_api_termination:
            raise EC2ClientError(
                "OperationNotPermitted",
                f"The instance '{machine.id}' may not be terminated. Modify its 'disableApiTermination' instance "
                "attribute and try again.",
            )


def _check_ids_first(grafts: Grafts, name: str, ids_of: Callable[[Any], list[str]]) -> None:
    original = getattr(InstanceBackend, name)

    def checked(backend: Any, ids: Any, *arguments: Any, **options: Any) -> Any:
        for instance_id in ids_of(ids):
            if not _ID.fullmatch(instance_id):
                raise EC2ClientError("InvalidInstanceID.Malformed", f'Invalid id: "{instance_id}"')
        return original(backend, ids, *arguments, **options)

    grafts.replace(InstanceBackend, name, checked)
