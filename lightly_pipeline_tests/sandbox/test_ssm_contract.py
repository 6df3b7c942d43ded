"""What the embedded SSM answers and does, pinned through boto3 alone: as AWS and its agent do."""

import datetime as dt
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, WaiterError

from lightly_pipeline.sandbox import Sandbox
from lightly_pipeline_tests.sandbox.aws_calls import Aws, until


@pytest.fixture(scope="module")
def clients(sandbox: Sandbox) -> Aws:
    return Aws(sandbox.environment)


@pytest.fixture
def aws(sandbox: Sandbox, clients: Aws) -> Iterator[Aws]:
    """AWS with the instance running and its agent online."""
    clients.start()
    yield clients
    sandbox.faults.clear()


@pytest.fixture
def stopped(sandbox: Sandbox, clients: Aws) -> Iterator[Aws]:
    """AWS with the instance stopped."""
    clients.stop()
    yield clients
    sandbox.faults.clear()


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# The fleet.


def test_a_stopped_instance_is_absent_and_a_booting_one_until_its_agent_is_online(
    stopped: Aws, sandbox: Sandbox
) -> None:
    assert stopped.ping() is None
    sandbox.faults.delay_boot(1.0)
    sandbox.faults.silence_agent()
    stopped.ec2.start_instances(InstanceIds=[stopped.instance])
    assert (stopped.ping(), stopped.state()) == (None, "pending")
    until(lambda: stopped.state() == "running")
    assert stopped.ping() is None
    sandbox.faults.clear()
    until(lambda: stopped.ping() == "Online")


def test_the_last_ping_is_later_than_the_start_and_goes_on(stopped: Aws) -> None:
    started = dt.datetime.now(dt.timezone.utc)
    stopped.start()

    def last() -> dt.datetime:
        return stopped.ssm.describe_instance_information()["InstanceInformationList"][0]["LastPingDateTime"]

    first = last()
    assert first > started
    until(lambda: last() > first)


def test_instances_are_found_by_id_status_and_tag(aws: Aws) -> None:
    for key, value in (
        ("InstanceIds", aws.instance),
        ("PingStatus", "Online"),
        ("tag:lightly:pool", "sandbox"),
    ):
        found = aws.ssm.describe_instance_information(Filters=[{"Key": key, "Values": [value]}])
        assert [entry["InstanceId"] for entry in found["InstanceInformationList"]] == [aws.instance]
    found = aws.ssm.describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": ["i-0123456789abcdef0"]}])
    assert found["InstanceInformationList"] == []


# Sending.


def test_only_online_instances_are_sent_to(stopped: Aws, sandbox: Sandbox) -> None:
    sandbox.faults.silence_agent()
    for instance in (stopped.instance, "i-0123456789abcdef0"):
        with pytest.raises(ClientError) as error:
            stopped.send("true", instance=instance)
        assert code_of(error) == "InvalidInstanceId"
    stopped.ec2.start_instances(InstanceIds=[stopped.instance])
    until(lambda: stopped.state() == "running")
    with pytest.raises(ClientError) as error:
        stopped.send("true")
    assert code_of(error) == "InvalidInstanceId"


def test_an_unknown_document_and_unknown_parameters_are_refused(aws: Aws) -> None:
    with pytest.raises(ClientError) as error:
        aws.ssm.send_command(InstanceIds=[aws.instance], DocumentName="my-document", Parameters={"commands": ["true"]})
    assert code_of(error) == "InvalidDocument"
    for parameters in ({}, {"comands": ["true"]}, {"commands": ["true"], "speed": ["9"]}):
        with pytest.raises(ClientError) as error:
            aws.ssm.send_command(InstanceIds=[aws.instance], DocumentName="AWS-RunShellScript", Parameters=parameters)
        assert code_of(error) == "InvalidParameters"


def test_an_invocation_does_not_exist_in_the_first_moment(aws: Aws) -> None:
    def too_early() -> str | None:
        command = aws.send("true")
        try:
            aws.ssm.get_command_invocation(CommandId=command, InstanceId=aws.instance)
        except aws.ssm.exceptions.InvocationDoesNotExist:
            return command
        # The moment is short, and this machine may be busy.
        return None

    command = until(too_early)
    assert aws.result(command)["Status"] == "Success"


def test_a_command_passes_through_pending_and_in_progress(aws: Aws, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    command = aws.ssm.send_command(
        InstanceIds=[aws.instance],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": [f"until [ -e {gate} ]; do sleep 0.05; done"]},
        Comment="run 7, step frames",
    )["Command"]
    assert command["Status"] == "Pending"
    assert command["Comment"] == "run 7, step frames"
    running = aws.reaches(command["CommandId"], "InProgress")
    assert running["StatusDetails"] == "InProgress"
    assert running["ResponseCode"] == -1
    assert running["StandardOutputContent"] == ""
    gate.touch()
    assert aws.result(command["CommandId"])["Status"] == "Success"


# Running.


def test_exit_code_and_output_are_those_of_the_script(aws: Aws) -> None:
    result = aws.result(aws.send("echo out", "echo err >&2", "exit 3"))
    assert (result["Status"], result["StatusDetails"], result["ResponseCode"]) == ("Failed", "Failed", 3)
    assert result["StandardOutputContent"] == "out\n"
    assert result["StandardErrorContent"] == "err\n"
    assert result["ExecutionElapsedTime"].startswith("PT")


def test_without_a_first_line_sh_runs_it_and_goes_on_after_an_error(aws: Aws) -> None:
    result = aws.result(aws.send("false", "true", "echo ${BASH_VERSION:-not bash}"))
    assert (result["Status"], result["StandardOutputContent"]) == ("Success", "not bash\n")


def test_a_first_line_chooses_the_interpreter(aws: Aws) -> None:
    result = aws.result(aws.send("#!/bin/bash", "set -euo pipefail", "echo ${BASH_VERSION:+bash}", "false | true"))
    assert (result["Status"], result["StandardOutputContent"]) == ("Failed", "bash\n")


def test_the_environment_is_the_agents_and_the_instance_profiles(aws: Aws, sandbox: Sandbox) -> None:
    os.environ["SOMETHING_OF_THE_HOST"] = "1"
    try:
        command = aws.send("env")
        text = aws.result(command)["StandardOutputContent"]
    finally:
        del os.environ["SOMETHING_OF_THE_HOST"]
    environment = dict(line.split("=", 1) for line in text.splitlines())
    assert environment["SSM_COMMAND_ID"] == command
    assert environment["AWS_SSM_INSTANCE_ID"] == aws.instance
    assert environment["AWS_SSM_REGION_NAME"] == "us-east-1"
    assert environment["AWS_ENDPOINT_URL"] == sandbox.endpoint_url
    assert environment["AWS_ACCESS_KEY_ID"] != sandbox.environment["AWS_ACCESS_KEY_ID"]
    assert "HOME" not in environment
    assert "SOMETHING_OF_THE_HOST" not in environment


def test_the_job_reaches_the_buckets_with_the_instance_profile(aws: Aws, sandbox: Sandbox) -> None:
    code = f"import boto3; boto3.client('s3').put_object(Bucket='{sandbox.bucket}', Key='of the job', Body=b'x')"
    assert aws.result(aws.send(f'python -c "{code}"'))["Status"] == "Success"
    assert aws.s3.head_object(Bucket=sandbox.bucket, Key="of the job")["ContentLength"] == 1
    assert sandbox.calls.counts("instance")["s3:PutObject"] >= 1


def test_the_worker_is_found_on_the_instance(aws: Aws) -> None:
    assert aws.result(aws.send("command -v lightly-worker"))["Status"] == "Success"


def test_the_command_runs_in_its_own_folder_or_where_it_is_told(aws: Aws, tmp_path: Path) -> None:
    command = aws.send("pwd")
    assert command in aws.result(command)["StandardOutputContent"]
    there = aws.ssm.send_command(
        InstanceIds=[aws.instance],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ["pwd"], "workingDirectory": [str(tmp_path)]},
    )["Command"]["CommandId"]
    assert aws.result(there)["StandardOutputContent"].strip() == str(tmp_path)
    nowhere = aws.ssm.send_command(
        InstanceIds=[aws.instance],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ["pwd"], "workingDirectory": [str(tmp_path / "nowhere")]},
    )["Command"]["CommandId"]
    assert aws.result(nowhere)["Status"] == "Failed"


def test_long_output_is_cut_and_says_so(aws: Aws) -> None:
    result = aws.result(aws.send("head -c 30000 /dev/zero | tr '\\0' a; head -c 9000 /dev/zero | tr '\\0' b >&2"))
    assert len(result["StandardOutputContent"]) == 24_000
    assert result["StandardOutputContent"] == "a" * (24_000 - 20) + "--output truncated--"
    assert len(result["StandardErrorContent"]) == 8_000
    assert result["StandardErrorContent"].endswith("b--output truncated--")
    listed = aws.ssm.list_command_invocations(CommandId=result["CommandId"], Details=True)["CommandInvocations"][0]
    assert len(listed["CommandPlugins"][0]["Output"]) == 2_500


def test_bytes_that_are_no_text_do_no_harm(aws: Aws) -> None:
    result = aws.result(aws.send(r"printf 'ol\303\251 \377\n'"))
    assert result["StandardOutputContent"] == "olé \ufffd\n"


def test_full_output_is_in_s3_in_the_key_layout_of_aws(aws: Aws) -> None:
    command = aws.send(
        "head -c 100000 /dev/zero | tr '\\0' a", "echo e >&2", OutputS3BucketName=aws.bucket, OutputS3KeyPrefix="runs/7"
    )
    result = aws.result(command)
    place = f"runs/7/{command}/{aws.instance}/awsrunShellScript/0.awsrunShellScript"
    assert aws.s3.head_object(Bucket=aws.bucket, Key=f"{place}/stdout")["ContentLength"] == 100_000
    assert aws.s3.get_object(Bucket=aws.bucket, Key=f"{place}/stderr")["Body"].read() == b"e\n"
    assert result["StandardOutputUrl"] == f"https://s3.us-east-1.amazonaws.com/{aws.bucket}/{place}/stdout"


def test_output_reaches_s3_only_at_the_end_and_only_where_there_is_some(aws: Aws, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    waiting = f"echo early; until [ -e {gate} ]; do sleep 0.05; done"
    command = aws.send(waiting, OutputS3BucketName=aws.bucket, OutputS3KeyPrefix="late")
    aws.reaches(command, "InProgress")
    assert aws.s3.list_objects_v2(Bucket=aws.bucket, Prefix=f"late/{command}")["KeyCount"] == 0
    gate.touch()
    aws.result(command)
    assert aws.s3.list_objects_v2(Bucket=aws.bucket, Prefix=f"late/{command}")["KeyCount"] == 1


def test_a_bucket_that_is_not_there_does_not_fail_the_command(aws: Aws) -> None:
    assert aws.result(aws.send("echo x", OutputS3BucketName="no-such-bucket"))["Status"] == "Success"


def test_whole_lines_reach_cloudwatch_while_it_runs(aws: Aws, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    command = aws.send(
        f"echo one; printf 'half '; until [ -e {gate} ]; do sleep 0.1; done; echo line; printf 'no newline'",
        CloudWatchOutputConfig={"CloudWatchOutputEnabled": True, "CloudWatchLogGroupName": "jobs"},
    )
    stream = f"{command}/{aws.instance}/aws-runShellScript/stdout"

    def lines() -> list[str]:
        try:
            events = aws.logs.get_log_events(logGroupName="jobs", logStreamName=stream, startFromHead=True)
        except aws.logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in events["events"]]

    until(lines)
    assert lines() == ["one"]
    assert aws.invocation(command)["Status"] == "InProgress"
    gate.touch()
    aws.result(command)
    assert lines() == ["one", "half line", "no newline"]


def test_five_commands_run_at_once_and_the_sixth_waits(aws: Aws, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    commands = [aws.send(f"until [ -e {gate} ]; do sleep 0.05; done") for _ in range(6)]
    for command in commands[:5]:
        aws.reaches(command, "InProgress")
    assert aws.invocation(commands[5])["Status"] == "Pending"
    gate.touch()
    assert [aws.result(command)["Status"] for command in commands] == ["Success"] * 6


# Ends that are not the script's own.


def test_execution_timeout_kills_the_group_without_a_word(aws: Aws, tmp_path: Path) -> None:
    command = aws.send(
        f"trap 'echo trapped > {tmp_path}/trapped' TERM EXIT", "sleep 60 & echo $!; wait", executionTimeout="5"
    )
    result = aws.result(command)
    assert (result["Status"], result["StatusDetails"]) == ("TimedOut", "ExecutionTimedOut")
    assert result["ResponseCode"] == 137
    until(lambda: not alive(int(result["StandardOutputContent"])))
    assert not (tmp_path / "trapped").exists()


def test_an_execution_timeout_out_of_range_is_an_hour(aws: Aws) -> None:
    command = aws.send("sleep 1.2", executionTimeout="1")
    assert aws.result(command)["Status"] == "Success"


def test_exit_code_137_reads_as_timed_out_whatever_the_cause(aws: Aws) -> None:
    for line in ("exit 137", "kill -9 $$"):
        result = aws.result(aws.send(line))
        assert (result["Status"], result["ResponseCode"]) == ("TimedOut", 137)


def test_a_script_that_another_signal_ends_has_failed(aws: Aws) -> None:
    result = aws.result(aws.send("kill -TERM $$"))
    assert (result["Status"], result["ResponseCode"]) == ("Failed", 143)


def test_exit_code_194_reboots_and_runs_it_again(aws: Aws, tmp_path: Path) -> None:
    mark = tmp_path / "once"
    command = aws.send(f"if [ -e {mark} ]; then echo again; else touch {mark}; exit 194; fi")
    assert aws.result(command)["StandardOutputContent"] == "again\n"


def test_cancel_kills_the_process_group(aws: Aws) -> None:
    command = aws.send("trap '' TERM INT; sleep 60 & echo $!; wait")
    aws.reaches(command, "InProgress")
    aws.ssm.cancel_command(CommandId=command)
    result = aws.result(command)
    assert (result["Status"], result["StatusDetails"]) == ("Cancelled", "Cancelled")
    text = result["StandardOutputContent"]
    assert not text or not alive(int(text))
    assert aws.ssm.list_commands(CommandId=command)["Commands"][0]["Status"] == "Cancelled"


def test_cancelling_what_is_over_changes_nothing_and_an_unknown_command_is_refused(aws: Aws) -> None:
    command = aws.send("true")
    aws.result(command)
    aws.ssm.cancel_command(CommandId=command)
    assert aws.invocation(command)["Status"] == "Success"
    with pytest.raises(ClientError) as error:
        aws.ssm.cancel_command(CommandId="11111111-2222-3333-4444-555555555555")
    assert code_of(error) == "InvalidCommandId"


def test_stopping_the_instance_takes_its_commands_with_it(aws: Aws, tmp_path: Path) -> None:
    """It stays InProgress, as nobody is there to say otherwise, until the next boot's agent finds its worker gone."""
    pids = tmp_path / "pids"
    command = aws.send(f"setsid sleep 60 & echo $! >> {pids}; sleep 60 & echo $! >> {pids}; wait")
    processes = until(lambda: pids.exists() and len(pids.read_text().split()) == 2 and pids.read_text().split())
    aws.stop()
    # Also what had left the process group.
    assert not any(alive(int(process)) for process in processes)
    assert aws.invocation(command)["Status"] == "InProgress"
    aws.start()
    assert aws.result(command)["Status"] == "Failed"


def test_rebooting_fails_what_ran(aws: Aws) -> None:
    command = aws.send("sleep 60")
    aws.reaches(command, "InProgress")
    aws.ec2.reboot_instances(InstanceIds=[aws.instance])
    assert aws.state() == "running"
    assert aws.result(command)["Status"] == "Failed"


def test_shutdown_in_a_job_stops_the_instance(aws: Aws) -> None:
    aws.send("shutdown -h now")
    until(lambda: aws.state() == "stopped")
    assert aws.description()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_a_planned_shutdown_can_be_cancelled(aws: Aws) -> None:
    assert aws.result(aws.send("shutdown -h +1 && shutdown -c"))["Status"] == "Success"
    assert aws.state() == "running"


def test_the_disk_survives_a_stop_and_run_does_not(aws: Aws) -> None:
    aws.result(aws.send('echo kept > "$XDG_CACHE_HOME/kept"; echo gone > "$LIGHTLY_BUSY_LOCK"'))
    aws.stop()
    aws.start()
    result = aws.result(aws.send('cat "$XDG_CACHE_HOME/kept"; test ! -e "$LIGHTLY_BUSY_LOCK"'))
    assert (result["Status"], result["StandardOutputContent"]) == ("Success", "kept\n")


# Listing.


def test_commands_are_listed_newest_first_and_filtered(aws: Aws) -> None:
    good, bad = aws.send("true"), aws.send("false")
    aws.result(good)
    aws.result(bad)
    listed = aws.ssm.list_commands(InstanceId=aws.instance)["Commands"]
    assert [command["CommandId"] for command in listed[:2]] == [bad, good]
    assert listed[0]["Status"] == "Failed"
    assert (listed[0]["ErrorCount"], listed[0]["CompletedCount"], listed[0]["TargetCount"]) == (1, 1, 1)
    failed = aws.ssm.list_commands(Filters=[{"key": "Status", "value": "Failed"}])["Commands"]
    assert bad in [command["CommandId"] for command in failed]
    assert good not in [command["CommandId"] for command in failed]
    pages = aws.ssm.get_paginator("list_commands").paginate(PaginationConfig={"PageSize": 1, "MaxItems": 2})
    assert [command["CommandId"] for page in pages for command in page["Commands"]] == [bad, good]


def test_invocations_are_listed_with_details_when_asked(aws: Aws) -> None:
    command = aws.send("echo out; exit 2", Comment="mine")
    aws.result(command)
    (plain,) = aws.ssm.list_command_invocations(CommandId=command)["CommandInvocations"]
    assert (plain["InstanceId"], plain["Comment"], plain["CommandPlugins"]) == (aws.instance, "mine", [])
    (detailed,) = aws.ssm.list_command_invocations(CommandId=command, Details=True)["CommandInvocations"]
    plugin = detailed["CommandPlugins"][0]
    assert (plugin["Status"], plugin["ResponseCode"], plugin["Output"]) == ("Failed", 2, "out\n")
    running = [{"key": "Status", "value": "InProgress"}]
    assert aws.ssm.list_command_invocations(CommandId=command, Filters=running)["CommandInvocations"] == []


def test_the_waiter_of_boto3_works(aws: Aws) -> None:
    quickly = {"Delay": 1, "MaxAttempts": 10}
    waiter = aws.ssm.get_waiter("command_executed")
    command = aws.send("true")
    waiter.wait(CommandId=command, InstanceId=aws.instance, WaiterConfig=quickly)
    command = aws.send("false")
    with pytest.raises(WaiterError):
        waiter.wait(CommandId=command, InstanceId=aws.instance, WaiterConfig=quickly)


def test_a_command_can_go_to_instances_by_tag(aws: Aws) -> None:
    command = aws.ssm.send_command(
        Targets=[{"Key": "tag:lightly:pool", "Values": ["sandbox"]}],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ["echo tagged"]},
    )["Command"]["CommandId"]
    assert aws.result(command)["StandardOutputContent"] == "tagged\n"


# Faults of agent and delivery.


def test_a_silent_agent_loses_its_connection_takes_nothing_and_reports_later(
    aws: Aws, sandbox: Sandbox, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    command = aws.send(f"until [ -e {gate} ]; do sleep 0.05; done; echo done")
    aws.reaches(command, "InProgress")
    sandbox.faults.silence_agent(aws.instance)
    gate.touch()
    waiting = aws.send("true")
    until(lambda: aws.ping() == "ConnectionLost")
    assert aws.invocation(command)["Status"] == "InProgress"
    assert aws.invocation(waiting)["Status"] == "Pending"
    sandbox.faults.clear()
    until(lambda: aws.ping() == "Online")
    assert aws.result(command)["StandardOutputContent"] == "done\n"
    assert aws.result(waiting)["Status"] == "Success"


def test_a_command_can_be_stopped_under(aws: Aws, sandbox: Sandbox) -> None:
    sandbox.faults.stop_under_command(0.1)
    command = aws.send("sleep 60")
    until(lambda: aws.state() == "stopped")
    assert aws.invocation(command)["Status"] == "InProgress"
    began = time.monotonic()
    aws.start()
    assert aws.result(command)["Status"] == "Failed"
    assert time.monotonic() - began < 10
