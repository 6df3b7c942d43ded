"""The 28 ways in which SSM Run Command on EC2 fails, each with the handling that is right for it.

On a clock of its own (`virtual_cloud`), with AWS's real delays and the runner's real deadlines; what really runs is
tested against the sandbox. Every test names the row it stands for, and the last one holds that none is missing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lightly_pipeline.runner import (
    CommandSettings,
    Deadlines,
    Job,
    LeaseSettings,
    RunnerSettings,
    Watcher,
)
from lightly_pipeline.runner.errors import (
    CommandFailed,
    CommandKilled,
    CommandTimedOut,
    ConfigurationError,
    InstanceGone,
    InstanceTaken,
    NoCapacity,
    NotPermitted,
    NotReady,
    PoolBusy,
    QuotaExceeded,
)
from lightly_pipeline.runner.record import Record
from lightly_pipeline.runner.script import command_text
from lightly_pipeline_tests.runner.virtual_cloud import VirtualCloud, VirtualProcess, run_together

JOB = Job("run/step/0", ["/home/ubuntu/run.sh", "in", "out"], 3600)
FIRST, SECOND = "i-00000000000000001", "i-00000000000000002"


class Said(Watcher):
    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str] = []
        self.commands: list[str] = []

    def said(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def sent(self, sent: Any) -> None:
        self.commands.append(sent.id)


@pytest.fixture
def cloud() -> Iterator[VirtualCloud]:
    made = VirtualCloud()
    yield made
    for name, machine in made.machines.items():
        stored = made.objects.get(f".lightly/instances/{name}.json")
        record = Record.from_json(stored[0]) if stored else Record()
        assert machine.state in ("stopping", "stopped", "terminated"), f"{name} is left {machine.state}"
        assert not record.leases, record
        assert record.door is None, record


def run(cloud: VirtualCloud, job: Job = JOB, **settings: Any) -> tuple[Any, Said]:
    said = Said()
    return cloud.runner(RunnerSettings(**settings)).run(job, said), said


def test_row_1_a_running_instance_without_agent_gets_a_sentence_within_its_deadline(cloud: VirtualCloud) -> None:
    cloud.agent = 1e9
    begun = cloud.now
    with pytest.raises(NotReady, match=r"AmazonSSMManagedInstanceCore.*amazon-ssm-agent"):
        run(cloud)
    assert 300 <= cloud.now - begun - cloud.pending < 330


def test_row_1_a_command_that_ssm_refuses_although_the_agent_is_online_is_tried_again(cloud: VirtualCloud) -> None:
    cloud.fail("SendCommand", "InvalidInstanceId", times=3)
    run(cloud)
    assert cloud.called("SendCommand") == 4


def test_row_2_a_ping_from_before_the_start_does_not_count(cloud: VirtualCloud) -> None:
    from datetime import datetime, timezone

    old = datetime.fromtimestamp(cloud.now - 3600, timezone.utc)
    stale = {"InstanceInformationList": [{"InstanceId": FIRST, "PingStatus": "Online", "LastPingDateTime": old}]}
    cloud.meddle("DescribeInstanceInformation", lambda **_: stale, times=8)
    run(cloud)
    sent_at = next(moment for moment, name, _ in cloud.calls if name == "SendCommand")
    assert sent_at - cloud.machines[FIRST].launched >= cloud.pending + cloud.agent


def test_row_2_a_command_has_a_minute_to_be_delivered(cloud: VirtualCloud) -> None:
    run(cloud)
    arguments = next(arguments for _, name, arguments in cloud.calls if name == "SendCommand")
    assert arguments["TimeoutSeconds"] == 60


def test_row_3_a_command_that_ssm_does_not_know_yet_is_asked_for_again(cloud: VirtualCloud) -> None:
    cloud.fail("GetCommandInvocation", "InvocationDoesNotExist", times=5)
    finished, _ = run(cloud)
    assert finished.attempts == 1


def test_row_3_a_command_that_ssm_never_knows_is_sent_again_after_half_a_minute(cloud: VirtualCloud) -> None:
    cloud.fail("GetCommandInvocation", "InvocationDoesNotExist", times=32)
    finished, said = run(cloud)
    assert finished.attempts == 2
    assert any("has not known command" in sentence for sentence in said.sentences)


def test_row_4_a_command_of_an_hour_is_followed_and_cancelling_is_not_taken_for_its_end(cloud: VirtualCloud) -> None:
    cloud.job_seconds = 3000
    cancelling = {"Status": "Cancelling", "StatusDetails": "Cancelling", "ResponseCode": -1}
    cloud.meddle("GetCommandInvocation", lambda **_: cancelling, times=20)
    finished, _ = run(cloud)
    assert 3000 <= finished.command_seconds < 3010


def test_row_5_an_unknown_status_is_not_an_end(cloud: VirtualCloud) -> None:
    odd = {"Status": "Delayed", "StatusDetails": "Whatever", "ResponseCode": -1}
    cloud.meddle("GetCommandInvocation", lambda **_: odd, times=4)
    finished, _ = run(cloud)
    assert finished.attempts == 1


@pytest.mark.parametrize("details", ["DeliveryTimedOut", "Undeliverable", "Delivery Timed Out"])
def test_row_5_a_command_that_was_not_delivered_is_sent_again(cloud: VirtualCloud, details: str) -> None:
    lost = {"Status": "TimedOut", "StatusDetails": details, "ResponseCode": -1}
    cloud.meddle("GetCommandInvocation", lambda **_: lost, times=1)
    finished, said = run(cloud)
    assert finished.attempts == 2
    assert any("was not delivered" in sentence for sentence in said.sentences)


@pytest.mark.parametrize("details", ["Terminated", "AccessDenied", "InvalidPlatform"])
def test_row_5_other_ends_are_failures_with_their_details(cloud: VirtualCloud, details: str) -> None:
    ended = {"Status": "Failed", "StatusDetails": details, "ResponseCode": -1}
    cloud.meddle("GetCommandInvocation", lambda **_: ended, times=1)
    with pytest.raises(CommandFailed, match=details):
        run(cloud)
    assert cloud.called("SendCommand") == 1


@pytest.mark.parametrize("timeout", [0, 4, 172801])
def test_row_6_a_timeout_that_the_agent_would_silently_change_is_refused(cloud: VirtualCloud, timeout: int) -> None:
    with pytest.raises(ConfigurationError, match="5 to 172800 s"):
        run(cloud, Job("run/step/0", ["x"], timeout))


def test_row_6_the_execution_timeout_is_always_sent_as_text(cloud: VirtualCloud) -> None:
    run(cloud)
    arguments = next(arguments for _, name, arguments in cloud.calls if name == "SendCommand")
    assert arguments["Parameters"]["executionTimeout"] == ["3600"]


def test_row_6_a_job_beyond_its_timeout_is_a_timeout_and_not_sent_again(cloud: VirtualCloud) -> None:
    cloud.job_seconds = 7200
    with pytest.raises(CommandTimedOut, match="within its 3600 s"):
        run(cloud)
    assert cloud.called("SendCommand") == 1


def test_row_7_an_agent_that_never_answers_is_given_up_after_every_timeout_is_over(cloud: VirtualCloud) -> None:
    cloud.agent_takes_commands = False
    begun = cloud.now
    with pytest.raises(InstanceTaken, match="beyond its timeout"):
        run(cloud, Job("run/step/0", ["x"], 60), attempts=1)
    assert 60 + 60 <= cloud.now - begun - cloud.pending - cloud.agent < 250


def test_row_8_the_complete_output_is_asked_for_in_s3(cloud: VirtualCloud) -> None:
    run(cloud)
    arguments = next(arguments for _, name, arguments in cloud.calls if name == "SendCommand")
    assert arguments["OutputS3BucketName"] == "bucket"
    assert arguments["OutputS3KeyPrefix"] == ".lightly/runs/run/step/0/1/output"


def test_row_8_an_error_quotes_the_last_lines_from_s3_not_the_first_of_ssm(cloud: VirtualCloud) -> None:
    def ended(CommandId: str, **_: Any) -> Any:
        key = f".lightly/runs/run/step/0/1/output/{CommandId}/{FIRST}/awsrunShellScript/0.awsrunShellScript/stderr"
        cloud.objects[key] = (b"the cause\n", "etag", {})
        return {"Status": "Failed", "StatusDetails": "Failed", "ResponseCode": 3, "StandardErrorContent": "begins"}

    cloud.meddle("GetCommandInvocation", ended)
    with pytest.raises(CommandFailed, match="exit code 3") as raised:
        run(cloud)
    assert raised.value.tail == "the cause"
    assert raised.value.exit_code == 3


def test_row_9_a_cancelled_job_on_a_shared_instance_has_its_container_killed(cloud: VirtualCloud) -> None:
    lease = LeaseSettings(max_jobs=2)
    other = cloud.runner(RunnerSettings(lease=lease))
    hold = other._hold(Job("other/step/0", ["x"], 60), Said(), _gate())
    hold.acquire()

    class Interrupted(Said):
        def tick(self, sent: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cloud.runner(RunnerSettings(lease=lease)).run(JOB, Interrupted())
    assert cloud.machines[FIRST].state == "running"
    assert cloud.called("CancelCommand") == 1
    commands = list(cloud.commands.values())
    assert commands[0].status == "Cancelled"
    assert f"docker kill lightly-{commands[0].id}" in commands[1].text
    hold.release()


def test_row_10_exit_code_137_is_passed_on_as_237_and_told_as_killed(cloud: VirtualCloud) -> None:
    cloud.job_code = 237
    with pytest.raises(CommandKilled, match="memory ran out") as raised:
        run(cloud)
    assert raised.value.exit_code == 137
    assert "137) " in command_text(["x"])


def test_row_11_exit_code_194_does_not_reboot_the_instance(cloud: VirtualCloud) -> None:
    cloud.job_code = 238
    with pytest.raises(CommandFailed, match="exit code 194"):
        run(cloud)
    assert "194) " in command_text(["x"])


def test_row_12_commands_are_bash_that_stops_at_the_first_error_and_knows_its_home() -> None:
    lines = command_text(["x"]).splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines[1] == "set -euo pipefail"
    assert 'export HOME="${HOME:-/root}"' in lines


def test_row_13_an_instance_stopped_under_the_command_is_started_again_and_the_command_sent_again(
    cloud: VirtualCloud,
) -> None:
    cloud.job_seconds = 100
    cloud.at(cloud.now + 80, lambda: cloud.lose(FIRST))
    finished, said = run(cloud)
    assert finished.attempts == 2
    assert cloud.machines[FIRST].starts == 2
    assert any("stopping under the command" in sentence for sentence in said.sentences)
    # The messages of the second command must not be read from where the first one's are.
    prefixes = [arguments["OutputS3KeyPrefix"] for _, name, arguments in cloud.calls if name == "SendCommand"]
    assert prefixes == [".lightly/runs/run/step/0/1/output", ".lightly/runs/run/step/0/2/output"]


def test_row_13_a_command_that_the_agent_reports_failed_after_a_restart_was_lost_not_failed(
    cloud: VirtualCloud,
) -> None:
    cloud.job_seconds = 100
    cloud.stopping = cloud.pending = cloud.agent = 1
    cloud.at(cloud.now + 30, lambda: cloud.lose(FIRST))
    cloud.at(cloud.now + 32, lambda: cloud._start_instances([FIRST]))
    finished, _ = run(cloud)
    assert finished.attempts == 2


def test_row_13_a_command_is_sent_three_times_at_most(cloud: VirtualCloud) -> None:
    cloud.job_seconds = 1000
    for number in range(1, 40):
        cloud.at(cloud.now + 100 * number, lambda: cloud.lose(FIRST))
    with pytest.raises(InstanceTaken):
        run(cloud)
    assert cloud.called("SendCommand") == 3


def test_row_14_an_agent_that_restarts_is_not_the_end_of_the_command(cloud: VirtualCloud) -> None:
    """While the command runs nobody asks for the agent's ping: ConnectionLost means nothing then."""
    cloud.job_seconds = 600
    run(cloud)
    sent_at = next(moment for moment, name, _ in cloud.calls if name == "SendCommand")
    assert not [1 for moment, name, _ in cloud.calls if name == "DescribeInstanceInformation" and moment > sent_at]


def test_row_15_throttling_is_left_to_botocore_and_calls_are_few_enough_for_32_instances(cloud: VirtualCloud) -> None:
    from lightly_pipeline.runner.aws import _PATIENT

    assert _PATIENT.retries == {"mode": "standard", "total_max_attempts": 10}
    cloud.job_seconds = 1800
    run(cloud, Job("run/step/0", ["x"], 3600))
    sent_at = next(moment for moment, name, _ in cloud.calls if name == "SendCommand")
    running = [name for moment, name, _ in cloud.calls if sent_at + 120 < moment < sent_at + 1720]
    per_minute = len(running) / (1600 / 60)
    assert per_minute < 20, per_minute
    assert 32 * running.count("DescribeInstances") / 1600 < 4


def test_row_15_thirty_two_instances_that_start_together_stay_within_the_limits_of_each_action() -> None:
    """EC2's bucket for a describe action holds 100 calls and gets 20 a second; of SSM, which publishes no limit, the
    same is assumed."""
    cloud = VirtualCloud(32)
    cloud.job_seconds = 240
    jobs = [Job(f"run{number}/step/0", JOB.argv, JOB.timeout) for number in range(32)]

    def work(job: Job) -> Any:
        return lambda runner: runner.run(job)

    run_together([VirtualProcess(cloud, RunnerSettings(), work(job)) for job in jobs], cloud)
    assert sum(machine.starts for machine in cloud.machines.values()) == 32
    for action in ("DescribeInstances", "DescribeInstanceInformation", "GetCommandInvocation"):
        left, before = 100.0, cloud.calls[0][0]
        for moment, name, _ in cloud.calls:
            if name == action:
                left, before = min(100.0, left + 20 * (moment - before)) - 1, moment
                assert left >= 0, f"{action} {moment - cloud.calls[0][0]:.1f} s after the beginning"


def test_row_15_who_waits_for_a_slot_leaves_ec2_in_peace(cloud: VirtualCloud) -> None:
    holder = cloud.runner(RunnerSettings(lease=LeaseSettings(ttl=1e6)))
    hold = holder._hold(Job("other/step/0", ["x"], 60), Said(), _gate())
    hold.acquire()
    cloud.calls.clear()
    with pytest.raises(PoolBusy):
        cloud.runner(RunnerSettings(lease=LeaseSettings(queue=600))).run(JOB, Said())
    assert cloud.called("DescribeInstances") <= 61
    hold.release()


def test_the_end_of_a_long_command_is_seen_within_a_second_once_its_worker_has_said_goodbye(
    cloud: VirtualCloud,
) -> None:
    """The agent reports the end some seconds after the worker's last message, and a long wait would be billed."""
    cloud.job_seconds = 1800

    class Told(Said):
        def tick(self, sent: Any) -> None:
            if cloud.commands[sent.id].ends - 14 < cloud.now and not self.told:
                self.told = True
                self.woken.set()

        told = False

    said = Told()
    finished = cloud.runner().run(Job("run/step/0", ["x"], 3600), said)
    assert said.told
    assert finished.command_seconds < 1800 + 1.2


def test_row_16_an_instance_that_is_stopping_is_waited_for_and_started(cloud: VirtualCloud) -> None:
    cloud._start_instances([FIRST])
    cloud.pass_time(60)
    cloud.lose(FIRST)
    finished, _ = run(cloud)
    assert cloud.machines[FIRST].starts == 2
    assert finished.starts == 1


def test_row_17_an_instance_that_is_still_pending_is_stopped_as_soon_as_ec2_lets_it(cloud: VirtualCloud) -> None:
    interrupted: list[float] = []

    def interrupt(**_: Any) -> None:
        if cloud.machines[FIRST].state == "pending" and not interrupted:
            interrupted.append(cloud.now)
            raise KeyboardInterrupt

    cloud.meddle("DescribeInstances", interrupt)
    said = Said()
    with pytest.raises(KeyboardInterrupt):
        cloud.runner().run(JOB, said)
    assert cloud.called("StopInstances") > 1
    assert any("does not stop" in sentence for sentence in said.sentences)


def test_row_18_a_stop_that_hangs_is_forced_and_the_instance_not_used_before(cloud: VirtualCloud) -> None:
    cloud._start_instances([FIRST])
    cloud.pass_time(60)
    cloud.stopping = 1e9
    cloud.lose(FIRST)
    cloud.stopping = 40
    finished, _ = run(cloud)
    forced = [arguments for _, name, arguments in cloud.calls if name == "StopInstances" and arguments["Force"]]
    assert len(forced) == 1
    assert finished.starts == 1


def test_row_18_the_sensor_forces_a_stop_that_hangs(cloud: VirtualCloud) -> None:
    cloud.stopping = 1e9
    run(cloud)
    runner = cloud.runner()
    assert runner.release_expired() == {}
    cloud.pass_time(700)
    assert "forced" in runner.release_expired()[FIRST]
    assert cloud.machines[FIRST].state == "stopping"
    cloud.pass_time(1)
    assert cloud.machines[FIRST].state == "stopped"


def test_row_19_an_instance_without_capacity_is_tried_again_within_its_deadline(cloud: VirtualCloud) -> None:
    cloud.fail("StartInstances", "InsufficientInstanceCapacity", times=3)
    finished, said = run(cloud)
    assert finished.attempts == 1
    assert any("no capacity" in sentence for sentence in said.sentences)


def test_row_19_without_any_capacity_the_job_ends_with_a_sentence_and_nothing_is_billed(cloud: VirtualCloud) -> None:
    cloud.fail("StartInstances", "InsufficientInstanceCapacity")
    begun = cloud.now
    with pytest.raises(NoCapacity, match="Nothing is billed"):
        run(cloud)
    assert 600 <= cloud.now - begun < 700
    assert cloud.machines[FIRST].starts == 0


def test_row_19_the_next_instance_of_the_pool_is_taken(cloud: VirtualCloud) -> None:
    cloud.machines[SECOND] = type(cloud.machines[FIRST])(SECOND)

    def only_the_first(InstanceIds: list[str], **_: Any) -> None:
        if InstanceIds == [FIRST]:
            from lightly_pipeline_tests.runner.virtual_cloud import aws_error

            raise aws_error("InsufficientInstanceCapacity", "StartInstances")

    cloud.meddle("StartInstances", only_the_first)
    finished, _ = run(cloud)
    assert finished.instance.id == SECOND
    assert cloud.machines[FIRST].starts == 0


@pytest.mark.parametrize("code", ["VcpuLimitExceeded", "InstanceLimitExceeded"])
def test_row_20_a_quota_fails_at_once_with_the_remedy(cloud: VirtualCloud, code: str) -> None:
    cloud.fail("StartInstances", code)
    with pytest.raises(QuotaExceeded, match="Service Quotas"):
        run(cloud)
    assert cloud.called("StartInstances") == 1


@pytest.mark.parametrize("code", ["SpotMaxPriceTooLow", "IncorrectSpotRequestState"])
def test_row_20_spot_refusals_count_as_no_capacity(cloud: VirtualCloud, code: str) -> None:
    cloud.fail("StartInstances", code, times=1)
    finished, _ = run(cloud)
    assert finished.attempts == 1


def test_row_21_a_missing_permission_names_the_action_and_decodes_the_reason(cloud: VirtualCloud) -> None:
    message = "You are not authorized. Encoded authorization failure message: abc123"
    cloud.fail("StartInstances", "UnauthorizedOperation", message=message)
    with pytest.raises(NotPermitted, match=r"StartInstances.*decoded:abc123"):
        run(cloud)
    assert cloud.called("StartInstances") == 1


def test_row_22_no_run_spends_a_call_on_a_dry_run(cloud: VirtualCloud) -> None:
    run(cloud)
    assert not [1 for _, _, arguments in cloud.calls if arguments.get("DryRun")]


def test_row_23_an_unknown_instance_fails_at_once(cloud: VirtualCloud) -> None:
    begun = cloud.now
    with pytest.raises(InstanceGone, match=r"i-0doesnotexist.*LIGHTLY_INSTANCES"):
        cloud.runner(instances="i-0doesnotexist").run(JOB)
    assert cloud.now == begun


def test_row_23_a_terminated_instance_fails_at_once(cloud: VirtualCloud) -> None:
    cloud.machines[FIRST].state = "terminated"
    begun = cloud.now
    with pytest.raises(InstanceGone):
        run(cloud)
    assert cloud.now == begun


def test_row_24_instances_are_stopped_and_never_hibernated(cloud: VirtualCloud) -> None:
    run(cloud)
    stops = [arguments for _, name, arguments in cloud.calls if name == "StopInstances"]
    assert stops
    assert not any(arguments.get("Hibernate") for arguments in stops)


def test_row_25_a_clean_up_makes_few_calls_and_waits_for_nothing(cloud: VirtualCloud) -> None:
    class Interrupted(Said):
        def tick(self, sent: Any) -> None:
            if cloud.now > sent_at[0] + 5:
                interrupted_at.append((cloud.now, len(cloud.calls)))
                raise KeyboardInterrupt

        def sent(self, sent: Any) -> None:
            sent_at.append(cloud.now)

    sent_at: list[float] = []
    interrupted_at: list[tuple[float, int]] = []
    with pytest.raises(KeyboardInterrupt):
        cloud.runner().run(JOB, Interrupted())
    moment, calls = interrupted_at[0]
    assert cloud.now == moment
    after = [name for _, name, _ in cloud.calls[calls:]]
    assert after == ["CancelCommand", "GetObject", "PutObject", "StopInstances", "GetObject", "PutObject"]


def test_row_26_an_error_that_is_no_exception_releases_as_well(cloud: VirtualCloud) -> None:
    class NotAnException(BaseException):
        pass

    class Interrupted(Said):
        def tick(self, sent: Any) -> None:
            raise NotAnException

    with pytest.raises(NotAnException):
        cloud.runner().run(JOB, Interrupted())
    assert cloud.machines[FIRST].state == "stopping"


def test_row_27_a_run_that_restarts_follows_the_command_that_it_had_sent(cloud: VirtualCloud) -> None:
    class Killed(BaseException):
        pass

    cloud.job_seconds = 300
    dead: list[bool] = []

    def gate(operation: str) -> None:
        if dead or (operation == "GetCommandInvocation" and cloud.commands):
            dead.append(True)
            raise Killed

    with pytest.raises(Killed):
        cloud.runner(gate=gate).run(JOB)
    assert cloud.machines[FIRST].state == "running"
    finished, said = run(cloud, Job(JOB.holder, JOB.argv, JOB.timeout, instance_hint=FIRST))
    assert finished.attached
    assert cloud.called("SendCommand") == 1
    assert any("is still under way" in sentence for sentence in said.sentences)


def test_row_27_a_new_run_takes_the_place_of_the_dead_one_it_replaces(cloud: VirtualCloud) -> None:
    class Killed(BaseException):
        pass

    cloud.job_seconds = 300
    dead: list[bool] = []

    def gate(operation: str) -> None:
        if dead or (operation == "GetCommandInvocation" and cloud.commands):
            dead.append(True)
            raise Killed

    with pytest.raises(Killed):
        cloud.runner(gate=gate).run(JOB)
    again = Job("again/step/0", JOB.argv, JOB.timeout, adopt=[JOB.holder], instance_hint=FIRST)
    finished, _ = run(cloud, again)
    assert finished.attached
    assert cloud.called("SendCommand") == 1


def test_row_27_a_command_with_other_arguments_is_not_taken_for_this_job(cloud: VirtualCloud) -> None:
    """A re-execution with another configuration must not end with the result of the old one."""

    class Killed(BaseException):
        pass

    cloud.job_seconds = 300
    dead: list[bool] = []

    def gate(operation: str) -> None:
        if dead or (operation == "GetCommandInvocation" and cloud.commands):
            dead.append(True)
            raise Killed

    with pytest.raises(Killed):
        cloud.runner(gate=gate).run(JOB)
    changed = Job("again/step/0", [*JOB.argv, "n=2"], JOB.timeout, adopt=[JOB.holder], instance_hint=FIRST)
    finished, said = run(cloud, changed)
    assert not finished.attached
    assert [command.status for command in cloud.commands.values()] == ["Cancelled", "Success"]
    assert any("with other arguments" in sentence for sentence in said.sentences)


def test_row_27_a_hint_at_an_instance_that_is_gone_is_no_obstacle(cloud: VirtualCloud) -> None:
    finished, _ = run(cloud, Job(JOB.holder, JOB.argv, JOB.timeout, instance_hint="i-0gone"))
    assert finished.attempts == 1


def test_row_28_more_jobs_than_the_agent_runs_at_once_cannot_be_configured() -> None:
    from pydantic import ValidationError

    from lightly_pipeline.resources.runner import RunnerResource

    assert RunnerResource().max_jobs_per_instance == 1
    with pytest.raises(ValidationError):
        RunnerResource(max_jobs_per_instance=6)


def test_row_28_a_job_waits_while_all_instances_are_busy_says_why_and_ends_within_its_bound(
    cloud: VirtualCloud,
) -> None:
    holder = cloud.runner(RunnerSettings(lease=LeaseSettings(ttl=1e6)))
    hold = holder._hold(Job("other/step/0", ["x"], 60), Said(), _gate())
    hold.acquire()
    said = Said()
    begun = cloud.now
    with pytest.raises(PoolBusy, match="max_jobs_per_instance"):
        cloud.runner(RunnerSettings(lease=LeaseSettings(queue=600))).run(JOB, said)
    assert 600 <= cloud.now - begun < 620
    assert any("works for other/step/0" in sentence for sentence in said.sentences)
    assert cloud.machines[FIRST].state == "running"
    hold.release()


def test_every_row_of_the_table_has_a_test() -> None:
    rows = {int(found[1]) for name in vars(sys.modules[__name__]) if (found := re.match(r"test_row_(\d+)_", name))}
    assert rows == set(range(1, 29))


def test_all_settings_of_a_runner_have_the_values_that_the_design_names() -> None:
    assert (LeaseSettings().ttl, LeaseSettings().renew_every, LeaseSettings().door) == (900, 180, 60)
    assert (Deadlines().agent, Deadlines().capacity) == (300, 600)
    assert CommandSettings().delivery_timeout == 60
    assert RunnerSettings().attempts == 3


def _gate() -> Any:
    from lightly_pipeline.runner.interrupts import InterruptGate

    return InterruptGate()
