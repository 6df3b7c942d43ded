"""One command's process on an instance, as amazon-ssm-agent runs it.

The commands become a script file that `sh -c` executes, so that a first line `#!…` is honoured and without one sh reads
it; in a process group of its own, in its orchestration folder, with the agent's bare environment. Timeout, cancel and
power-off are a SIGKILL to that group.
"""

import math
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from lightly_pipeline.sandbox.aws.commands import STDERR_LIMIT, STDOUT_LIMIT, Command, Invocation, shortened
from lightly_pipeline.sandbox.aws.jobs import Jobs
from lightly_pipeline.sandbox.aws.output import LogTail


class Execution:
    """A command that an agent has taken. `killed_for` and `deadline` are guarded by the cloud's lock."""

    def __init__(self, command: Command, invocation: Invocation, folder: Path, jobs: Jobs) -> None:
        self.command = command
        self.invocation = invocation
        # The clock's time at which its executionTimeout has passed.
        self.deadline = math.inf
        # Why it was killed: "timeout", "cancel" or "power".
        self.killed_for: str | None = None
        self._jobs = jobs
        self.folder = folder / command.command_id / "awsrunShellScript" / "0.awsrunShellScript"
        self._process: subprocess.Popen[bytes] | None = None

    def write(self) -> None:
        """Make the orchestration folder and the script in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        script = self.folder / "_script.sh"
        script.write_text("\n".join(self.command.parameters["commands"]) + "\n", encoding="utf-8", errors="replace")
        script.chmod(0o700)
        for stream in ("stdout", "stderr"):
            (self.folder / stream).write_bytes(b"")

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the process; OSError where that fails, for instance in a working directory that does not exist."""
        working = (self.command.parameters.get("workingDirectory") or [""])[0]
        with (self.folder / "stdout").open("ab") as stdout, (self.folder / "stderr").open("ab") as stderr:
            self._process = self._jobs.start(
                ["sh", "-c", shlex.quote(str(self.folder / "_script.sh"))],
                owner=self.invocation.instance_id,
                environment={
                    **environment,
                    "SSM_COMMAND_ID": self.command.command_id,
                    "AWS_SSM_INSTANCE_ID": self.invocation.instance_id,
                    "AWS_SSM_REGION_NAME": self.command.region,
                },
                cwd=Path(working) if working else self.folder,
                stdout=stdout,
                stderr=stderr,
            )

    def wait(self, tail: LogTail | None, interval: float, has_power: Callable[[], bool]) -> int:
        """Wait for its end, delivering log lines meanwhile; the exit code as a shell counts it (128 + signal)."""
        if self._process is None:
            raise RuntimeError("A command that was not started cannot be waited for.")
        if tail is not None:
            tail.start(interval)
        code = self._process.wait()
        self._jobs.ended(self._process)
        if tail is not None:
            tail.stop(deliver=has_power())
        return code if code >= 0 else 128 - code

    def kill(self, reason: str) -> None:
        """End it without a word, unless that has been done."""
        if self.killed_for is None:
            self.killed_for = reason
            if self._process is not None:
                self._jobs.kill(self._process)

    def note_failure(self, error: OSError) -> None:
        """Leave in its stderr why it could not be run, as the agent does."""
        with (self.folder / "stderr").open("a") as stderr:
            stderr.write(f"failed to run commands: {error}\n")

    def collect_output(self) -> None:
        """Put the beginning of what it wrote into its record."""
        self.invocation.stdout = shortened(self.folder / "stdout", STDOUT_LIMIT)
        self.invocation.stderr = shortened(self.folder / "stderr", STDERR_LIMIT)
