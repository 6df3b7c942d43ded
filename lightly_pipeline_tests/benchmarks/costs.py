"""What a command takes, of wall clock, CPU and memory; how long ffmpeg takes to decode is the unit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Of ffmpeg and of the worker alike.
THREADS = 2


@dataclass
class Cost:
    """What one process took: seconds of wall clock and CPU, megabytes of memory at most; and what it said."""

    wall: float
    cpu: float
    memory: float
    said: str = ""

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(self.wall + other.wall, self.cpu + other.cpu, max(self.memory, other.memory))


NOTHING = Cost(0, 0, 0)


#: Starts a command and writes down what it took. It stands between, because a process begins with the peak memory of
#: the one that started it, and a benchmark that holds many frames is larger than what it measures.
_STARTER = """
import json, os, subprocess, sys, time
begin = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
wall = time.perf_counter() - begin
with open(sys.argv[1], "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024], file)
"""


def run(command: list[str], *, patience: float | None = None) -> Cost:
    """Run a command to its end; raises RuntimeError with its last words when it fails or takes `patience` seconds."""
    with tempfile.TemporaryDirectory(prefix="bench-run-") as folder, Path(folder, "said").open("w+b") as output:
        took = Path(folder, "took.json")
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", _STARTER, str(took), *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not done after {patience:.0f} s") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        said = output.read().decode(errors="replace")
        code, *cost = json.loads(took.read_text()) if took.exists() else (process.returncode,)
        if code:
            raise RuntimeError(f"{Path(command[0]).name} failed: {said.strip()[-2000:]}")
    return Cost(*cost, said)


def decode(ffmpeg: str, clips: Sequence[Path]) -> Cost:
    """ffmpeg decoding every clip to nothing, one after the other."""
    command = [ffmpeg, "-v", "error", "-threads", str(THREADS)]
    return sum((run([*command, "-i", str(clip), "-map", "0:v:0", "-f", "null", "-"]) for clip in clips), NOTHING)


def whole_job(folder: Path, *options: str) -> Cost:
    """The worker's whole job on a folder of clips."""
    with tempfile.TemporaryDirectory(prefix="bench-") as output:
        return run(
            [
                *(sys.executable, "-m", "lightly_pipeline.worker", str(folder), output, "run_directory=run"),
                *("dump_dataset=True", f"num_threads={THREADS}", *options),
            ]
        )
