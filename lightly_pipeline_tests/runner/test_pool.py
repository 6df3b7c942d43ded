"""Several jobs on one instance and on a pool, and what each of them owes, on a clock of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightly_pipeline.runner import Finished, InstanceRunner, Job, LeaseSettings, Price, RunnerSettings, Watcher
from lightly_pipeline.runner import record as transitions
from lightly_pipeline.runner.errors import ConfigurationError, PermanentError
from lightly_pipeline.runner.interrupts import InterruptGate
from lightly_pipeline.runner.record import Lease, Meter, Record, UnreadableRecord
from lightly_pipeline.runner.script import command_text, quoted
from lightly_pipeline_tests.runner.virtual_cloud import BUCKET, VirtualCloud, VirtualProcess, run_together

FIRST, SECOND, THIRD = (f"i-{number:017x}" for number in (1, 2, 3))


def _job(name: str) -> Job:
    return Job(f"{name}/step/0", ["work"], 3600)


class _Lingering(Watcher):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def linger(self) -> float:
        return self._seconds


def _together(cloud: VirtualCloud, jobs: int, settings: RunnerSettings) -> list[Finished]:
    """Run jobs at the same time, each in a process of its own."""

    def work(name: str) -> Callable[[InstanceRunner], Finished]:
        return lambda runner: runner.run(_job(name))

    processes = [VirtualProcess(cloud, settings, work(f"run{number}")) for number in range(jobs)]
    run_together(processes, cloud)
    assert [process.error for process in processes] == [None] * jobs
    return [process.result for process in processes]


def test_twenty_jobs_that_wait_for_one_instance_cost_one_start() -> None:
    cloud = VirtualCloud()
    finished = _together(cloud, 20, RunnerSettings())
    assert len(finished) == 20
    assert cloud.machines[FIRST].starts == 1
    assert cloud.machines[FIRST].state in ("stopping", "stopped")


def test_jobs_spread_over_the_pool_when_an_instance_takes_one() -> None:
    cloud = VirtualCloud(3)
    cloud.job_seconds = 300
    finished = _together(cloud, 3, RunnerSettings())
    assert {each.instance.id for each in finished} == {FIRST, SECOND, THIRD}


def test_jobs_share_an_instance_up_to_its_slots_before_the_next_is_started() -> None:
    cloud = VirtualCloud(2)
    cloud.job_seconds = 300
    finished = _together(cloud, 4, RunnerSettings(lease=LeaseSettings(max_jobs=4)))
    assert len(finished) == 4
    assert sum(machine.starts for machine in cloud.machines.values()) <= 2


def test_the_order_of_the_list_is_the_order_of_preference() -> None:
    cloud = VirtualCloud(2)
    assert cloud.runner(instances=f"{SECOND} , {FIRST}").run(_job("a")).instance.id == SECOND


def test_a_running_instance_is_taken_before_one_that_would_have_to_start() -> None:
    cloud = VirtualCloud(2)
    cloud._start_instances([SECOND])
    cloud.pass_time(100)
    assert cloud.runner().run(_job("a")).instance.id == SECOND


def test_a_pool_can_be_those_instances_that_have_a_tag() -> None:
    cloud = VirtualCloud(3)
    cloud.machines[THIRD].tags = [{"Key": "lightly:pool", "Value": "gpu"}]
    assert cloud.runner(instances="tag:lightly:pool=gpu").run(_job("a")).instance.id == THIRD


@pytest.mark.parametrize("text", ["", "tag:pool", "web-1", "tag:=x"])
def test_a_pool_that_cannot_be_read_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ConfigurationError, match="tag:Name=value"):
        VirtualCloud().runner(instances=text or ",")


def test_an_instance_that_lingers_is_there_for_the_next_job_and_goes_when_none_comes() -> None:
    cloud = VirtualCloud()
    runner = cloud.runner()
    runner.run(_job("a"), _Lingering(120))
    assert cloud.machines[FIRST].state == "running"
    cloud.pass_time(60)
    assert runner.release_expired() == {}
    runner.run(_job("b"), _Lingering(120))
    assert cloud.machines[FIRST].starts == 1
    cloud.pass_time(121)
    assert "has expired" in runner.release_expired()[FIRST]
    assert cloud.machines[FIRST].state == "stopping"


def test_a_job_that_fails_lingers_no_less_than_one_that_works() -> None:
    """A broken video in the middle of a queue must not cost the others a start."""
    cloud = VirtualCloud()
    cloud.job_code = 3
    with pytest.raises(PermanentError):
        cloud.runner().run(_job("a"), _Lingering(120))
    assert cloud.machines[FIRST].state == "running"


def test_the_sensor_leaves_an_instance_alone_that_somebody_keeps() -> None:
    cloud = VirtualCloud()
    cloud._start_instances([FIRST])
    cloud.pass_time(100)
    cloud.machines[FIRST].tags = [{"Key": "lightly:keep", "Value": "me"}]
    assert cloud.runner().release_expired() == {}
    cloud.machines[FIRST].tags = []
    assert FIRST in cloud.runner().release_expired()


def test_a_start_of_seconds_is_billed_as_a_minute() -> None:
    cloud = VirtualCloud(pending=1, agent=1)
    finished = cloud.runner(RunnerSettings(price=Price(3.6))).run(_job("a"))
    assert finished.billed_seconds == pytest.approx(60, abs=1)
    assert finished.cost == pytest.approx(0.06, abs=0.001)


def test_jobs_that_share_an_instance_share_its_seconds() -> None:
    cloud = VirtualCloud(pending=0.5, agent=1)
    cloud.job_seconds = 600
    finished = _together(cloud, 2, RunnerSettings(lease=LeaseSettings(max_jobs=2)))
    seconds = [each.billed_seconds for each in finished]
    assert sum(seconds) == pytest.approx(604, abs=8)
    assert seconds[0] == pytest.approx(seconds[1], rel=0.1)


def test_what_an_instance_stood_idle_is_owed_by_the_job_for_which_it_waited() -> None:
    cloud = VirtualCloud()
    runner = cloud.runner()
    first = runner.run(_job("a"), _Lingering(500))
    cloud.pass_time(300)
    second = runner.run(_job("b"))
    assert second.billed_seconds == pytest.approx(300 + 11, abs=3)
    assert first.billed_seconds == pytest.approx(20 + 30 + 11, abs=6)


def test_a_lease_of_a_dead_holder_can_be_released_by_hand_and_a_live_one_stopped() -> None:
    cloud = VirtualCloud()
    runner = cloud.runner()
    hold = runner._hold(_job("dead"), Watcher(), InterruptGate())
    hold.acquire()
    assert [status.record.live(status.now) != {} for status in runner.status()] == [True]
    assert runner.release("dead/step/0") == [FIRST]
    assert cloud.machines[FIRST].state == "stopping"
    again = runner._hold(_job("live"), Watcher(), InterruptGate())
    again.acquire()
    runner.stop(FIRST)
    assert cloud.machines[FIRST].state == "stopping"
    assert not runner.store.read(FIRST).leases


def test_a_lost_answer_of_a_write_is_not_taken_for_a_lost_race() -> None:
    """botocore repeats a PUT whose answer was lost; the repetition is refused because the first one arrived."""
    cloud = VirtualCloud()
    runner = cloud.runner()
    real = cloud._put_object

    def lost(**arguments: Any) -> Any:
        real(**arguments)
        from lightly_pipeline_tests.runner.virtual_cloud import aws_error

        raise aws_error("PreconditionFailed", "PutObject")

    cloud.meddle("PutObject", lost, times=1)
    assert runner.run(_job("a")).attempts == 1
    assert cloud.machines[FIRST].starts == 1


def test_a_record_that_cannot_be_read_stops_everything_and_says_what_to_do() -> None:
    cloud = VirtualCloud()
    cloud.objects[f".lightly/instances/{FIRST}.json"] = (b'{"schema": 2}', "etag", {})
    with pytest.raises(PermanentError, match=r"Delete it if no job runs on i-"):
        cloud.runner().run(_job("a"))
    assert cloud.called("StartInstances") == 0


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 1, "leases": {"a": 3}}'])
def test_what_is_no_record_is_not_read_as_an_empty_one(text: str) -> None:
    with pytest.raises(UnreadableRecord):
        Record.from_json(text)


def test_a_record_survives_being_stored() -> None:
    record = Record({"a/b/0": Lease("job", 1.0, 2.0, "c")}, None, Meter(1.0, 2.0, {"a/b/0": 3.0}, 4.0, 5.0), 6.0)
    assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    "argument", ["a b", "$(touch x)", "`x`", "'", '"', "a\nb", ";", "{{ssm:token}}", "{{{", "é", ""]
)
def test_an_argument_stays_one_word_whatever_it_contains(argument: str) -> None:
    import subprocess

    text = command_text(["printf", "%s\\0", argument, "end"], {"VALUE": argument})
    assert "{{" not in text
    ran = subprocess.run(["bash", "-c", text], capture_output=True, check=True)
    assert ran.stdout.decode().split("\0") == [argument, "end", ""]


def test_what_no_argument_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quoted("a\0b")
    with pytest.raises(ValueError, match="environment variable"):
        command_text(["x"], {"a b": "1"})


def test_bucket_is_where_messages_and_records_go() -> None:
    cloud = VirtualCloud()
    cloud.runner().run(_job("a"))
    assert {arguments["Bucket"] for _, name, arguments in cloud.calls if name == "PutObject"} == {BUCKET}


def _go_on_until(process: VirtualProcess, cloud: VirtualCloud, operation: str) -> None:
    """Let one process work, and time pass for it, until it is about to make a call."""
    for _ in range(2000):
        if process.waits_for == operation:
            return
        assert process.waits_for is not None, f"it ended before {operation}: {process.error!r}"
        if process.can_move:
            process.move()
        else:
            cloud.pass_time(process.wakes_at - cloud.now)
    raise AssertionError(f"it never came to {operation}")


def test_nobody_gets_an_instance_that_is_just_being_stopped_and_a_dead_stopper_blocks_for_a_minute() -> None:
    cloud = VirtualCloud()
    stopper = VirtualProcess(cloud, RunnerSettings(), lambda runner: runner.run(_job("first")))
    _go_on_until(stopper, cloud, "StopInstances")
    closed_at, door = cloud.now, cloud.runner().store.read(FIRST).door
    assert door is not None
    # The door counts from the write of the record, by S3's time as its writer knows it.
    assert door.until == pytest.approx(closed_at + 60, abs=1)
    second = VirtualProcess(cloud, RunnerSettings(), lambda runner: runner.run(_job("second")))
    while cloud.now < closed_at + 50:
        if second.can_move:
            second.move()
        else:
            cloud.pass_time(second.wakes_at - cloud.now)
        assert "second/step/0" not in cloud.runner().store.read(FIRST).leases
    stopper.kill()
    _go_on_until(second, cloud, "SendCommand")
    assert door.until <= cloud.runner().store.read(FIRST).leases["second/step/0"].since < door.until + 10
    run_together([second], cloud)
    assert second.error is None


def test_a_stopper_that_slept_through_its_own_door_does_not_stop_the_next_holders_instance() -> None:
    cloud = VirtualCloud()
    cloud.fail("StopInstances", "IncorrectInstanceState", times=2)
    stopper = VirtualProcess(cloud, RunnerSettings(), lambda runner: runner.run(_job("first")))
    _go_on_until(stopper, cloud, "StopInstances")
    for _ in range(50):
        if stopper.waits_for == "sleep":
            break
        stopper.move()
    assert stopper.waits_for == "sleep"
    cloud.pass_time(100)
    cloud.job_seconds = 1000
    second = VirtualProcess(cloud, RunnerSettings(), lambda runner: runner.run(_job("second")))
    _go_on_until(second, cloud, "GetCommandInvocation")
    run_together([stopper], cloud)
    assert cloud.machines[FIRST].state == "running"
    assert stopper.error is None
    run_together([second], cloud)
    assert second.result.attempts == 1
    assert cloud.machines[FIRST].state == "stopping"


def test_a_stopper_whose_host_stood_still_asks_whether_its_door_is_still_closed_before_its_first_stop() -> None:
    """A suspended machine, say, between the moment that the door's end was reckoned from and the stop."""
    cloud = VirtualCloud()
    stood: list[float] = []

    def stand_still(Body: bytes, **_: Any) -> None:
        if b'"door":{' in Body and not stood:
            stood.append(cloud.now)
            cloud.pass_time(70)

    cloud.meddle("PutObject", stand_still)
    stopper = VirtualProcess(cloud, RunnerSettings(), lambda runner: runner.run(_job("first")))
    _go_on_until(stopper, cloud, "StopInstances")
    door = cloud.runner().store.read(FIRST).door
    assert stood
    assert door is not None
    assert door.until > cloud.now + 50
    run_together([stopper], cloud)
    assert cloud.machines[FIRST].state == "stopping"


def test_a_closed_door_refuses_everybody_until_its_time_is_over_or_its_claim_is_cleared() -> None:
    record, _ = transitions.acquire(Record(), "a", 0.0, ttl=100, max_jobs=2)
    record, released = transitions.release(record, "a", 10.0, claim="stopper")
    assert released.must_stop
    for ask in (
        lambda: transitions.acquire(record, "b", 69.0, ttl=100, max_jobs=2),
        lambda: transitions.wait(record, "b", 69.0, ttl=100),
        lambda: transitions.renew(record, "a", 69.0, ttl=100),
    ):
        unchanged, refusal = ask()
        assert refusal is not None
        assert refusal.reason == "closing"
        assert unchanged == record
    taken, refusal = transitions.acquire(record, "b", 70.0, ttl=100, max_jobs=2)
    assert refusal is None
    assert transitions.keep_door(taken, "stopper", 71.0) == (taken, False)
    assert transitions.open_door(taken, "stopper", 71.0) == taken
    opened = transitions.open_door(record, "stopper", 20.0)
    assert transitions.acquire(opened, "b", 20.0, ttl=100, max_jobs=2)[1] is None
