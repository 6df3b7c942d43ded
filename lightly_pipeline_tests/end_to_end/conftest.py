"""A world to run commands in, as a user does: the sandbox, a fresh DAGSTER_HOME, and a shell."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import boto3
import dagster as dg
import pytest

from lightly_pipeline.pexels import PexelsClient
from lightly_pipeline.sandbox.home import dagster_home
from lightly_pipeline.storage import VideoBucket
from lightly_pipeline.videos import pexels_key

BIN = Path(sys.executable).parent


@dataclass
class World:
    """The sandbox with a DAGSTER_HOME of its own."""

    sandbox: object
    home: Path
    environment: dict[str, str]

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

    def start(self, *command):
        """Start a command in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=self.home.parent,
        )

    def instance(self):
        return dg.DagsterInstance.from_config(str(self.home))

    @property
    def bucket(self):
        return VideoBucket(self.client("s3"), self.sandbox.bucket)

    def client(self, service):
        return boto3.client(
            service,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def instance_states(self):
        answer = self.client("ec2").describe_instances(InstanceIds=list(self.sandbox.instance_ids))
        return {
            machine["InstanceId"]: machine["State"]["Name"]
            for reservation in answer["Reservations"]
            for machine in reservation["Instances"]
        }


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return Path(__file__).parents[2]


@pytest.fixture
def world(sandbox, tmp_path):
    home = dagster_home(tmp_path)
    cache = tmp_path / "videos"
    environment = {
        **os.environ,
        **sandbox.environment,
        "DAGSTER_HOME": str(home),
        "LIGHTLY_VIDEO_CACHE": str(cache),
        "LIGHTLY_SETTLE_SECONDS": "0",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    yield World(sandbox, home, environment)
    shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture
def keys(sandbox):
    """The keys of the videos that the sandbox's Pexels offers, the same in every run."""
    client = PexelsClient(sandbox.environment["PEXELS_API_KEY"], root=sandbox.pexels_root)
    return [pexels_key(video.id) for video in client.popular().videos]
