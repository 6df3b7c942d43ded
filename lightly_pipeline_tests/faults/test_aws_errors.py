"""What AWS answers on a bad day (reference: the table of failure modes), and what becomes of the run and the bill."""

import pytest


@pytest.mark.long
def test_nothing_goes_wrong(case, run_worker):
    run_worker.succeeds(case)
    case.at_rest(work="once", begun=1, run="SUCCESS")


def test_throttling_and_failing_services_are_sat_out(case, run_worker):
    """Rows 3 and 15, and S3's own bad moments, all in one run: each is answered by asking again."""
    for action, code, times in (
        ("ec2:DescribeInstances", "RequestLimitExceeded", 1),
        ("ec2:StartInstances", "Unavailable", 2),
        ("ssm:DescribeInstanceInformation", "ThrottlingException", 1),
        ("ssm:SendCommand", "ThrottlingException", 2),
        ("ssm:GetCommandInvocation", "InvocationDoesNotExist", 3),
        ("ssm:GetCommandInvocation", "ThrottlingException", 1),
        ("ec2:StopInstances", "RequestLimitExceeded", 3),
        ("s3:GetObject", "SlowDown", 1),
        ("s3:PutObject", "ServiceUnavailable", 1),
    ):
        case.faults.inject(action, code, times=times)
    run_worker.succeeds(case)
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.long
@pytest.mark.parametrize("action", ["ec2:StartInstances", "ec2:StopInstances", "s3:PutObject"])
def test_an_answer_that_is_lost_changes_nothing(case, run_worker, action):
    case.faults.lose_answer(action, times=2)
    run_worker.succeeds(case)
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.usefixtures("lists_lag")
def test_a_command_whose_answer_is_lost_is_not_sent_twice(case, run_worker):
    """botocore repeats a call that ended in HTTP 500: SSM would run the same job twice at once."""
    case.plan({"seconds": 2})
    case.faults.lose_answer("ssm:SendCommand")
    run_worker.succeeds(case)
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.long
def test_an_agent_that_ssm_does_not_know_yet_is_waited_for(case, run_worker):
    """Row 1: InvalidInstanceId in the first seconds after the boot."""
    case.faults.inject("ssm:SendCommand", "InvalidInstanceId", times=2)
    run_worker.succeeds(case)
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.long
def test_an_agent_that_never_comes_online_fails_the_run_with_the_remedy(case, run_worker):
    """Row 1: the profile is missing, say."""
    case.faults.silence_agent()
    assert "AmazonSSMManagedInstanceCore" in run_worker.fails(case)
    case.at_rest(work="none", begun=0, run="FAILURE")


@pytest.mark.long
def test_a_command_that_never_arrives_is_sent_again(case, run_worker):
    """Row 2: SSM says online, and the agent does not take the command."""
    case.faults.lose_commands(1)
    run_worker.succeeds(case)
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.long
def test_an_instance_that_is_still_stopping_is_waited_for_and_started(case, run_worker):
    """Row 16: IncorrectInstanceState of a start while `stopping`."""
    ec2, [instance_id] = case.world.client("ec2"), case.world.sandbox.instance_ids
    ec2.start_instances(InstanceIds=[instance_id])
    case.until("the instance runs", case.some("running"))
    case.faults.delay_stop(2)
    ec2.stop_instances(InstanceIds=[instance_id])
    run_worker.succeeds(case)
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.long
def test_a_stop_that_hangs_is_forced_by_the_sensor(case, run_worker):
    """Row 18: the run ends, the instance stays in `stopping`."""
    case.faults.delay_stop(None)
    run_worker.succeeds(case)
    assert set(case.states().values()) == {"stopping"}
    case.until("the stop is forced", lambda: "forced" in case.sensor(), case.runner["stopping_timeout_seconds"] + 10)
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.long
def test_no_capacity_ends_in_a_sentence_and_costs_nothing(case, run_worker):
    """Row 19, an instance of the only kind there is."""
    case.faults.inject("ec2:StartInstances", "InsufficientInstanceCapacity", times=None)
    assert "no capacity" in run_worker.fails(case)
    case.at_rest(work="none", begun=0, run="FAILURE")


@pytest.mark.parametrize(
    ("action", "code", "said"),
    [
        ("ssm:SendCommand", "AccessDeniedException", "do not allow SendCommand"),
        *(
            pytest.param(*row, marks=pytest.mark.long)
            for row in (
                ("ec2:StartInstances", "VcpuLimitExceeded", "Service Quotas"),
                ("ec2:StartInstances", "UnauthorizedOperation", "do not allow StartInstances"),
                ("ec2:DescribeInstances", "UnauthorizedOperation", "do not allow DescribeInstances"),
                ("ssm:GetCommandInvocation", "AccessDeniedException", "do not allow GetCommandInvocation"),
                ("s3:PutObject", "AccessDenied", "do not allow PutObject"),
            )
        ),
    ],
)
def test_what_no_retry_cures_fails_at_once_and_leaves_nothing_up(case, run_worker, action, code, said):
    """Rows 20 and 21."""
    case.plan({"wait": True})
    case.faults.inject(action, code, times=None)
    assert said in run_worker.fails(case)
    # The look from outside asks the same AWS.
    case.faults.clear()
    case.at_rest(work="none", begun=(0, 1), run="FAILURE")


@pytest.mark.long
def test_a_dry_run_that_somebody_put_in_between_starts_nothing_and_is_told(case, run_worker):
    """Row 22: the success of a dry run is an error, and no run of ours asks for one."""
    case.faults.inject("ec2:StartInstances", "DryRunOperation", times=None, status=412)
    assert "DryRunOperation" in run_worker.fails(case)
    case.at_rest(work="none", begun=0, run="FAILURE")


@pytest.mark.long
def test_no_run_starts_drily_or_hibernates_its_instance(case, run_worker):
    """Rows 22 and 24: a hibernating instance is billed while it stops. Calls that ask for either are refused here."""
    for action, asked in (("ec2:StartInstances", "DryRun=true"), ("ec2:StopInstances", "Hibernate=true")):
        case.faults.inject(action, "UnsupportedOperation", times=None, mentions=asked)
    run_worker.succeeds(case)
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.long
def test_a_stop_that_is_not_allowed_is_made_good_by_the_sensor(case, run_worker):
    """Row 21 at its worst: the work is done, and the policy lacks ec2:StopInstances until somebody adds it."""
    case.faults.inject("ec2:StopInstances", "UnauthorizedOperation", times=None)
    run_worker.begin(case)
    run_worker.end(case, well=None)
    assert any("do not allow StopInstances" in event for event in case.events()), case.situation()
    assert set(case.states().values()) == {"running"}
    case.faults.clear()
    case.recover(case.runner["door_seconds"])
    case.at_rest(work="once", begun=1)


@pytest.mark.long
def test_the_credentials_expire_while_the_job_runs(case, run_worker):
    case.plan({"wait": True})
    run_worker.begin(case)
    case.until("the job runs", lambda: case.ledger("begin"))
    case.faults.inject("ssm:GetCommandInvocation", "ExpiredTokenException", times=None)
    run_worker.end(case, well=False)
    assert "credentials" in case.failure()
    case.at_rest(work="none", begun=1, run="FAILURE")
