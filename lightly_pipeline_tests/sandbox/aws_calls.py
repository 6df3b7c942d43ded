"""Short ways to say in a test what happens on the sandbox's AWS, all through boto3."""

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import boto3

T = TypeVar("T")


def until(look: Callable[[], T], *, seconds: float = 15.0) -> T:
    """What `look` returns as soon as that is true; an AssertionError when `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not within {seconds} s, last seen: {seen!r}"
        time.sleep(0.02)


@functools.cache
def _session() -> boto3.session.Session:
    # One for all: each session reads the services' models anew, which takes longer than many a test.
    return boto3.session.Session()


class Aws:
    """Clients of a sandbox and the few steps that most tests begin with."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self.bucket = environment["LIGHTLY_BUCKET"]
        self.instance = environment["LIGHTLY_INSTANCES"].split(",")[0]
        self._clients: dict[str, Any] = {}

    @property
    def ec2(self) -> Any:
        return self._client("ec2")

    @property
    def ssm(self) -> Any:
        return self._client("ssm")

    @property
    def s3(self) -> Any:
        return self._client("s3")

    @property
    def logs(self) -> Any:
        return self._client("logs")

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = _session().client(
                service,
                endpoint_url=self._environment["AWS_ENDPOINT_URL"],
                aws_access_key_id=self._environment["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=self._environment["AWS_SECRET_ACCESS_KEY"],
                region_name=self._environment["AWS_REGION"],
            )
        return self._clients[service]

    def description(self, instance: str | None = None) -> dict[str, Any]:
        found = self.ec2.describe_instances(InstanceIds=[instance or self.instance])
        return found["Reservations"][0]["Instances"][0]

    def state(self, instance: str | None = None) -> str:
        return self.description(instance)["State"]["Name"]

    def start(self, instance: str | None = None) -> None:
        """Start and wait until the agent is online."""
        instance = instance or self.instance
        until(lambda: self.state(instance) in ("stopped", "running"))
        self.ec2.start_instances(InstanceIds=[instance])
        until(lambda: self.ping(instance) == "Online")

    def stop(self, instance: str | None = None) -> None:
        """Stop, from whatever state, and wait until it is."""
        instance = instance or self.instance
        until(lambda: self.state(instance) != "pending")
        self.ec2.stop_instances(InstanceIds=[instance], Force=True)
        until(lambda: self.state(instance) == "stopped")

    def ping(self, instance: str | None = None) -> str | None:
        found = self.ssm.describe_instance_information(
            Filters=[{"Key": "InstanceIds", "Values": [instance or self.instance]}]
        )["InstanceInformationList"]
        return found[0]["PingStatus"] if found else None

    def send(self, *lines: str, instance: str | None = None, **options: Any) -> str:
        """Send lines to run; keyword `executionTimeout` is the document's parameter, others are SendCommand's."""
        parameters = {"commands": list(lines)}
        if "executionTimeout" in options:
            parameters["executionTimeout"] = [options.pop("executionTimeout")]
        command = self.ssm.send_command(
            InstanceIds=[instance or self.instance],
            DocumentName="AWS-RunShellScript",
            Parameters=parameters,
            **options,
        )
        return command["Command"]["CommandId"]

    def invocation(self, command: str, instance: str | None = None) -> dict[str, Any]:
        """GetCommandInvocation once it is visible."""

        def look() -> dict[str, Any] | None:
            try:
                return self.ssm.get_command_invocation(CommandId=command, InstanceId=instance or self.instance)
            except self.ssm.exceptions.InvocationDoesNotExist:
                return None

        return until(look)

    def reaches(self, command: str, *statuses: str, instance: str | None = None) -> dict[str, Any]:
        """The invocation when its status is one of `statuses`."""
        until(lambda: self.invocation(command, instance)["Status"] in statuses)
        return self.invocation(command, instance)

    def result(self, command: str, instance: str | None = None) -> dict[str, Any]:
        """The invocation when it is over."""
        return self.reaches(command, "Success", "Failed", "Cancelled", "TimedOut", instance=instance)
