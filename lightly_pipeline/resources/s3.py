"""The resource `s3`: dagster-aws's S3 configuration plus the bucket, opened as a VideoBucket."""

from dagster_aws.s3 import S3Resource
from pydantic import Field

from lightly_pipeline.settings import BUCKET
from lightly_pipeline.storage import VideoBucket


class BucketResource(S3Resource):
    """Where videos, frames and the datapool are kept.

    Region, endpoint, profile and credentials are boto3's own (environment, profile, role) unless they are set here.
    """

    bucket: str | None = Field(default=None, description=f"Name of the bucket; by default ${BUCKET.name}.")

    def open(self) -> VideoBucket:
        """The bucket, with one client of its own. Raises MissingSetting where no bucket is named."""
        return VideoBucket(self.get_client(), self.bucket or BUCKET.value())
