"""How the runner speaks to AWS: clients with the right patience, and refusals turned into sentences.

Two kinds of clients: patient ones for everything that may wait (botocore's standard retries, with its backoff
and jitter), and brisk ones for what happens while an instance is being released, where a call that is retried
in the background for a minute could stop an instance under the next holder's job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from lightly_pipeline.runner.errors import (
    InstanceGone,
    NoCapacity,
    NotPermitted,
    PermanentError,
    QuotaExceeded,
    RunnerError,
    ServiceUnavailable,
)

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_ssm import SSMClient

_PATIENT = Config(retries={"mode": "standard", "total_max_attempts": 10}, connect_timeout=10, read_timeout=30)
_BRISK = Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=3, read_timeout=8)
# botocore repeats a call whose answer was lost, and SendCommand has no token by which SSM could tell a repetition: the
# job would run twice at once.
_ONCE = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=3, read_timeout=8)

NO_CAPACITY = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientCapacity",
        "InsufficientReservedInstanceCapacity",
        "SpotMaxPriceTooLow",
        "IncorrectSpotRequestState",
        "MaxSpotInstanceCountExceeded",
    }
)
QUOTA = frozenset({"VcpuLimitExceeded", "InstanceLimitExceeded"})
FORBIDDEN = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"})
CREDENTIALS = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
    }
)
GONE = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})
WRONG_STATE = frozenset({"IncorrectInstanceState", "IncorrectState"})
# HTTP 500 and 503 of S3 and EC2, throttling of everything: worth another try by whoever polls anyway.
PASSING = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "RateExceeded",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TooManyUpdates",
        "Unavailable",
        "500",
        "502",
        "503",
        "504",
    }
)


@dataclass(frozen=True)
class Clients:
    """The boto3 clients of one runner; `brisk_*` give up after two attempts of some seconds, that of SSM after one."""

    ec2: EC2Client
    ssm: SSMClient
    s3: S3Client
    brisk_ec2: EC2Client
    brisk_ssm: SSMClient
    brisk_s3: S3Client
    # Made on first use: only runners with a log group read CloudWatch.
    logs: Callable[[], CloudWatchLogsClient]
    sts: Callable[[], Any]
    region: str

    @classmethod
    def from_session(cls, session: boto3.Session | None = None, region: str | None = None) -> Clients:
        """Clients of boto3's usual configuration: environment, profile or role.

        AWS_ENDPOINT_URL is obeyed.
        """
        session = session or boto3.Session(region_name=region)
        return cls(
            ec2=session.client("ec2", config=_PATIENT),
            ssm=session.client("ssm", config=_PATIENT),
            s3=session.client("s3", config=_PATIENT),
            brisk_ec2=session.client("ec2", config=_BRISK),
            brisk_ssm=session.client("ssm", config=_ONCE),
            brisk_s3=session.client("s3", config=_BRISK),
            logs=lambda: session.client("logs", config=_PATIENT),
            sts=lambda: session.client("sts", config=_BRISK),
            region=session.region_name or "us-east-1",
        )


def code_of(error: BaseException) -> str:
    """AWS's error code, '' for anything that is no AWS error."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_passing(error: BaseException) -> bool:
    """Whether this is throttling, a failing service or a broken connection: the same call may work in a second."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = code_of(error)
        return code not in NO_CAPACITY and (code in PASSING or status >= 500)
    return isinstance(error, BotoCoreError) and type(error).__name__ in {
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "HTTPClientError",
        "IncompleteReadError",
        "ProxyConnectionError",
        "ReadTimeoutError",
        "ResponseStreamingError",
        "SSLError",
    }


def may_have_arrived(error: BaseException) -> bool:
    """Whether a call that failed so may have been carried out all the same: its answer was lost, or broke off."""
    if isinstance(error, ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
    return is_passing(error)


@contextmanager
def said_plainly(
    what: str, sts: Callable[[], Any] | None = None, *, let: frozenset[str] = frozenset()
) -> Iterator[None]:
    """Turn what AWS refuses into the runner's errors.

    `what` completes "cannot …". Codes in `let` pass unchanged.
    """
    try:
        yield
    except ClientError as error:
        if code_of(error) in let:
            raise
        raise _explained(what, error, sts) from error
    except BotoCoreError as error:
        kind = ServiceUnavailable if is_passing(error) else PermanentError
        raise kind(f"Cannot {what}: {error}") from error


def _explained(what: str, error: ClientError, sts: Callable[[], Any] | None) -> RunnerError:
    code, message = code_of(error), error.response.get("Error", {}).get("Message", "")
    if code in NO_CAPACITY:
        return NoCapacity(
            f"Cannot {what}: EC2 has no capacity for it now ({code}). Nothing is billed; wait, or add instances of "
            f"another type or zone to the pool."
        )
    if code in QUOTA:
        return QuotaExceeded(
            f"Cannot {what}: the account's limit is reached ({code}: {message}). Ask for a higher limit under Service "
            f"Quotas > Amazon EC2, or stop another instance."
        )
    if code in GONE:
        return InstanceGone(
            f"Cannot {what}: there is no such instance in this region ({code}). Check LIGHTLY_INSTANCES."
        )
    if code in FORBIDDEN:
        return NotPermitted(
            f"Cannot {what}: the credentials do not allow {error.operation_name} ({code}: {_decoded(message, sts)}). "
            f"Add the action to their policy."
        )
    if code in CREDENTIALS:
        return NotPermitted(
            f"Cannot {what}: AWS does not accept the credentials ({code}: {message}). Check the profile, role or "
            f"environment variables that boto3 finds."
        )
    if is_passing(error):
        return ServiceUnavailable(f"Cannot {what}: AWS answered {code} ({message}), also when asked again.")
    return PermanentError(f"Cannot {what}: AWS answered {code}: {message}")


def _decoded(message: str, sts: Callable[[], Any] | None) -> str:
    """EC2's encoded authorization message as text where the credentials may decode it, else as it came."""
    marker = "Encoded authorization failure message: "
    if sts is None or marker not in message:
        return message
    encoded = message.split(marker, 1)[1].split()[0]
    try:
        decoded = sts().decode_authorization_message(EncodedMessage=encoded)["DecodedMessage"]
    except (BotoCoreError, ClientError):
        return message[:300]
    return str(decoded)[:1000]
