"""One case of the fault suite: a video of its own, a job that does as told, and the look from outside at the end."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from lightly_pipeline.automation.release_expired_instances import release_expired_instances
from lightly_pipeline.resources.runner import RunnerResource
from lightly_pipeline.runner.record import Lease, Record
from lightly_pipeline.videos import register_videos
from lightly_pipeline_tests.world import World

# The runner's timings, scaled for tests through its configuration.
QUICK = {
    "lease_seconds": 10,
    "door_seconds": 5,
    "start_timeout_seconds": 10,
    "agent_timeout_seconds": 6,
    "stopping_timeout_seconds": 4,
    "capacity_timeout_seconds": 2,
    "queue_timeout_seconds": 60,
}
MARK = "LIGHTLY_FAULT_CASE"


@dataclass
class Case:
    """What a test of this suite holds in its hands. `told` are the test's own properties, for the table."""

    world: World
    folder: Path
    key: str
    runner: dict[str, Any] = field(default_factory=lambda: dict(QUICK))
    told: list[tuple[str, object]] = field(default_factory=list)
    starts_before: int = 0

    def __post_init__(self) -> None:
        self.plan({})
        self.starts_before = self.starts()
        with self.world.instance() as instance:
            register_videos(instance, [self.key])
        self.world.client("s3").put_object(
            Bucket=self.bucket, Key=f"input_dir/{self.key}/clip.mp4", Body=b"as good as a video"
        )

    @property
    def bucket(self) -> str:
        """The sandbox's bucket."""
        return self.world.sandbox.bucket

    @property
    def mark(self) -> str:
        """By which the processes that this case starts are known, whatever else runs on this machine."""
        return f"{self.folder}/{self.key}"

    @property
    def dev_mark(self) -> str:
        """By which the processes of this world's `dagster dev` are known."""
        return f"{self.folder}/dagster dev"

    @property
    def faults(self):
        """The sandbox's faults."""
        return self.world.sandbox.faults

    def plan(self, *begins: dict[str, Any]) -> None:
        """What the job does when it is begun for the first, the second, … time."""
        (self.folder / f"{self.key}.json").write_text(json.dumps(begins))

    def tell(self, outcome: str) -> None:
        """Say in the table how the case ended; the last word counts."""
        self.told[:] = [("fault case", outcome)]

    def go(self) -> None:
        """Let a job that waits do its work."""
        (self.folder / f"{self.key}.go").touch()

    @property
    def config(self) -> dict[str, Any]:
        """Dagster's run config of this case."""
        return {"resources": {"runner": {"config": self.runner}}}

    @contextmanager
    def typed(self, select: str = "lightly_frames", **environment: str) -> "Iterator[subprocess.Popen[str]]":
        """The case's run as one types it: a process of its own, in a process group as a terminal makes one."""
        command = ["dagster", "asset", "materialize", "-m", "lightly_pipeline", "--select", select]
        command += ["--partition", self.key]
        if select == "lightly_frames":
            command += ["--config-json", json.dumps(self.config)]
        variables = {**self.world.environment, **environment, MARK: self.mark}
        with (self.folder / f"{self.key}.log").open("a") as log:
            process = self.world.start(*command, stdout=log, env=variables)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def stop_under_the_job(self, begun: int = 1) -> None:
        """Stop the instance, as a person might, once the job has begun for so many times."""
        self.until(f"the job begins for time {begun}", lambda: len(self.ledger("begin")) == begun)
        self.world.client("ec2").stop_instances(InstanceIds=list(self.world.sandbox.instance_ids))

    # Looking from outside.

    def ledger(self, event: str) -> list[str]:
        """The commands that wrote `event` ("begin", "work", "end") into the job's ledger."""
        path = self.folder / f"{self.key}.ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1] for line in lines if line.startswith(f"{event} ")]

    def until(self, what: str, condition: Callable[[], Any], timeout: float = 120.0, *, pause: float = 0.05) -> Any:
        """Wait until `condition` says something; AssertionError with `what` after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not (answer := condition()):
            assert time.monotonic() < deadline, f"{what}: not within {timeout:.0f} s\n{self.situation()}"
            time.sleep(pause)
        return answer

    def states(self) -> dict[str, str]:
        """EC2's word on each instance."""
        return self.world.instance_states()

    def some(self, state: str) -> Callable[[], bool]:
        """A condition: an instance is in this state."""
        return lambda: state in self.states().values()

    def starts(self) -> int:
        """How often instances were started since the sandbox opened."""
        return sum(machine.boot for machine in self.world.sandbox._opened().machines.values())

    def records(self) -> dict[str, Record]:
        """The lease records of all instances."""
        found = {}
        s3 = self.world.client("s3")
        for instance_id in self.world.sandbox.instance_ids:
            key = f".lightly/instances/{instance_id}.json"
            try:
                found[instance_id] = Record.from_json(s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
            except s3.exceptions.NoSuchKey:
                found[instance_id] = Record()
        return found

    def s3_time(self) -> float:
        """The time of day by S3's clock, which is what times in a lease record are."""
        answer = self.world.client("s3").head_bucket(Bucket=self.bucket)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def jobs(self) -> list[psutil.Process]:
        """The processes of this case's job that run on an instance."""
        found = []
        for pid in self.world.sandbox.processes():
            try:
                process = psutil.Process(pid)
                if any(self.key in argument for argument in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def processes(self) -> list[psutil.Process]:
        """The Dagster processes of this case that are alive: its run worker, unless that serves all cases, and step."""
        mine = []
        for process in psutil.process_iter():
            try:
                mark = process.environ().get(MARK)
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                forked = mark == str(self.folder) and "forkserver" in " ".join(process.parent().cmdline())
                # Run workers and steps of `dagster dev`.
                spawned = mark == self.dev_mark and "spawn_main" in " ".join(process.cmdline())
                if mark == self.mark or forked or spawned:
                    mine.append(process)
            except (psutil.Error, AttributeError):
                continue
        return mine

    def run(self) -> dg.DagsterRun | None:
        """The latest Dagster run of this case's video."""
        with self.world.instance() as instance:
            runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": self.key}), limit=1)
        return runs[0] if runs else None

    def events(self) -> list[str]:
        """What the run's event log says, in words."""
        run = self.run()
        if run is None:
            return []
        with self.world.instance() as instance:
            return [entry.user_message or entry.message for entry in instance.all_logs(run.run_id)]

    def failure(self) -> str:
        """The sentence with which the step of the latest run failed."""
        run = self.run()
        assert run is not None
        with self.world.instance() as instance:
            for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
                data = entry.get_dagster_event().step_failure_data
                if data.user_failure_data is not None:
                    return str(data.user_failure_data.description)
                return str(data.error.message if data.error is not None else "")
        return ""

    def step_process(self) -> psutil.Process:
        """The process of the running step."""

        def pid() -> int | None:
            run = self.run()
            if run is None:
                return None
            with self.world.instance() as instance:
                for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_WORKER_STARTED):
                    return int(entry.get_dagster_event().event_specific_data.metadata["pid"].value)
            return None

        return psutil.Process(self.until("the step has a process", pid))

    def situation(self) -> str:
        """All that a person would look at who wonders why a case fails."""
        run = self.run()
        log = self.folder / f"{self.key}.log"
        lines = [log.read_text()[-3000:] if log.exists() else ""]
        lines += [f"instances: {self.states()}", f"records: {self.records()}"]
        for process in self.processes():
            with suppress(psutil.Error):
                lines.append(f"alive: {process.pid} child of {process.ppid()}: {' '.join(process.cmdline())[-300:]}")
        lines += [f"processes on instances: {self.world.sandbox.processes()}", f"begun: {self.ledger('begin')}"]
        lines += [f"run: {run.status.value if run else None}", *(event[:600] for event in self.events()[-25:])]
        lines += [f"step: {self.failure()}" if run else ""]
        calls = [call for call in self.world.sandbox.calls.recent() if call.operation != "s3:GetObject"]
        lines += [
            f"{call.time:.2f} {call.caller} {call.operation} {call.resource} {call.status}" for call in calls[-30:]
        ]
        return "\n".join(lines)

    # The other stops.

    def sensor(self) -> str:
        """One tick of the sensor release_expired_instances; what it says."""
        with (
            self.world.instance() as instance,
            dg.build_sensor_context(instance=instance, resources={"runner": RunnerResource(**self.runner)}) as context,
        ):
            return str(release_expired_instances(context).skip_message)

    def recover(self, after: float) -> None:
        """Tick the sensor, as its daemon does, until nothing is up or leased; in time after `after` seconds of leases.

        Its stated time is the rest of the lease, or of the closed door, and one tick. Ticks are half a second apart
        here, and asking EC2 and stopping takes some seconds on a busy machine.
        """

        def ticked() -> bool:
            self.sensor()
            return self.cleared_up()

        self.until("the sensor stops the instance", ticked, after + 15, pause=0.5)

    def cleared_up(self) -> bool:
        """Whether every instance is down or going down, and its record empty."""
        return self.all_down() and not any(record.leases or record.door for record in self.records().values())

    def live_leases(self) -> dict[str, Lease]:
        """The leases that have not expired, and closed doors as leases of nobody, by S3's clock."""
        now = self.s3_time()
        live: dict[str, Lease] = {}
        for record in self.records().values():
            live.update(record.live(now))
            if record.door is not None and record.closed(now):
                live["the door"] = Lease("job", now, record.door.until)
        return live

    def all_down(self) -> bool:
        """Whether EC2 says of every instance that it is stopped or stopping."""
        return set(self.states().values()) <= {"stopping", "stopped"}

    def at_rest(
        self,
        *,
        work: str | None,
        begun: int | tuple[int, int] | None = None,
        run: str | None = None,
        held_by: dict[str, str] | None = None,
        ended: bool = True,
        within: float = 15.0,
    ) -> None:
        """The end of every case, seen from outside.

        Every instance is stopped (an instance of `held_by`, instance id to holder, runs for exactly that live lease),
        its lease record is empty, no process of the job or of its run is left, no multipart upload dangles, and the
        work was done exactly once (`work="once"`) or is cleanly not done (`work="none"`: no object, no manifest); None
        where the job is not this suite's own.
        `ended` is False for a look in between, at a run that goes on.
        `begun` is how often the job was begun (at the least, at the most), `run` Dagster's status of the run.
        """
        assert work in ("once", "none", None)
        held = held_by or {}

        def expected(instance_id: str, state: str) -> bool:
            return state == ("running" if instance_id in held else "stopped")

        self.until(
            f"instances are stopped, but for {held or 'none'}",
            lambda: all(expected(*entry) for entry in self.states().items()),
            within,
        )
        for instance_id, record in self.records().items():
            holders = [held[instance_id]] if instance_id in held else []
            assert sorted(record.leases) == holders, self.situation()
            assert sorted(record.live(self.s3_time())) == holders, self.situation()
            assert record.door is None, self.situation()
        if ended:
            assert not self.jobs(), self.situation()
            self.until("no process of the run is left", lambda: not self.processes(), 15.0)
        if not held:
            assert self.world.sandbox.processes() == [], self.situation()
        uploads = self.world.client("s3").list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        assert not uploads, uploads
        stored = {file.key for file in self.world.bucket.list(f"output_dir/{self.key}/")}
        times = len(self.ledger("work"))
        begins = len(self.ledger("begin"))
        if work == "once":
            assert times == 1, self.situation()
            assert stored == {f"output_dir/{self.key}/frames.txt", f"output_dir/{self.key}/manifest.json"}
        elif work == "none":
            assert times == 0, self.situation()
            assert stored == set(), stored
        if begun is not None:
            least, most = begun if isinstance(begun, tuple) else (begun, begun)
            assert least <= begins <= most, f"begun {begins} times\n{self.situation()}"
        last = self.run()
        if run is not None:
            assert last is not None
            assert last.status.value == run, self.situation()
        starts = self.starts() - self.starts_before
        self.tell(
            f"{'held by the live lease' if held else 'stopped'}; "
            f"{ {'once': 'done once', 'none': 'cleanly not done', None: 'done again'}[work] }; begun {begins}x; "
            f"{starts} start{'' if starts == 1 else 's'}; run {last.status.value if last else 'none'}"
        )
