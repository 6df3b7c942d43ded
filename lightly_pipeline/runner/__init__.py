"""Run a command on an EC2 instance that is switched on only while it works.

Instance, lease, pool and SSM command as plain objects over boto3 clients; nothing here imports Dagster. Start
reading at `runner.py`: `InstanceRunner.run(Job(...))`.
"""

from lightly_pipeline.runner.aws import Clients
from lightly_pipeline.runner.clock import Clock
from lightly_pipeline.runner.command import CommandSettings
from lightly_pipeline.runner.cost import Price
from lightly_pipeline.runner.errors import (
    CommandError,
    ConfigurationError,
    InstanceTaken,
    PermanentError,
    RunnerError,
    TransientError,
)
from lightly_pipeline.runner.hold import LeaseSettings
from lightly_pipeline.runner.instance import Deadlines
from lightly_pipeline.runner.job import Attempt, Finished, Job, Watcher
from lightly_pipeline.runner.runner import InstanceRunner, RunnerSettings, Status

__all__ = [
    "Attempt",
    "Clients",
    "Clock",
    "CommandError",
    "CommandSettings",
    "ConfigurationError",
    "Deadlines",
    "Finished",
    "InstanceRunner",
    "InstanceTaken",
    "Job",
    "LeaseSettings",
    "PermanentError",
    "Price",
    "RunnerError",
    "RunnerSettings",
    "Status",
    "TransientError",
    "Watcher",
]
