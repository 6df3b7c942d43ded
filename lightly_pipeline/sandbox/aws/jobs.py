"""Processes that run on a sandbox instance: each its own process group, none of which outlives the sandbox."""

import contextlib
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from lightly_pipeline.sandbox.aws import reaper

_LINUX = sys.platform.startswith("linux")


class Jobs:
    """Starts and kills the jobs of one sandbox, and keeps the reaper that kills them when the sandbox is killed."""

    def __init__(self) -> None:
        self._mark = f"LIGHTLY_SANDBOX={uuid.uuid4().hex}"
        self._lock = threading.Lock()
        # Its standard input ends when this process does, however it ends.
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, self._mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        self._pipe = cast(IO[bytes], self._reaper.stdin)

    def start(
        self,
        command: Sequence[str],
        *,
        owner: str,
        environment: Mapping[str, str],
        cwd: Path,
        stdout: IO[Any] | int = subprocess.DEVNULL,
        stderr: IO[Any] | int = subprocess.DEVNULL,
    ) -> "subprocess.Popen[bytes]":
        """Start `command` in a process group of its own; `owner` is the instance it runs on."""
        sandbox, _, identity = self._mark.partition("=")
        marked = {**environment, sandbox: identity, "LIGHTLY_SANDBOX_INSTANCE": f"{identity}/{owner}"}
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=marked,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self._tell(f"+{process.pid}\n")
        return process

    def ended(self, process: "subprocess.Popen[bytes]") -> None:
        """The leader of a group has ended. What it left behind on Linux is found by its mark when its time comes.

        Elsewhere it is killed now: once its leader is gone, a group's number may come to belong to others.
        """
        if not _LINUX:
            reaper.kill_group(process.pid)
        self._tell(f"-{process.pid}\n")

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        """SIGKILL the group of a job, as the SSM agent does for a timeout or a cancel: no SIGTERM, no trap."""
        if process.returncode is None:
            reaper.kill_group(process.pid)

    def kill_instance(self, owner: str) -> None:
        """SIGKILL whatever still runs on an instance, also what left its process group (on Linux)."""
        reaper.kill_marked(f"LIGHTLY_SANDBOX_INSTANCE={self._mark.partition('=')[2]}/{owner}".encode())

    def running(self) -> list[int]:
        """Ids of all processes that carry this sandbox's mark (Linux)."""
        return reaper.marked_processes(self._mark.encode())

    def close(self) -> None:
        """Kill everything that is left and wait until the reaper has done so too."""
        reaper.kill_marked(self._mark.encode())
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._pipe.close()
        self._reaper.wait()

    def _tell(self, line: str) -> None:
        # A reaper that somebody killed is missed only if the sandbox is killed too; the job itself goes on.
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            self._pipe.write(line.encode())
            self._pipe.flush()
