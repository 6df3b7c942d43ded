"""S3 for the worker: addresses, one client, and what S3's refusals mean for the user.

boto3 reads endpoint, region and credentials from the environment (`AWS_ENDPOINT_URL` and its kin). It is imported
when an `s3://` address is opened, not before: a selection between folders does not pay for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from lightly_pipeline.worker.errors import OptionError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: Transfers at a time; also the size of the client's connection pool.
TRANSFERS = 16


@dataclass(frozen=True)
class S3Address:
    """A bucket and a key prefix; `prefix` is empty or ends with a slash."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> "S3Address":
        """Of `s3://bucket/some/prefix`, with or without a slash at the end."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise OptionError(f"{uri!r} names no bucket: write s3://bucket/prefix/.")
        prefix = prefix.strip("/")
        return cls(bucket, f"{prefix}/" if prefix else "")

    def below(self, folder: str) -> "S3Address":
        """The prefix of a folder below this one."""
        return S3Address(self.bucket, f"{self.prefix}{folder.strip('/')}/" if folder else self.prefix)

    def uri(self, name: str = "") -> str:
        """The `s3://` address of a name below the prefix."""
        return f"s3://{self.bucket}/{self.prefix}{name}"


def is_s3(place: str) -> bool:
    """Whether the text is an S3 address and not a folder."""
    return place.startswith("s3://")


@cache
def s3_client() -> "S3Client":
    """The process's S3 client; clients are thread-safe and cost 0.1 s each."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        config=Config(max_pool_connections=TRANSFERS, retries={"mode": "standard", "max_attempts": 5}),
    )


@contextmanager
def s3_errors(what: str) -> Iterator[None]:
    """Turn boto3's errors inside the block into a StorageError that says `what` could not be done, and why."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise StorageError(f"Could not {what}: {_REMEDIES.get(code, str(error))}") from error
    except (BotoCoreError, Boto3Error) as error:
        raise StorageError(f"Could not {what}: {error}") from error


_FORBIDDEN = "access is denied; the machine's role needs s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject."
_REMEDIES = {
    "NoSuchBucket": "the bucket does not exist; check its name and region.",
    "AccessDenied": _FORBIDDEN,
    "403": _FORBIDDEN,
    "NoSuchKey": "the object is gone; was it deleted while the worker ran?",
    "404": "the object is gone; was it deleted while the worker ran?",
}
