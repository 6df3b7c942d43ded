"""The resource `s3`: the bucket and how it is reached, opened as a VideoBucket.

Its fields are those of dagster-aws's `S3Resource`, so that its configuration can be copied over. It does not inherit
from it: importing dagster_aws takes longer than all of this package, and each step is a process that would pay for it.
"""

from typing import Any

import boto3
import dagster as dg
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from pydantic import Field

from lightly_pipeline.settings import BUCKET
from lightly_pipeline.storage import StorageError, VideoBucket


class BucketResource(dg.ConfigurableResource["BucketResource"]):
    """Where videos, frames and the datapool are kept.

    Region, endpoint, profile and credentials are boto3's own (environment, profile, role) unless they are set here.
    """

    bucket: str | None = Field(default=None, description=f"Name of the bucket; by default ${BUCKET.name}.")
    use_unsigned_session: bool = Field(default=False, description="Whether requests go unsigned, to a public bucket.")
    region_name: str | None = Field(default=None, description="AWS region of the bucket.")
    endpoint_url: str | None = Field(default=None, description="Address of an S3 other than AWS's.")
    max_attempts: int = Field(default=5, ge=1, description="How often a request is tried, the first time included.")
    profile_name: str | None = Field(default=None, description="Profile in AWS's configuration files.")
    use_ssl: bool = Field(default=True, description="Whether requests are encrypted.")
    verify: bool | None = Field(default=None, description="Whether certificates are verified; by default they are.")
    aws_access_key_id: str | None = Field(default=None, repr=False, description="Access key; use dg.EnvVar, or a role.")
    aws_secret_access_key: str | None = Field(
        default=None, repr=False, description="Secret of the key; use dg.EnvVar, or a role."
    )
    aws_session_token: str | None = Field(default=None, repr=False, description="Token of a temporary key.")

    def open(self) -> VideoBucket:
        """The bucket, with one client of its own.

        Raises MissingSetting where no bucket is named, StorageError where boto3 cannot use its configuration.
        """
        name = self.bucket or BUCKET.value()
        try:
            return VideoBucket(self._client(), name)
        except BotoCoreError as error:
            raise StorageError(
                f"Bucket {name} cannot be reached as boto3 is configured ({error}): check AWS_PROFILE and AWS_REGION."
            ) from error

    def _client(self) -> Any:
        session = boto3.Session(
            aws_access_key_id=self.aws_access_key_id,
            aws_secret_access_key=self.aws_secret_access_key,
            aws_session_token=self.aws_session_token,
            region_name=self.region_name,
            profile_name=self.profile_name,
        )
        return session.client(
            "s3",
            use_ssl=self.use_ssl,
            verify=self.verify,
            endpoint_url=self.endpoint_url,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": self.max_attempts},
                signature_version=UNSIGNED if self.use_unsigned_session else None,
            ),
        )
