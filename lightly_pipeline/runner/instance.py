"""One EC2 instance through its six states: start it, wait until a command can run on it, stop it.

`pending`, `running`, `stopping`, `stopped`, `shutting-down`, `terminated`. Starting and stopping never act on
what a call answered but on what EC2 says next: refused in one state means wait and look again, not failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from lightly_pipeline.runner.aws import WRONG_STATE, Clients, code_of, is_passing, said_plainly
from lightly_pipeline.runner.clock import CALLS_A_SECOND, STARTING, Clock, ticks
from lightly_pipeline.runner.errors import ConfigurationError, InstanceGone, NotReady, TransientError

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

GONE_STATES = frozenset({"shutting-down", "terminated"})
STOPPED_STATES = frozenset({"stopping", "stopped", *GONE_STATES})
# The sensor leaves a running instance with this tag alone: for whoever works on it by hand.
KEEP_TAG = "lightly:keep"


@dataclass(frozen=True)
class Seen:
    """An instance as EC2 describes it; `launched` is its last start, in seconds since 1970."""

    id: str
    state: str
    launched: float | None = None
    type: str = ""
    name: str = ""
    kept: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Deadlines:
    """Seconds that each wait may take."""

    start: float = 300.0
    agent: float = 300.0
    # EC2 does not bill `stopping`; when it takes longer than this the stop is forced.
    stopping: float = 600.0
    capacity: float = 600.0


@dataclass
class Instances:
    """The instances that the runner may start and stop: listed ids in order of preference, or those with a tag.

    `jobs_each` is how many jobs may look at the same instance at a time.
    """

    clients: Clients
    ids: Sequence[str] = ()
    tag: tuple[str, str] | None = None
    clock: Clock = field(default_factory=Clock)
    deadlines: Deadlines = field(default_factory=Deadlines)
    jobs_each: int = 1
    _seen: int = 1

    @classmethod
    def from_text(
        cls, text: str, clients: Clients, clock: Clock, deadlines: Deadlines, jobs_each: int = 1
    ) -> Instances:
        """Read LIGHTLY_INSTANCES: ids separated by commas or spaces, or one `tag:Name=value`."""
        if text.startswith("tag:"):
            name, equals, value = text.removeprefix("tag:").partition("=")
            if not name or not equals:
                raise ConfigurationError(f"{text!r} is no tag filter: write tag:Name=value.")
            return cls(clients, tag=(name, value), clock=clock, deadlines=deadlines, jobs_each=jobs_each)
        ids = list(dict.fromkeys(text.replace(",", " ").split()))
        wrong = [name for name in ids if not name.startswith("i-")]
        if not ids or wrong:
            raise ConfigurationError(
                f"{wrong[0] if wrong else text!r} is no instance id: give ids like i-0abc separated by commas, or one "
                f"tag:Name=value."
            )
        return cls(clients, ids=ids, clock=clock, deadlines=deadlines, jobs_each=jobs_each)

    @property
    def least_pause(self) -> float:
        """Seconds between two looks of one job, so that all jobs of a full pool together keep to CALLS_A_SECOND."""
        return max(len(self.ids), self._seen) * self.jobs_each / CALLS_A_SECOND

    def describe(self) -> list[Seen]:
        """All instances of the pool, best first.

        Without those that are terminated. InstanceGone if none is left.
        """
        query: dict[str, Any] = (
            {"Filters": [{"Name": f"tag:{self.tag[0]}", "Values": [self.tag[1]]}]}
            if self.tag
            else {"Filters": [{"Name": "instance-id", "Values": list(self.ids)}]}
        )
        found: dict[str, Seen] = {}
        with said_plainly("list the instances of the pool", self.clients.sts):
            for page in self.clients.ec2.get_paginator("describe_instances").paginate(**query):
                for reservation in page["Reservations"]:
                    for instance in reservation["Instances"]:
                        seen = _seen(instance)
                        found[seen.id] = seen
        order = [name for name in self.ids if name in found] if self.ids else sorted(found)
        usable = [found[name] for name in order if found[name].state not in GONE_STATES]
        if not usable:
            wanted = f"tag:{self.tag[0]}={self.tag[1]}" if self.tag else ", ".join(self.ids)
            raise InstanceGone(
                f"There is no instance {wanted} in {self.clients.region}, or it is terminated. Check "
                f"LIGHTLY_INSTANCES and the region."
            )
        self._seen = len(usable)
        return usable

    def look(self, instance_id: str, *, client: EC2Client | None = None) -> Seen:
        """One instance now; InstanceGone where EC2 does not know it."""
        with said_plainly(f"look at instance {instance_id}", self.clients.sts):
            response = (client or self.clients.ec2).describe_instances(InstanceIds=[instance_id])
        for reservation in response["Reservations"]:
            for instance in reservation["Instances"]:
                return _seen(instance)
        raise InstanceGone(f"EC2 does not know instance {instance_id}. Check LIGHTLY_INSTANCES and region.")

    def start(self, instance_id: str, tick: Callable[[], object] = lambda: None) -> Seen:
        """Bring the instance to `running`, from whatever state it is in.

        `tick` is called at every look. NotReady after `deadlines.start` seconds (waiting for an instance that
        is still stopping has its own deadline, `deadlines.stopping`); NoCapacity, QuotaExceeded,
        NotPermitted, InstanceGone as EC2 refuses.
        """
        seen = self._settled(instance_id, tick)
        for look in ticks(self.clock, STARTING, self.deadlines.start, least=self.least_pause):
            tick()
            if look.elapsed > 0:
                seen = self.look(instance_id)
            if seen.state == "running":
                return seen
            if seen.state in GONE_STATES:
                raise InstanceGone(f"Instance {instance_id} is {seen.state}: it cannot be started again.")
            if seen.state == "stopping":
                seen = self._settled(instance_id, tick)
            if seen.state == "stopped":
                self._start_call(instance_id)
        raise NotReady(
            f"Instance {instance_id} is still {seen.state} {self.deadlines.start:.0f} s after it was started"
            f"{f' ({seen.reason})' if seen.reason else ''}: look at its state and system log in the EC2 console."
        )

    def wait_for_agent(self, seen: Seen, tick: Callable[[], object] = lambda: None) -> None:
        """Wait until the SSM agent of this start is online: its last ping must be younger than the start.

        SSM does not list stopped instances at all, and lists one that has just been started as it was before.
        NotReady after `deadlines.agent` seconds; InstanceGone where the instance leaves `running` for good.
        """
        what = f"ask SSM for the agent of {seen.id}"
        looked = 0.0
        for look in ticks(self.clock, STARTING, self.deadlines.agent, least=self.least_pause):
            tick()
            with said_plainly(what, self.clients.sts, let=frozenset({"InvalidInstanceId"})):
                try:
                    answer = self.clients.ssm.describe_instance_information(
                        Filters=[{"Key": "InstanceIds", "Values": [seen.id]}]
                    )["InstanceInformationList"]
                except ClientError:
                    answer = []
            for information in answer:
                ping = information.get("LastPingDateTime")
                young = ping is None or seen.launched is None or ping.timestamp() >= seen.launched - 1.0
                online = information.get("PingStatus") == "Online"
                if information.get("InstanceId") == seen.id and online and young:
                    return
            if look.elapsed - looked < 10.0:
                continue
            looked = look.elapsed
            if self.look(seen.id).state != "running":
                raise NotReady(f"Instance {seen.id} left the state running before its SSM agent came online.")
        raise NotReady(
            f"Instance {seen.id} is running but its SSM agent has not come online in "
            f"{self.deadlines.agent:.0f} s: check "
            f"that its instance profile includes AmazonSSMManagedInstanceCore, that it can reach the SSM endpoints "
            f"(internet, NAT or VPC endpoints), and that amazon-ssm-agent is installed and running."
        )

    def stop_once(self, instance_id: str, *, force: bool = False) -> str | None:
        """Ask EC2 once to stop; the state that it is in now, or None where EC2 did not say or did not want to yet.

        Never raises for what passes: the caller repeats it until the answer is one of STOPPED_STATES.
        NotPermitted and other refusals that repeating would not cure are raised.
        """
        with said_plainly(f"stop instance {instance_id}", self.clients.sts):
            try:
                answer = self.clients.brisk_ec2.stop_instances(InstanceIds=[instance_id], Force=force)
            except (ClientError, BotoCoreError) as error:
                if code_of(error) in WRONG_STATE or is_passing(error):
                    return None
                raise
        for change in answer.get("StoppingInstances", []):
            if change.get("InstanceId") == instance_id:
                state = change.get("CurrentState", {}).get("Name")
                return state if state in STOPPED_STATES else None
        return None

    def is_stopped(self, instance_id: str) -> bool:
        """Whether EC2 says, in one quick look, that the instance is stopped or on its way there."""
        try:
            return self.look(instance_id, client=self.clients.brisk_ec2).state in STOPPED_STATES
        except InstanceGone:
            return True
        except TransientError:
            return False

    def _start_call(self, instance_id: str) -> None:
        # Brisk: botocore would repeat "no capacity", which is an HTTP 500, for minutes instead of trying
        # elsewhere.
        with said_plainly(f"start instance {instance_id}", self.clients.sts):
            try:
                self.clients.brisk_ec2.start_instances(InstanceIds=[instance_id])
            except (ClientError, BotoCoreError) as error:
                # It is not stopped any more, or not quite stopped yet, or EC2 is busy: the next look tells.
                if code_of(error) not in WRONG_STATE and not is_passing(error):
                    raise

    def _settled(self, instance_id: str, tick: Callable[[], object]) -> Seen:
        """Wait while the instance is stopping; a stop that hangs is forced once."""
        forced = False
        deadline = 2 * self.deadlines.stopping
        seen = self.look(instance_id)
        for look in ticks(self.clock, STARTING, deadline, least=self.least_pause):
            tick()
            if look.elapsed > 0:
                seen = self.look(instance_id)
            if seen.state != "stopping":
                return seen
            if look.elapsed >= self.deadlines.stopping and not forced:
                forced = self.stop_once(instance_id, force=True) is not None
        raise NotReady(
            f"Instance {instance_id} has been stopping for {deadline:.0f} s, although the stop was forced: "
            f"look at it in the EC2 console. It is not used again until it is stopped."
        )


def _seen(instance: InstanceTypeDef) -> Seen:
    launched = instance.get("LaunchTime")
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    return Seen(
        id=instance["InstanceId"],
        state=instance["State"]["Name"],
        launched=launched.timestamp() if launched is not None else None,
        type=str(instance.get("InstanceType", "")),
        name=tags.get("Name", ""),
        kept=KEEP_TAG in tags,
        reason=instance.get("StateTransitionReason", ""),
    )
