"""Faults that can be asked for in the sandbox's process and over HTTP, and the log of calls."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from lightly_pipeline.sandbox import Sandbox, SandboxTimings
from lightly_pipeline.sandbox.aws.calls import calls_of
from lightly_pipeline.sandbox.aws.faults import FaultOrders, RemoteFaults
from lightly_pipeline_tests.sandbox.aws_calls import Aws, until

TIMINGS = SandboxTimings(
    pending=0.2, agent=0.2, stopping=0.2, invocation_visible=0.05, delivery=0.02, timeout_scale=0.03
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox in which the 30 s that AWS waits at least for a delivery are one."""
    footage = tmp_path_factory.getbasetemp() / "footage"
    with Sandbox(tmp_path_factory.mktemp("sandbox"), timings=TIMINGS, footage=footage, port=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def clients(sandbox: Sandbox) -> Aws:
    return Aws(sandbox.environment)


@pytest.fixture(params=["in process", "over HTTP"])
def faults(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[FaultOrders]:
    yield sandbox.faults if request.param == "in process" else RemoteFaults(sandbox.endpoint_url)
    sandbox.faults.clear()


@pytest.fixture
def aws(clients: Aws) -> Iterator[Aws]:
    yield clients
    clients.stop()


def once(sandbox: Sandbox, service: str):  # type: ignore[no-untyped-def]
    """A client that does not try again."""
    return boto3.client(  # type: ignore[call-overload]
        service,
        endpoint_url=sandbox.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="A" * 20,
        aws_secret_access_key="x",
        config=Config(retries={"total_max_attempts": 1}),
    )


def refused(call, **arguments) -> tuple[str, int]:  # type: ignore[no-untyped-def]
    with pytest.raises(ClientError) as error:
        call(**arguments)
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize(
    ("service", "call", "arguments", "action", "code", "status"),
    [
        ("ec2", "start_instances", {}, "StartInstances", "InsufficientInstanceCapacity", 500),
        ("ec2", "stop_instances", {}, "ec2:StopInstances", "RequestLimitExceeded", 503),
        ("ec2", "start_instances", {}, "StartInstances", "UnauthorizedOperation", 403),
        ("ssm", "describe_instance_information", None, "DescribeInstanceInformation", "ThrottlingException", 400),
        ("s3", "list_buckets", None, "ListBuckets", "SlowDown", 503),
    ],
)
def test_a_call_is_answered_with_the_error_asked_for(
    sandbox: Sandbox,
    faults: FaultOrders,
    service: str,
    call: str,
    arguments: object,
    action: str,
    code: str,
    status: int,
) -> None:
    faults.inject(action, code)
    client = once(sandbox, service)
    given = {} if arguments is None else {"InstanceIds": sandbox.instance_ids}
    assert refused(getattr(client, call), **given) == (code, status)
    getattr(client, call)(**given)
    until(lambda: Aws(sandbox.environment).state() != "pending")
    Aws(sandbox.environment).stop()


def test_after_and_times_choose_the_calls(sandbox: Sandbox, faults: FaultOrders) -> None:
    faults.inject("s3:ListBuckets", "AccessDenied", after=1, times=2, message="not you")
    s3 = once(sandbox, "s3")
    s3.list_buckets()
    with pytest.raises(ClientError, match="not you"):
        s3.list_buckets()
    assert refused(s3.list_buckets) == ("AccessDenied", 403)
    s3.list_buckets()


def test_a_fault_without_end_lasts_until_cleared(sandbox: Sandbox, faults: FaultOrders) -> None:
    faults.inject("ListBuckets", "InternalError", times=None)
    s3 = once(sandbox, "s3")
    for _ in range(5):
        assert refused(s3.list_buckets) == ("InternalError", 500)
    faults.clear()
    s3.list_buckets()


def test_an_error_without_a_body_has_its_status(sandbox: Sandbox, faults: FaultOrders) -> None:
    faults.inject("HeadObject", "AccessDenied")
    assert refused(once(sandbox, "s3").head_object, Bucket=sandbox.bucket, Key="k")[1] == 403


def test_a_lost_answer_has_been_carried_out(sandbox: Sandbox, aws: Aws, faults: FaultOrders) -> None:
    faults.lose_answer("StartInstances")
    assert refused(once(sandbox, "ec2").start_instances, InstanceIds=[aws.instance])[1] == 500
    assert aws.state() in ("pending", "running")


def test_a_lost_command_stays_pending_and_ends_as_delivery_timed_out(aws: Aws, faults: FaultOrders) -> None:
    aws.start()
    faults.lose_commands(1)
    lost, kept = aws.send("true", TimeoutSeconds=30), aws.send("true", TimeoutSeconds=30)
    assert aws.result(kept)["Status"] == "Success"
    result = aws.result(lost)
    assert (result["Status"], result["StatusDetails"]) == ("TimedOut", "DeliveryTimedOut")
    assert aws.ssm.list_commands(CommandId=lost)["Commands"][0]["DeliveryTimedOutCount"] == 1


def test_a_command_of_an_instance_that_never_comes_back_ends_after_both_timeouts(aws: Aws) -> None:
    aws.start()
    command = aws.send("sleep 60", TimeoutSeconds=30, executionTimeout="5")
    aws.reaches(command, "InProgress")
    aws.stop()
    assert aws.invocation(command)["Status"] == "InProgress"
    result = aws.result(command)
    assert (result["Status"], result["StatusDetails"]) == ("TimedOut", "DeliveryTimedOut")


def test_an_agent_that_never_comes_online_is_absent(aws: Aws, faults: FaultOrders) -> None:
    faults.silence_agent(aws.instance)
    aws.ec2.start_instances(InstanceIds=[aws.instance])
    until(lambda: aws.state() == "running")
    with pytest.raises(AssertionError, match="not within"):
        until(aws.ping, seconds=0.8)
    faults.clear()
    until(lambda: aws.ping() == "Online")


def test_an_order_that_does_not_exist_is_refused(sandbox: Sandbox) -> None:
    remote = RemoteFaults(sandbox.endpoint_url)
    with pytest.raises(ValueError, match="'explode' is no fault"):
        remote._order("explode")
    with pytest.raises(ValueError, match="There is no fault 'typo'"):
        remote._order("switch", name="typo", value=1, instance_id=None)
    with pytest.raises(ValueError, match="cannot be read"):
        remote._order("inject", acton="StartInstances")


def test_a_web_page_cannot_press_the_buttons(sandbox: Sandbox) -> None:
    """A form can be sent to any address without being asked; JSON cannot."""
    request = urllib.request.Request(f"{sandbox.endpoint_url}/_sandbox/faults/clear", data=b"{}")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 415


def test_calls_are_counted_by_who_made_them(sandbox: Sandbox, aws: Aws) -> None:
    sandbox.calls.clear()
    aws.start()
    aws.s3.put_object(Bucket=aws.bucket, Key="a key/ü", Body=b"x")
    aws.result(aws.send("echo x", OutputS3BucketName=aws.bucket))
    seen = calls_of(sandbox.endpoint_url)
    assert seen["counts"]["user"]["ec2:StartInstances"] == 1
    assert seen["counts"]["user"]["ssm:SendCommand"] == 1
    assert seen["counts"]["instance"] == {"s3:PutObject": 1}
    assert seen["counts"] == {caller: sandbox.calls.counts(caller) for caller in ("user", "instance")}
    put = next(call for call in seen["recent"] if call["operation"] == "s3:PutObject")
    assert (put["resource"], put["status"]) == (f"{aws.bucket}/a key/ü", 200)


def test_only_calls_that_mention_an_instance_are_meant(sandbox: Sandbox, aws: Aws, faults: FaultOrders) -> None:
    faults.inject("StartInstances", "InsufficientInstanceCapacity", times=None, mentions="i-0123456789abcdef0")
    ec2 = once(sandbox, "ec2")
    assert refused(ec2.start_instances, InstanceIds=["i-0123456789abcdef0"])[0] == "InsufficientInstanceCapacity"
    ec2.start_instances(InstanceIds=[aws.instance])
    faults.inject("PutObject", "SlowDown", times=None, mentions=f"{aws.bucket}/datapool/")
    s3 = once(sandbox, "s3")
    assert refused(s3.put_object, Bucket=aws.bucket, Key="datapool/x", Body=b"x" * 9_000_000)[0] == "SlowDown"
    s3.put_object(Bucket=aws.bucket, Key="output/x", Body=b"x")


def test_a_call_can_be_held_and_seen_under_way(sandbox: Sandbox, aws: Aws, faults: FaultOrders) -> None:
    faults.delay("StartInstances", 1.5)
    starting = threading.Thread(target=aws.ec2.start_instances, kwargs={"InstanceIds": [aws.instance]})
    starting.start()
    until(lambda: sandbox.calls.under_way().get("ec2:StartInstances"))
    assert calls_of(sandbox.endpoint_url)["under_way"]["ec2:StartInstances"] == 1
    assert aws.state() == "stopped"
    starting.join()
    assert aws.state() in ("pending", "running")
    assert "ec2:StartInstances" not in sandbox.calls.under_way()


@pytest.mark.parametrize("lost", [True, False])
def test_a_held_call_arrives_or_is_lost_as_the_test_decides(sandbox: Sandbox, aws: Aws, lost: bool) -> None:
    s3 = once(sandbox, "s3")
    answers: list[str] = []

    def put() -> None:
        try:
            s3.put_object(Bucket=sandbox.bucket, Key="held/object", Body=b"x")
            answers.append("stored")
        except ClientError as error:
            answers.append(error.response["Error"]["Code"])

    with sandbox.faults.hold("s3:PutObject", mentions="held/") as held:
        caller = threading.Thread(target=put)
        caller.start()
        held.wait(10)
        assert "Contents" not in s3.list_objects_v2(Bucket=sandbox.bucket, Prefix="held/")
        held.let_go(drop=lost)
        caller.join(10)
    assert answers == ["RequestTimeout" if lost else "stored"]
    assert s3.list_objects_v2(Bucket=sandbox.bucket, Prefix="held/")["KeyCount"] == (0 if lost else 1)
    s3.delete_object(Bucket=sandbox.bucket, Key="held/object")


def test_a_held_answer_is_of_a_call_that_was_carried_out(sandbox: Sandbox, aws: Aws) -> None:
    s3 = once(sandbox, "s3")
    with sandbox.faults.hold("s3:PutObject", answer=True) as held:
        caller = threading.Thread(target=s3.put_object, kwargs={"Bucket": sandbox.bucket, "Key": "answered"})
        caller.start()
        held.wait(10)
        s3.head_object(Bucket=sandbox.bucket, Key="answered")
        assert caller.is_alive()
    caller.join(10)
    assert not caller.is_alive()


def test_a_booting_instance_may_show_the_ping_of_before(aws: Aws, faults: FaultOrders) -> None:
    aws.start()
    aws.stop()
    faults.remember_agent()
    assert aws.ping() is None
    started = aws.s3.list_buckets()["ResponseMetadata"]["HTTPHeaders"]["date"]
    faults.delay_boot(1.5)
    aws.ec2.start_instances(InstanceIds=[aws.instance])
    found = aws.ssm.describe_instance_information()["InstanceInformationList"][0]
    assert found["PingStatus"] == "Online"
    assert found["LastPingDateTime"].timestamp() <= parsedate_to_datetime(started).timestamp() + 1
    command = aws.send("true")
    assert aws.invocation(command)["Status"] == "Pending"
    assert aws.result(command)["Status"] == "Success"


@pytest.mark.parametrize("header", [("Origin", "https://evil.example"), ("Host", "evil.example")])
def test_the_door_is_closed_to_web_pages(sandbox: Sandbox, header: tuple[str, str]) -> None:
    """The server runs commands: a page in the browser of who works with it must not be able to send some."""
    request = urllib.request.Request(f"{sandbox.endpoint_url}/", headers=dict([header]))
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 403
