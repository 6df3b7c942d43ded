"""A world to run commands in, as a user does: an open sandbox, a DAGSTER_HOME, and a shell."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import dagster as dg

from lightly_pipeline.sandbox import Sandbox
from lightly_pipeline.storage import VideoBucket

BIN = Path(sys.executable).parent


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class World:
    """The sandbox with a DAGSTER_HOME of its own."""

    sandbox: Sandbox
    home: Path
    environment: dict[str, str]
    clients: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, sandbox: Sandbox, home: Path, **environment: str) -> "World":
        """A world whose commands find `sandbox` and `home`, and further variables."""
        merged = {
            **os.environ,
            **sandbox.environment,
            "DAGSTER_HOME": str(home),
            "LIGHTLY_SETTLE_SECONDS": "0",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            **environment,
        }
        return cls(sandbox, home, merged)

    def run(self, *command, without=(), timeout=180, cwd=None, **environment):
        """Run a command of this Python's environment to its end."""
        merged = {**self.environment, **environment}
        for name in without:
            merged.pop(name, None)
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=merged,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd or self.home.parent,
        )

    def start(self, *command, **options):
        """Start a command in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            text=True,
            start_new_session=True,
            # Whoever runs the tests in the background has them ignore Ctrl-C, and children inherit that.
            preexec_fn=_hear_interrupts,
            cwd=self.home.parent,
            **{"env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options},
        )

    def instance(self):
        return dg.DagsterInstance.from_config(str(self.home))

    @property
    def bucket(self):
        return VideoBucket(self.client("s3"), self.sandbox.bucket)

    def client(self, service):
        """A boto3 client, made once: that takes longer than most calls."""
        if service not in self.clients:
            self.clients[service] = boto3.client(
                service,
                endpoint_url=self.environment["AWS_ENDPOINT_URL"],
                region_name="us-east-1",
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
        return self.clients[service]

    def instance_states(self):
        answer = self.client("ec2").describe_instances(InstanceIds=list(self.sandbox.instance_ids))
        return {
            machine["InstanceId"]: machine["State"]["Name"]
            for reservation in answer["Reservations"]
            for machine in reservation["Instances"]
        }

    def settled_states(self):
        """The instances' states once none is on its way to another: a run ends when its stop is accepted."""
        deadline = time.monotonic() + 30
        while not set((states := self.instance_states()).values()) <= {"running", "stopped"}:
            assert time.monotonic() < deadline, states
            time.sleep(0.1)
        return states
