"""A sandbox, a Dagster instance and a run worker for the cases of one module, and the table at the end."""

import itertools
import json
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightly_pipeline.runner import Clients, InstanceRunner, Job, LeaseSettings, RunnerSettings
from lightly_pipeline.sandbox import Sandbox, SandboxTimings
from lightly_pipeline.sandbox.home import dagster_home
from lightly_pipeline_tests.clips import FOOTAGE_CACHE
from lightly_pipeline_tests.faults.case import MARK, Case
from lightly_pipeline_tests.world import World

_HERE = Path(__file__).parent
_numbers = itertools.count(9_000_001)


class RunWorker:
    """The long-lived Dagster process of `runs.py`; started when it is first needed, and again when it was killed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> "subprocess.Popen[str]":
        """The running process."""
        if self._process is None:
            log = (self._world.home.parent / "run-worker.log").open("a")
            self._process = self._world.start(
                *("python", "-m", "lightly_pipeline_tests.faults.runs"),
                stdin=subprocess.PIPE,
                stderr=log,
            )
            log.close()
        return self._process

    def begin(self, case: Case) -> None:
        """Run the case, and do not wait for it."""
        process = self.process
        process.stdin.write(json.dumps({"key": case.key, "config": case.config}) + "\n")
        process.stdin.flush()

    def end(self, case: Case, *, well: bool | None) -> None:
        """Wait for the end of the run that was begun; it must succeed, or fail, as `well` says (None: either)."""
        line = self.process.stdout.readline()
        assert line, (self._world.home.parent / "run-worker.log").read_text()[-4000:]
        assert json.loads(line)["success"] == well or well is None, case.situation()

    def succeeds(self, case: Case) -> None:
        """Run the case to its end, which must be a good one."""
        self.begin(case)
        self.end(case, well=True)

    def fails(self, case: Case) -> str:
        """Run the case to its end, which must be a bad one; the sentence that the step failed with."""
        self.begin(case)
        self.end(case, well=False)
        return case.failure()

    def process_died(self) -> None:
        """The process was killed: forget it."""
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process = None

    def close(self) -> None:
        """End the process by the end of its input."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(timeout=30)
            self._process.stdout.close()
            self._process = None


@pytest.fixture(scope="module")
def timings() -> SandboxTimings:
    """The sandbox's delays; a module may have its own.

    A command that is not delivered is given up after 6 s instead of 60.
    """
    return replace(SandboxTimings.fast(), timeout_scale=0.1)


@pytest.fixture(scope="module")
def instances() -> int:
    """How many instances the sandbox has; a module may have its own number."""
    return 1


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, timings, instances) -> Iterator[Sandbox]:
    state = tmp_path_factory.mktemp("sandbox")
    with Sandbox(state, timings=timings, footage=FOOTAGE_CACHE, instances=instances, port=0) as opened:
        yield opened


@pytest.fixture
def lists_lag(sandbox, monkeypatch):
    """SSM tells of a command later than its callers look first."""
    cloud = sandbox._opened()
    monkeypatch.setattr(cloud, "timings", replace(cloud.timings, invocation_visible=1.3))


@pytest.fixture(scope="module")
def world(sandbox, tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(_HERE / "instance", folder / "instance")
    marks = {MARK: str(folder / "instance"), "LIGHTLY_RUN_SCRIPT": str(folder / "instance" / "run.sh")}
    return World.of(sandbox, dagster_home(folder), **marks)


@pytest.fixture(scope="module")
def run_worker(world) -> Iterator[RunWorker]:
    worker = RunWorker(world)
    yield worker
    worker.close()


@pytest.fixture
def case(request, world, monkeypatch) -> Iterator[Case]:
    for name, value in world.environment.items():
        if name != MARK:
            monkeypatch.setenv(name, value)
    opened = Case(world, world.home.parent / "instance", f"pexels-{next(_numbers)}", told=request.node.user_properties)
    yield opened
    world.sandbox.faults.clear()
    _leave_nothing(opened)


class Neighbour:
    """Another job, of a plain runner, that shares the instance with the case and stays until it is told to leave."""

    def __init__(self, case: Case, number: int = 0, *, max_jobs: int = 2) -> None:
        self._case = case
        self.holder = f"neighbour{number}/step/0"
        # Without the case's key, by which its own job's processes are known.
        self._leave = case.folder / f"neighbour-{uuid.uuid4().hex}.leaves"
        settings = RunnerSettings(lease=LeaseSettings(max_jobs=max_jobs, ttl=10, renew_every=2, door=5))
        self._runner = InstanceRunner.open(
            Clients.from_session(), instances=",".join(case.states()), bucket=case.bucket, settings=settings
        )
        waiting = 'while [ ! -e "$0" ]; do read -r -t 0.1 <> <(:) || true; done'
        job = Job(self.holder, ["bash", "-c", waiting, str(self._leave)], 600)
        self._thread = threading.Thread(target=self._runner.run, args=[job])

    def arrive(self) -> None:
        """Begin, and return when the job runs."""
        self._thread.start()
        self._case.until("the neighbour's job runs", lambda: self._command() is not None)

    @property
    def holds(self) -> dict[str, str]:
        """The instance that it holds, with its name as the record has it."""
        return {name: self.holder for name, record in self._case.records().items() if self.holder in record.leases}

    def leave(self) -> None:
        """End the job; the runner gives the instance back."""
        self._leave.touch()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _command(self) -> str | None:
        leases = [record.leases.get(self.holder) for record in self._case.records().values()]
        return next((lease.command for lease in leases if lease is not None and lease.command), None)


@pytest.fixture
def neighbour(case) -> Iterator[Neighbour]:
    case.runner["max_jobs_per_instance"] = 2
    opened = Neighbour(case)
    yield opened
    opened.leave()


def _leave_nothing(case: Case) -> None:
    """What a case that failed left behind would disturb the next: end it."""
    for process in case.processes():
        process.kill()
    run = case.run()
    if run is not None:
        with case.world.instance() as instance:
            if not run.is_finished:
                # As Dagster's monitor does after `dagster/max_runtime`: for some minutes others linger for it.
                instance.report_run_failed(run)
            # Dagster's daemon takes its slot in the pool back a minute after its end; the next case has no time for it.
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    if case.all_down() and not any(record.leases for record in case.records().values()):
        return
    runner = InstanceRunner.open(
        Clients.from_session(), instances=",".join(case.world.sandbox.instance_ids), bucket=case.bucket
    )
    for instance_id in case.world.sandbox.instance_ids:
        runner.stop(instance_id)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One row for each case: the case, its outcome, its seconds."""
    rows = []
    for category in ("passed", "failed"):
        for report in terminalreporter.stats.get(category, []):
            outcome = dict(report.user_properties).get("fault case")
            if report.when == "call" and "/faults/" in report.nodeid:
                name = report.nodeid.partition("::")[2].removeprefix("test_").replace("_", " ")
                rows.append((report.nodeid, name, outcome or "", report.duration, category))
    if not rows:
        return
    terminalreporter.section("faults")
    width = max(len(name) for _, name, *_ in rows)
    for _, name, outcome, seconds, category in sorted(rows):
        said = outcome if category == "passed" else f"FAILED {outcome}"
        terminalreporter.line(f"{name:<{width}}  {seconds:6.1f} s  {said}")
