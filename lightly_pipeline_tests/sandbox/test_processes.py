"""Nothing that runs on a sandbox's instances outlives the sandbox, and an idle instance switches itself off.

Guards against the worst a development tool can do: to leave processes behind that nobody knows of.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightly_pipeline.sandbox import Sandbox, SandboxTimings
from lightly_pipeline_tests.sandbox.aws_calls import Aws, until

LINUX = sys.platform.startswith("linux")

# A process in the group, and (found by its mark, on Linux) one that has left it.
_LINGER = "sleep 300 & echo $! >> {pids}; {left} echo $$ >> {pids}; wait"
_LEFT = "setsid sleep 300 & echo $! >> {pids};"

_HOST = """
import sys, time
from pathlib import Path
from lightly_pipeline.sandbox import Sandbox, SandboxTimings
from lightly_pipeline_tests.sandbox.aws_calls import Aws
with Sandbox(Path(sys.argv[1]), timings=SandboxTimings.fast(), footage=Path(sys.argv[2]), port=0) as sandbox:
    aws = Aws(sandbox.environment)
    aws.start()
    aws.send(sys.argv[3])
    print(sandbox._cloud.jobs._reaper.pid, flush=True)
    time.sleep(300)
"""


@pytest.fixture
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "footage"


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    return tmp_path / "pids"


def linger(pids: Path) -> str:
    return _LINGER.format(pids=pids, left=_LEFT.format(pids=pids) if LINUX else "")


def written(pids: Path) -> list[int]:
    """The ids of the three (elsewhere two) processes of `linger`, once they are all there."""
    expected = 3 if LINUX else 2
    until(lambda: pids.exists() and len(pids.read_text().split()) == expected)
    return [int(process) for process in pids.read_text().split()]


def alive(process: int) -> bool:
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return bool(listed.stdout.strip()) and not listed.stdout.strip().startswith("Z")


def test_closing_kills_what_runs(tmp_path: Path, footage: Path, pids: Path) -> None:
    with Sandbox(tmp_path / "state", timings=SandboxTimings.fast(), footage=footage, port=0) as sandbox:
        aws = Aws(sandbox.environment)
        aws.start()
        aws.send(linger(pids))
        processes = written(pids)
        assert all(alive(process) for process in processes)
    assert not any(alive(process) for process in processes)


def test_an_error_in_the_block_kills_what_runs(tmp_path: Path, footage: Path, pids: Path) -> None:
    def fail_while_something_runs() -> None:
        with Sandbox(tmp_path / "state", timings=SandboxTimings.fast(), footage=footage, port=0) as sandbox:
            aws = Aws(sandbox.environment)
            aws.start()
            aws.send(linger(pids))
            assert all(alive(process) for process in written(pids))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_while_something_runs()
    assert not any(alive(process) for process in written(pids))


@pytest.mark.parametrize(
    "ending",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_a_signal_to_the_host_kills_what_runs(tmp_path: Path, footage: Path, pids: Path, ending: int) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", _HOST, str(tmp_path / "state"), str(footage), linger(pids)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert host.stdout is not None
    reaper = int(host.stdout.readline())
    processes = written(pids)
    assert all(alive(process) for process in [*processes, reaper])
    host.send_signal(ending)
    host.wait()
    until(lambda: not any(alive(process) for process in [*processes, reaper]), seconds=5)


def test_nothing_of_the_hosts_environment_marks_what_it_starts(tmp_path: Path, footage: Path) -> None:
    """The host's own children must not be taken for an instance's."""
    with Sandbox(tmp_path / "state", timings=SandboxTimings.fast(), footage=footage, port=0) as sandbox:
        child: Any = subprocess.Popen(["sleep", "30"], env={**os.environ, **sandbox.environment})
        assert sandbox.processes() == []
    try:
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


# The watchdog that the instance runs.


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """AWS whose instance looks five times a second whether it is idle, and waits three seconds."""
    timings = SandboxTimings(pending=0.1, agent=0.1, stopping=0.1, delivery=0.02, watchdog=0.2, idle_grace=3)
    state, footage = tmp_path_factory.mktemp("sandbox"), tmp_path_factory.getbasetemp() / "footage"
    with Sandbox(state, timings=timings, footage=footage, port=0) as sandbox:
        yield Aws({**sandbox.environment, "LIGHTLY_RUN_SCRIPT": str(sandbox.run_script)})


def test_an_idle_instance_switches_itself_off(watched: Aws) -> None:
    watched.start()
    began = time.monotonic()
    until(lambda: watched.state() == "stopped")
    assert time.monotonic() - began > 0.5
    assert watched.description()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_an_instance_whose_job_holds_the_lock_stays_up_until_the_job_ends(watched: Aws, tmp_path: Path) -> None:
    worker = tmp_path / "worker.sh"
    worker.write_text(f"#!/bin/sh\nuntil [ -e {tmp_path}/end ]; do sleep 0.1; done\n")
    worker.chmod(0o755)
    watched.start()
    run_script = watched._environment["LIGHTLY_RUN_SCRIPT"]
    command = watched.send(f"LIGHTLY_WORKER={worker} {run_script} in out")
    with pytest.raises(AssertionError, match="not within"):
        until(lambda: watched.state() != "running", seconds=5)
    (tmp_path / "end").touch()
    assert watched.result(command)["Status"] == "Success"
    until(lambda: watched.state() == "stopped")


def test_a_job_that_is_killed_does_not_keep_the_instance_up(watched: Aws) -> None:
    """The kernel drops the lock of a process however it ends."""
    watched.start()
    run_script = watched._environment["LIGHTLY_RUN_SCRIPT"]
    command = watched.send(f"LIGHTLY_WORKER=sleep {run_script} 300 1")
    watched.reaches(command, "InProgress")
    watched.ssm.cancel_command(CommandId=command)
    assert watched.result(command)["Status"] == "Cancelled"
    until(lambda: watched.state() == "stopped")
