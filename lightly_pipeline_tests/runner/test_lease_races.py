"""Holders that share instances, die between any two calls to AWS, and disagree about the time.

Every process runs the real runner in a thread that stands still before each call to AWS and in each sleep, and
hypothesis decides who moves next, how time passes and who is killed. A killed process makes no further call, as after
SIGKILL: no `finally` of it has any effect. Guards against what `try: ... finally: stop()` does to a shared instance.

The histories are steered to where races are: one process stands just before a write, or a stop, while others go on.
Without any one of the conditional write, the closing door, the expiry of leases, or the question whether a door is
still one's own before a stop, `make test` sees an instance stopped under a job, or left running.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from lightly_pipeline.runner import Job, LeaseSettings, RunnerSettings, TransientError
from lightly_pipeline.runner.instance import STOPPED_STATES
from lightly_pipeline.runner.record import Lease, Record
from lightly_pipeline_tests.runner.virtual_cloud import VirtualCloud, VirtualProcess, aws_error

TTL, DOOR, SENSOR = 300.0, 60.0, 60.0
# A request that has left its host arrives within its timeouts, or never: nothing else can fence EC2.
ON_ITS_WAY = 10.0


class LeaseRaces(RuleBasedStateMachine):
    """Up to six processes on one or two instances."""

    @initialize(machines=st.integers(1, 2), max_jobs=st.integers(1, 2), left_running=st.booleans())
    def begin(self, machines: int, max_jobs: int, left_running: bool) -> None:
        self.cloud = VirtualCloud(machines, pending=20, agent=10, stopping=20)
        self.lease = LeaseSettings(max_jobs=max_jobs, ttl=TTL, renew_every=60, door=DOOR, queue=1e9)
        self.processes: list[VirtualProcess] = []
        self.observer = self.cloud.runner(RunnerSettings(lease=self.lease))
        self.wrongs: list[str] = []
        self.granted: dict[tuple[str, str], float] = {}
        self.refusals = 0
        self.cloud.meddle("StopInstances", self._look_at_stop)
        self.cloud.meddle("PutObject", self._look_at_put)
        if left_running:
            # By a job whose host died long ago.
            name = next(iter(self.cloud.machines))
            self.cloud._start_instances([name])
            self.cloud.pass_time(60)
            dead = Record({"dead/step/0": Lease("job", self.cloud.now - 2 * TTL, self.cloud.now - TTL)})
            self.cloud.objects[f".lightly/instances/{name}.json"] = (dead.to_json().encode(), "etag", {})

    def _record(self, name: str) -> Record:
        stored = self.cloud.objects.get(f".lightly/instances/{name}.json")
        return Record.from_json(stored[0]) if stored else Record()

    def _look_at_put(self, Key: str, Body: bytes, **condition: Any) -> None:
        """Keep account of who was given a lease, apart from the record; a write must not take away another's.

        Only of writes that S3 will accept; a lease ends when its holder gives it back, or expires.
        """
        if not Key.startswith(".lightly/instances/"):
            return
        present = self.cloud.objects.get(Key)
        if (condition.get("IfNoneMatch") and present) or (
            condition.get("IfMatch") and present[1] != condition["IfMatch"]
        ):
            return
        name = Key.split("/")[-1].removesuffix(".json")
        writer = threading.current_thread()
        own = writer.holder if isinstance(writer, VirtualProcess) else ""
        record = Record.from_json(Body)
        leases = {holder: lease for holder, lease in record.leases.items() if lease.kind == "job"}
        for place, holder in self._granted(name):
            if holder not in leases and holder != own:
                self.wrongs.append(f"{own or 'the sensor'} wrote over the lease of {holder} on {place}")
        if own in leases:
            self.granted[name, own] = leases[own].expires
        else:
            self.granted.pop((name, own), None)

    def _granted(self, name: str) -> list[tuple[str, str]]:
        # S3's clock is known to half a second.
        return [place for place, end in self.granted.items() if place[0] == name and end > self.cloud.now + 1.0]

    def _look_at_stop(self, InstanceIds: list[str], **_: Any) -> None:
        name = InstanceIds[0]
        if self.refusals:
            self.refusals -= 1
            raise aws_error("RequestLimitExceeded", "StopInstances")
        waiting = self._record(name).leases.items()
        live = {holder for holder, lease in waiting if lease.kind == "waiting" and lease.expires > self.cloud.now + 1.0}
        live |= {holder for _, holder in self._granted(name)}
        if live and self.cloud.machines[name].state == "running":
            self.wrongs.append(f"{name} was stopped under {sorted(live)}")

    @precondition(lambda self: sum(process.waits_for is not None for process in self.processes) < 6)
    @rule(skew=st.sampled_from([0.0, -240.0, 3600.0]), seconds=st.sampled_from([5.0, 90.0]))
    def a_job_comes(self, skew: float, seconds: float) -> None:
        self.cloud.job_seconds = seconds
        job = Job(f"run{len(self.processes)}/step/0", ["work"], 600)
        process = VirtualProcess(
            self.cloud, RunnerSettings(lease=self.lease), lambda runner: runner.run(job), skew=skew
        )
        process.holder = job.holder
        self.processes.append(process)

    @precondition(lambda self: sum(process.waits_for is not None for process in self.processes) < 6)
    @rule()
    def the_sensor_ticks(self) -> None:
        self.processes.append(
            VirtualProcess(self.cloud, RunnerSettings(lease=self.lease), lambda runner: runner.release_expired())
        )

    @precondition(lambda self: any(process.can_move for process in self.processes))
    @rule(data=st.data(), steps=st.sampled_from([1, 1, 2, 3, 5, 10, 60]))
    def somebody_moves(self, data: st.DataObject, steps: int) -> None:
        process = data.draw(st.sampled_from([process for process in self.processes if process.can_move]))
        for _ in range(steps):
            if process.can_move:
                process.move()

    @precondition(lambda self: 0 < sum(process.waits_for is not None for process in self.processes) < 6)
    @rule(
        where=st.sampled_from(
            [
                ("PutObject", 5.0),
                ("PutObject", 70.0),
                ("StopInstances", 5.0),
                ("a stop that EC2 has refused", 65.0),
                ("a stop that EC2 has refused", 75.0),
            ]
        ),
    )
    def one_stands_still_where_it_matters_while_another_comes(self, where: tuple[str, float]) -> None:
        operation, seconds = where
        call = operation if operation == "PutObject" else "StopInstances"
        standing = self._first_to_come_to(call)
        if standing is None:
            return
        if operation != call:
            self.refusals = 1
            while standing.can_move:
                standing.move()
        self.a_job_comes(skew=0.0, seconds=90.0)
        self._work([process for process in self.processes if process is not standing], seconds)

    def _first_to_come_to(self, operation: str) -> VirtualProcess | None:
        """Let all work until one is about to make this call; None where it takes them too long."""
        end = self.cloud.now + 150
        while self.cloud.now < end:
            for process in [process for process in self.processes if process.can_move]:
                process.move()
                if process.waits_for == operation:
                    return process
            if not any(process.can_move for process in self.processes):
                self._let_pass(1.0)
        return None

    @rule(seconds=st.sampled_from([5.0, 30.0, 60.0]))
    def everybody_works_for_a_while(self, seconds: float) -> None:
        self._work(self.processes, seconds)

    def _work(self, processes: list[VirtualProcess], seconds: float) -> None:
        end = self.cloud.now + seconds
        while True:
            for _ in range(100):
                moving = [process for process in processes if process.can_move]
                for process in moving:
                    process.move()
                if not moving:
                    break
            if self.cloud.now >= end:
                return
            self._let_pass(1.0)

    @rule(times=st.integers(1, 3))
    def ec2_refuses_the_next_stops(self, times: int) -> None:
        self.refusals = times

    @rule(seconds=st.sampled_from([1.0, 5.0, 20.0, 70.0, 320.0]))
    def time_passes(self, seconds: float) -> None:
        self._let_pass(seconds)

    def _let_pass(self, seconds: float) -> None:
        for process in self.processes:
            if process.waits_for == "StopInstances" and self.cloud.now + seconds - process.moved_at > ON_ITS_WAY:
                process.move()
        self.cloud.pass_time(seconds)

    @precondition(lambda self: any(process.waits_for is not None for process in self.processes))
    @rule(data=st.data(), really=st.integers(0, 2))
    def somebody_is_killed(self, data: st.DataObject, really: int) -> None:
        if really:
            return
        alive = [process for process in self.processes if process.waits_for is not None]
        data.draw(st.sampled_from(alive)).kill()

    def teardown(self) -> None:
        if not hasattr(self, "cloud"):
            return
        try:
            assert not self.wrongs, self.wrongs
            self._everybody_ends()
            self._nothing_is_left_running()
        finally:
            for process in self.processes:
                process.kill()

    def _everybody_ends(self) -> None:
        """Who was not killed gets its job done, within a bound."""
        for _ in range(4000):
            moving = [process for process in self.processes if process.can_move]
            for process in moving:
                process.move()
            if not any(process.waits_for is not None for process in self.processes):
                break
            if not moving:
                self.cloud.pass_time(1.0)
        for process in self.processes:
            if not process.dead:
                assert process.error is None or (process.starved and isinstance(process.error, TransientError))
        assert not self.wrongs, self.wrongs

    def _nothing_is_left_running(self) -> None:
        """The sensor, once a minute, stops what the dead have left, at the latest when lease and door are over."""
        waited = 0.0
        while waited <= TTL + DOOR + 2 * SENSOR:
            self.cloud.pass_time(SENSOR)
            waited += SENSOR
            self.observer.release_expired()
        for name, machine in self.cloud.machines.items():
            assert machine.state in STOPPED_STATES, (machine, self._record(name))
            assert not self._record(name).leases
            assert self._record(name).door is None


def test_no_instance_stops_under_a_lease_and_none_outlives_its_last_lease() -> None:
    run_state_machine_as_test(
        LeaseRaces,
        settings=settings(
            max_examples=150,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_no_instance_stops_under_a_lease_in_two_thousand_histories() -> None:
    run_state_machine_as_test(
        LeaseRaces,
        settings=settings(
            max_examples=2000, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
