"""Holders that share instances, die between any two calls to AWS, and disagree about the time.

Every process runs the real runner in a thread that stands still before each call to AWS and in each sleep, and
hypothesis decides who moves next, how time passes and who is killed. A killed process makes no further call, as after
SIGKILL: no `finally` of it has any effect. Guards against what `try: ... finally: stop()` does to a shared instance.
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
from lightly_pipeline.runner.record import Record
from lightly_pipeline_tests.runner.virtual_cloud import VirtualCloud, VirtualProcess

TTL, DOOR, SENSOR = 300.0, 60.0, 60.0


class LeaseRaces(RuleBasedStateMachine):
    """Up to six processes on one or two instances."""

    @initialize(machines=st.integers(1, 2), max_jobs=st.integers(1, 2))
    def begin(self, machines: int, max_jobs: int) -> None:
        self.cloud = VirtualCloud(machines, pending=20, agent=10, stopping=20)
        self.lease = LeaseSettings(max_jobs=max_jobs, ttl=TTL, renew_every=60, door=DOOR, queue=1e9)
        self.processes: list[VirtualProcess] = []
        self.observer = self.cloud.runner(RunnerSettings(lease=self.lease))
        self.stops_under_a_lease: list[str] = []
        self.granted: dict[tuple[str, str], float] = {}
        self.cloud.meddle("StopInstances", self._look_at_stop)
        self.cloud.meddle("PutObject", self._look_at_put)

    def _record(self, name: str) -> Record:
        stored = self.cloud.objects.get(f".lightly/instances/{name}.json")
        return Record.from_json(stored[0]) if stored else Record()

    def _look_at_put(self, Key: str, Body: bytes, **condition: Any) -> None:
        """Keep account of who was given a lease, apart from the record: an update that is lost shows here.

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
        leases = Record.from_json(Body).live(self.cloud.now, "job")
        if own in leases:
            self.granted[name, own] = leases[own].expires
        else:
            self.granted.pop((name, own), None)

    def _look_at_stop(self, InstanceIds: list[str], **_: Any) -> None:
        name = InstanceIds[0]
        # S3's clock is known to half a second.
        live = set(self._record(name).live(self.cloud.now + 1.0, "job", "waiting"))
        live |= {holder for (place, holder), end in self.granted.items() if place == name and end > self.cloud.now + 1}
        if live and self.cloud.machines[name].state == "running":
            self.stops_under_a_lease.append(f"{name} was stopped under {sorted(live)}")

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

    @rule(seconds=st.sampled_from([5.0, 30.0, 60.0]))
    def everybody_works_for_a_while(self, seconds: float) -> None:
        end = self.cloud.now + seconds
        while self.cloud.now < end:
            for process in [process for process in self.processes if process.can_move]:
                process.move()
            if not any(process.can_move for process in self.processes):
                self.cloud.pass_time(1.0)

    @rule(seconds=st.sampled_from([1.0, 5.0, 20.0, 70.0, 320.0]))
    def time_passes(self, seconds: float) -> None:
        # A request that has left its host arrives within its timeouts, or never: nothing else can fence EC2.
        for process in self.processes:
            if process.waits_for == "StopInstances" and seconds > 5:
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
            assert not self.stops_under_a_lease, self.stops_under_a_lease
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
        assert not self.stops_under_a_lease, self.stops_under_a_lease

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
            max_examples=60,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.long
def test_no_instance_stops_under_a_lease_in_two_thousand_histories() -> None:
    run_state_machine_as_test(
        LeaseRaces,
        settings=settings(
            max_examples=2000, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
