"""The embedded AWS as a whole: one account and region with its machines, commands and bucket, behind one server."""

import datetime as dt
import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import moto.backends
import moto.ec2.models.instances as moto_instances
from botocore.config import Config
from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data

from lightly_pipeline.sandbox.aws import ec2, objects, ssm
from lightly_pipeline.sandbox.aws.bucket_store import BucketStore
from lightly_pipeline.sandbox.aws.calls import CallLog
from lightly_pipeline.sandbox.aws.commands import Command, Invocation
from lightly_pipeline.sandbox.aws.faults import Faults
from lightly_pipeline.sandbox.aws.grafts import Grafts
from lightly_pipeline.sandbox.aws.jobs import Jobs
from lightly_pipeline.sandbox.aws.machine import Machine
from lightly_pipeline.sandbox.aws.server import Server
from lightly_pipeline.sandbox.errors import SandboxError
from lightly_pipeline.sandbox.timings import SandboxTimings

ACCOUNT = "123456789012"
REGION = "us-east-1"
# Not secrets: any would do, and two make the callers distinguishable.
USER_KEY = "AKIASANDBOXUSER00000"
INSTANCE_KEY = "ASIASANDBOXINSTANCE0"
SECRET = "sandbox"  # noqa: S105
# With up to 32,000 characters of output each.
_COMMANDS_KEPT = 2_000
_ID = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")

_only_one = threading.Lock()


class Cloud:
    """S3, EC2 and SSM of one sandbox. moto keeps its state per process, hence one at a time in a process."""

    def __init__(
        self,
        state_dir: Path,
        *,
        timings: SandboxTimings,
        instances: int,
        port: int | None,
        default_port: int,
        bucket: str,
        watchdog: Path | None,
        max_bytes: int,
    ) -> None:
        self.state_dir = state_dir
        self.account = ACCOUNT
        self.timings = timings
        self.bucket = bucket
        self.watchdog = watchdog
        self.clock = time.monotonic
        self.lock = threading.RLock()
        self.calls = CallLog()
        self.faults = Faults()
        self.machines: dict[str, Machine] = {}
        self.commands: OrderedDict[str, Command] = OrderedDict()
        self.instance_ids = [f"i-05a9db0c{number:09x}" for number in range(1, instances + 1)]
        self._unfinished: dict[str, dict[str, tuple[Command, Invocation]]] = {}
        self._grafts = Grafts()
        self._clients: dict[str, Any] = {}
        self._client_lock = threading.Lock()
        if not _only_one.acquire(blocking=False):
            raise SandboxError("This process already has an open sandbox: close it first, moto serves one per process.")
        try:
            _reset_moto()
            self.server = Server(self, port=port, default_port=default_port)
            self._s3 = moto.backends.get_backend("s3")[ACCOUNT]["aws"]
            self._store = BucketStore(self._s3, state_dir / "s3" / "buckets", REGION, max_bytes)
            self.jobs = Jobs()
        except BaseException:
            if hasattr(self, "server"):
                self.server.stop()
            _only_one.release()
            raise
        self._closed = False
        self.faults.on_change(self._wake_agents)

    @property
    def endpoint_url(self) -> str:
        """Where everything answers."""
        return self.server.url

    @property
    def instance_environment(self) -> dict[str, str]:
        """What stands on an instance for its region and its instance profile."""
        return {**connection_environment(self.endpoint_url), "AWS_ACCESS_KEY_ID": INSTANCE_KEY}

    def open(self) -> None:
        """Graft onto moto, start to serve, and put the instances there, stopped."""
        scratch = self.state_dir / "s3" / ".joining"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        objects.graft(self._grafts, scratch)
        ec2.graft(self._grafts, self)
        ssm.graft(self._grafts, self)
        self._store.open()
        if self.bucket not in self._s3.buckets:
            self._s3.create_bucket(self.bucket, REGION)
        for number, instance_id in enumerate(self.instance_ids, start=1):
            self._put_instance(instance_id, f"lightly-sandbox-{number}")
        self.server.start()

    def close(self) -> None:
        """Power everything off, stop serving, and leave moto as it was. May be called again."""
        if self._closed:
            return
        self._closed = True
        with self.lock:
            for machine in self.machines.values():
                machine.cancel_shutdown()
                if machine.agent is not None:
                    machine.agent.power_off()
                    machine.agent = None
        self.jobs.close()
        self.server.stop()
        self._store.close()
        self._grafts.undo()
        _reset_moto()
        _only_one.release()

    def now(self) -> dt.datetime:
        """The time of day, in UTC."""
        return dt.datetime.now(dt.timezone.utc)

    def client(self, service: str) -> Any:
        """A boto3 client with the instance profile's credentials, for what the agent does."""
        with self._client_lock:
            if service not in self._clients:
                session: Any = boto3.session.Session(
                    aws_access_key_id=INSTANCE_KEY, aws_secret_access_key=SECRET, region_name=REGION
                )
                self._clients[service] = session.client(
                    service,
                    endpoint_url=self.endpoint_url,
                    config=Config(proxies={}, retries={"max_attempts": 3}),
                )
            return self._clients[service]

    def stored(self, operation: str, place: tuple[str, str]) -> None:
        """A request that writes to S3 has been carried out, and is about to be answered."""
        if operation == "UploadPart":
            # The one that is frequent and changes no object.
            return
        self._store.save(*place)

    def find_object(self, bucket: str, key: str) -> Any | None:
        """moto's object at a key, or None."""
        found = self._s3.buckets.get(bucket)
        return None if found is None else found.keys.get(key)

    @property
    def notices(self) -> list[str]:
        """Sentences about what could not be kept."""
        return self._store.notices

    # Machines.

    def machine(self, instance_id: str) -> Machine:
        """The machine of an instance; made when EC2 first speaks of it."""
        with self.lock:
            return self.machines[instance_id]

    def add_machine(self, instance_id: str, state: str) -> Machine:
        """A new machine with its disk under the state folder."""
        if not _ID.fullmatch(instance_id):
            raise ValueError(f"{instance_id!r} is no instance id.")
        with self.lock:
            folder = self.state_dir / "instances" / instance_id
            folder.mkdir(parents=True, exist_ok=True)
            machine = Machine(self, instance_id, folder, state=state)
            self.machines[instance_id] = machine
            return machine

    def note_stop(self, machine: Machine, *, from_inside: bool) -> None:
        """Note in EC2's record that the instance stops, and whether its own operating system wanted it."""
        ec2.note_stop(machine, from_inside=from_inside)

    def _put_instance(self, instance_id: str, name: str) -> None:
        backend = moto.backends.get_backend("ec2")[ACCOUNT][REGION]
        with Grafts() as grafts:
            self.add_machine(instance_id, "stopped")
            grafts.replace(moto_instances, "random_instance_id", lambda: instance_id)
            ec2.run_stopped(backend, name)

    def _wake_agents(self) -> None:
        with self.lock:
            for machine in self.machines.values():
                if machine.agent is not None:
                    machine.agent.notice()

    # Commands.

    def add_command(self, command: Command) -> None:
        """Accept a command and tell the agents it is for; the oldest records go when there are too many."""
        with self.lock:
            self.commands[command.command_id] = command
            lost = self.faults.lose_command()
            for instance_id, invocation in command.invocations.items():
                invocation.lost = lost
                self._unfinished.setdefault(instance_id, {})[command.command_id] = (command, invocation)
                agent = self.machines[instance_id].agent
                if agent is not None:
                    agent.notice()
            while len(self.commands) > _COMMANDS_KEPT:
                self.commands.popitem(last=False)

    def invocations_of(self, instance_id: str) -> list[tuple[Command, Invocation]]:
        """The unfinished invocations on an instance, oldest first. Called under the lock."""
        mine = self._unfinished.get(instance_id, {})
        now = self.now()
        for command_id, (command, invocation) in list(mine.items()):
            command.settle(now)
            if invocation.over:
                del mine[command_id]
        return list(mine.values())

    def settled_commands(self) -> Iterator[Command]:
        """All known commands, newest first, their deadlines taken into account. Called under the lock."""
        now = self.now()
        for command in reversed(self.commands.values()):
            command.settle(now)
            yield command


def connection_environment(endpoint_url: str) -> dict[str, str]:
    """The variables by which boto3, the AWS CLI and s3fs find this cloud and nothing else."""
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": USER_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        # A proxy of the user's is not for 127.0.0.1.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def _reset_moto() -> None:
    BackendDict.reset()
    reset_model_data()
