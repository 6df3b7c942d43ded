"""What the embedded EC2 answers, pinned through boto3 alone: as AWS does, where moto does not."""

import re
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from lightly_pipeline.sandbox import Sandbox
from lightly_pipeline_tests.sandbox.aws_calls import Aws, until


@pytest.fixture(scope="module")
def clients(sandbox: Sandbox) -> Aws:
    return Aws(sandbox.environment)


@pytest.fixture
def aws(sandbox: Sandbox, clients: Aws) -> Iterator[Aws]:
    yield clients
    sandbox.faults.clear()
    clients.stop()


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


def test_an_instance_is_there_stopped_from_the_beginning(aws: Aws, sandbox: Sandbox) -> None:
    assert sandbox.instance_ids == [aws.instance]
    assert aws.state() == "stopped"
    assert {"Key": "lightly:pool", "Value": "sandbox"} in aws.description()["Tags"]


def test_an_instance_passes_through_pending_and_stopping(aws: Aws, sandbox: Sandbox) -> None:
    # Long enough to be looked at on a busy machine.
    sandbox.faults.delay_boot(1.0)
    sandbox.faults.delay_stop(1.0)
    change = aws.ec2.start_instances(InstanceIds=[aws.instance])["StartingInstances"][0]
    assert change["PreviousState"]["Name"] == "stopped"
    assert change["CurrentState"] == {"Code": 0, "Name": "pending"}
    assert aws.state() == "pending"
    until(lambda: aws.state() == "running")
    change = aws.ec2.stop_instances(InstanceIds=[aws.instance])["StoppingInstances"][0]
    assert change["PreviousState"]["Name"] == "running"
    assert change["CurrentState"] == {"Code": 64, "Name": "stopping"}
    assert aws.state() == "stopping"
    until(lambda: aws.state() == "stopped")


def test_state_filters_see_the_passing_state(aws: Aws, sandbox: Sandbox) -> None:
    sandbox.faults.delay_boot(1.0)
    aws.ec2.start_instances(InstanceIds=[aws.instance])
    pending = [{"Name": "instance-state-name", "Values": ["pending"]}]
    assert aws.ec2.describe_instances(Filters=pending)["Reservations"]
    until(lambda: not aws.ec2.describe_instances(Filters=pending)["Reservations"])
    assert aws.ec2.describe_instance_status(InstanceIds=[aws.instance])["InstanceStatuses"]


def test_starting_a_running_instance_changes_nothing(aws: Aws) -> None:
    aws.start()
    launched = aws.description()["LaunchTime"]
    change = aws.ec2.start_instances(InstanceIds=[aws.instance])["StartingInstances"][0]
    assert change["CurrentState"]["Name"] == change["PreviousState"]["Name"] == "running"
    assert aws.description()["LaunchTime"] == launched


def test_stopping_a_stopped_instance_changes_nothing(aws: Aws) -> None:
    change = aws.ec2.stop_instances(InstanceIds=[aws.instance])["StoppingInstances"][0]
    assert change["CurrentState"]["Name"] == change["PreviousState"]["Name"] == "stopped"


def test_a_pending_instance_cannot_be_stopped(aws: Aws, sandbox: Sandbox) -> None:
    sandbox.faults.delay_boot(1.0)
    aws.ec2.start_instances(InstanceIds=[aws.instance])
    with pytest.raises(ClientError) as error:
        aws.ec2.stop_instances(InstanceIds=[aws.instance])
    assert code_of(error) == "IncorrectInstanceState"
    assert aws.instance in str(error.value)


def test_a_stopping_instance_cannot_be_started(aws: Aws, sandbox: Sandbox) -> None:
    aws.start()
    sandbox.faults.delay_stop(1.0)
    aws.ec2.stop_instances(InstanceIds=[aws.instance])
    with pytest.raises(ClientError) as error:
        aws.ec2.start_instances(InstanceIds=[aws.instance])
    assert code_of(error) == "IncorrectInstanceState"


def test_a_stopped_instance_cannot_be_rebooted(aws: Aws) -> None:
    with pytest.raises(ClientError) as error:
        aws.ec2.reboot_instances(InstanceIds=[aws.instance])
    assert code_of(error) == "IncorrectInstanceState"


@pytest.mark.parametrize(
    "action", ["describe_instances", "start_instances", "stop_instances", "terminate_instances", "reboot_instances"]
)
def test_unknown_and_malformed_ids_are_told_apart(aws: Aws, action: str) -> None:
    with pytest.raises(ClientError) as error:
        getattr(aws.ec2, action)(InstanceIds=["i-0123456789abcdef0"])
    assert code_of(error) == "InvalidInstanceID.NotFound"
    with pytest.raises(ClientError) as error:
        getattr(aws.ec2, action)(InstanceIds=["my-box"])
    assert code_of(error) == "InvalidInstanceID.Malformed"


def test_one_bad_id_among_several_changes_none(aws: Aws) -> None:
    with pytest.raises(ClientError):
        aws.ec2.start_instances(InstanceIds=[aws.instance, "i-0123456789abcdef0"])
    assert aws.state() == "stopped"


def test_a_dry_run_answers_dry_run_operation_and_does_nothing(aws: Aws) -> None:
    with pytest.raises(ClientError) as error:
        aws.ec2.start_instances(InstanceIds=[aws.instance], DryRun=True)
    assert code_of(error) == "DryRunOperation"
    assert aws.state() == "stopped"
    with pytest.raises(ClientError) as error:
        aws.ec2.start_instances(InstanceIds=["i-0123456789abcdef0"], DryRun=True)
    assert code_of(error) == "InvalidInstanceID.NotFound"


def test_launch_time_is_that_of_the_last_start(aws: Aws) -> None:
    before = aws.description()["LaunchTime"]
    until(lambda: _second_later(aws, before))
    aws.start()
    assert aws.description()["LaunchTime"] > before


def _second_later(aws: Aws, before: object) -> bool:
    # EC2 tells times in whole seconds: another start within the same one could not be seen.
    import datetime as dt

    return dt.datetime.now(dt.timezone.utc) - before > dt.timedelta(seconds=1.1)  # type: ignore[operator]


def test_a_stop_by_a_user_says_so_and_a_start_clears_it(aws: Aws) -> None:
    aws.start()
    aws.stop()
    stopped = aws.description()
    assert re.fullmatch(r"User initiated \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d GMT\)", stopped["StateTransitionReason"])
    assert stopped["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    aws.start()
    assert aws.description()["StateTransitionReason"] == ""


def test_the_waiters_of_boto3_work(aws: Aws) -> None:
    quickly = {"Delay": 1, "MaxAttempts": 10}
    aws.ec2.start_instances(InstanceIds=[aws.instance])
    aws.ec2.get_waiter("instance_running").wait(InstanceIds=[aws.instance], WaiterConfig=quickly)
    aws.ec2.stop_instances(InstanceIds=[aws.instance])
    aws.ec2.get_waiter("instance_stopped").wait(InstanceIds=[aws.instance], WaiterConfig=quickly)


def test_a_new_instance_boots_runs_commands_and_terminates(aws: Aws) -> None:
    new = aws.ec2.run_instances(ImageId="ami-05a9db0c000000001", MinCount=1, MaxCount=1, InstanceType="g4dn.xlarge")
    instance = new["Instances"][0]["InstanceId"]
    assert new["Instances"][0]["State"]["Name"] == "pending"
    until(lambda: aws.ping(instance) == "Online")
    assert aws.result(aws.send("echo new", instance=instance), instance)["StandardOutputContent"] == "new\n"
    change = aws.ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"][0]
    assert change["CurrentState"] == {"Code": 32, "Name": "shutting-down"}
    until(lambda: aws.state(instance) == "terminated")
    for refused in (aws.ec2.start_instances, aws.ec2.stop_instances):
        with pytest.raises(ClientError) as error:
            refused(InstanceIds=[instance])
        assert code_of(error) == "IncorrectInstanceState"


def test_an_instance_that_hangs_in_stopping_is_stopped_with_force(aws: Aws, sandbox: Sandbox) -> None:
    aws.start()
    sandbox.faults.delay_stop()
    aws.ec2.stop_instances(InstanceIds=[aws.instance])
    aws.ec2.stop_instances(InstanceIds=[aws.instance])
    assert aws.state() == "stopping"
    aws.ec2.stop_instances(InstanceIds=[aws.instance], Force=True)
    until(lambda: aws.state() == "stopped")


def test_a_boot_can_be_delayed(aws: Aws, sandbox: Sandbox) -> None:
    sandbox.faults.delay_boot(3.0)
    aws.ec2.start_instances(InstanceIds=[aws.instance])
    with pytest.raises(AssertionError, match="not within"):
        until(lambda: aws.state() == "running", seconds=1)
    until(lambda: aws.state() == "running")
