"""The resource `runner`: which instances select frames, and how patient, thrifty and shared their use is."""

import math

import boto3
import dagster as dg
from botocore.exceptions import BotoCoreError
from pydantic import Field

from lightly_pipeline.runner import (
    Clients,
    CommandSettings,
    ConfigurationError,
    Deadlines,
    InstanceRunner,
    LeaseSettings,
    Price,
    RunnerSettings,
)
from lightly_pipeline.settings import BUCKET, INSTANCE_PRICE, INSTANCES, LOG_GROUP, InvalidSetting, Setting


class RunnerResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """EC2 instances that run only while they work, reached through SSM.

    Region, endpoint, profile and credentials are boto3's own (environment, profile, role) unless set here.
    """

    instances: str | None = Field(
        default=None,
        description="Instance ids in order of preference, separated by commas, or one tag:Name=value; by "
        f"default ${INSTANCES.name}.",
    )
    bucket: str | None = Field(
        default=None, description=f"Bucket of lease records and messages; by default ${BUCKET.name}."
    )
    region: str | None = Field(default=None, description="AWS region; by default boto3's.")
    max_jobs_per_instance: int = Field(
        default=1,
        ge=1,
        le=5,
        description="Jobs that share an instance at the same time; 1 for a GPU. SSM's agent runs five at most.",
    )
    linger_seconds: float = Field(
        default=0.0, ge=0, description="Seconds for which an instance without a job stays up for the next one."
    )
    start_timeout_seconds: float = Field(default=300.0, gt=0, description="Longest wait for `running`.")
    agent_timeout_seconds: float = Field(default=300.0, gt=0, description="Longest wait for the SSM agent.")
    stopping_timeout_seconds: float = Field(
        default=600.0, gt=0, description="Seconds in `stopping` after which a stop is forced."
    )
    capacity_timeout_seconds: float = Field(
        default=600.0, gt=0, description="How long to try again when EC2 has no capacity for any instance."
    )
    queue_timeout_seconds: float = Field(
        default=21600.0, gt=0, description="Longest wait for a free slot while all instances are busy."
    )
    command_timeout_seconds: int = Field(
        default=12 * 3600, ge=5, le=172800, description="Seconds after which a command is killed; 48 hours at most."
    )
    lease_seconds: float = Field(
        default=900.0,
        ge=10,
        description="How long the lease of a dead run keeps an instance up; renewed five times in that time.",
    )
    door_seconds: float = Field(
        default=60.0, ge=5, description="How long a run that dies while it stops an instance blocks the others."
    )
    log_group: str | None = Field(
        default=None,
        description=f"CloudWatch log group for live output of the commands; by default ${LOG_GROUP.name}.",
    )
    document: str = Field(
        default="AWS-RunShellScript", description="SSM document that takes `commands` and `executionTimeout`."
    )
    price_per_hour_usd: float | None = Field(
        default=None,
        ge=0,
        description=f"Price of an instance hour, for the cost shown with each run; by default ${INSTANCE_PRICE.name}.",
    )
    price_source: str = Field(default="", description="Where that price is from, and of when.")

    def open(self) -> InstanceRunner:
        """A runner with clients of its own.

        Raises MissingSetting where no bucket or no instance is named, InvalidSetting, and ConfigurationError where
        boto3 cannot use its configuration.
        """
        price, source = self.price_per_hour_usd, self.price_source
        if price is None and INSTANCE_PRICE.value():
            price, source = _price(INSTANCE_PRICE), source or f"${INSTANCE_PRICE.name}"
        settings = RunnerSettings(
            lease=LeaseSettings(
                max_jobs=self.max_jobs_per_instance,
                ttl=self.lease_seconds,
                renew_every=self.lease_seconds / 5,
                door=self.door_seconds,
                queue=self.queue_timeout_seconds,
            ),
            command=CommandSettings(document=self.document, log_group=self.log_group or LOG_GROUP.value() or None),
            deadlines=Deadlines(
                start=self.start_timeout_seconds,
                agent=self.agent_timeout_seconds,
                stopping=self.stopping_timeout_seconds,
                capacity=self.capacity_timeout_seconds,
            ),
            linger=self.linger_seconds,
            price=Price(price, source) if price is not None else None,
        )
        return InstanceRunner.open(
            self._clients(),
            instances=self.instances or INSTANCES.value(),
            bucket=self.bucket or BUCKET.value(),
            settings=settings,
        )

    def _clients(self) -> Clients:
        try:
            return Clients.from_session(boto3.Session(region_name=self.region))
        except BotoCoreError as error:
            raise ConfigurationError(
                f"EC2 and SSM cannot be reached as boto3 is configured ({error}): set AWS_REGION to the instances' "
                f"region, and check AWS_PROFILE."
            ) from error


def _price(setting: Setting) -> float:
    """USD per hour; InvalidSetting for what is no such number."""
    text = setting.value()
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < math.inf:
        raise InvalidSetting(f"{setting.name} is {text!r} ({setting.meaning}): set it to a number like 0.526.")
    return price
