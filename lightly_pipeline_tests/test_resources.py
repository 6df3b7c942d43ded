"""The resources of AWS: what boto3 is configured with is used as it is, and told in a sentence where it cannot be."""

import pytest

from lightly_pipeline.resources.runner import RunnerResource
from lightly_pipeline.resources.s3 import BucketResource
from lightly_pipeline.runner import RunnerError
from lightly_pipeline.settings import MissingSetting
from lightly_pipeline.storage import StorageError


@pytest.mark.parametrize("resource", [BucketResource(), RunnerResource(instances="i-0123456789abcdef0")])
def test_without_a_bucket_the_variable_is_named(resource):
    with pytest.raises(MissingSetting, match=r"LIGHTLY_BUCKET is not set .*sandbox"):
        resource.open()


def test_a_profile_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match=r"Bucket mine .*\(nobody\).* check AWS_PROFILE"):
        BucketResource(bucket="mine").open()
    with pytest.raises(RunnerError, match=r"\(nobody\).* check AWS_PROFILE"):
        RunnerResource(bucket="mine", instances="i-0123456789abcdef0").open()


def test_a_region_that_nobody_set_is_asked_for(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    with pytest.raises(RunnerError, match="set AWS_REGION"):
        RunnerResource(bucket="mine", instances="i-0123456789abcdef0").open()


def test_no_repr_shows_a_secret():
    shown = repr(BucketResource(aws_access_key_id="AKIAX", aws_secret_access_key="S3CRET", aws_session_token="T0KEN"))
    assert not [secret for secret in ("AKIAX", "S3CRET", "T0KEN") if secret in shown]


def test_s3_takes_the_configuration_of_dagster_aws():
    """What somebody wrote for dagster-aws's resource is valid here, with the same defaults."""
    from dagster_aws.s3 import S3Resource

    fields = {name: (field.annotation, field.default) for name, field in BucketResource.model_fields.items()}
    theirs = {name: (field.annotation, field.default) for name, field in S3Resource.model_fields.items()}
    assert theirs.items() <= fields.items()
