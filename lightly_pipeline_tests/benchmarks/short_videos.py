"""What a run costs beside decoding: its start, many short videos, and several workers side by side.

    python -m lightly_pipeline_tests.benchmarks.short_videos [--repeat 5] [--seconds 2]

The clips of LIGHTLY_TEST_VIDEOS (or rendered footage) are cut into pieces of two seconds. The table has the medians of

- the start of a run, until it begins to decode;
- the whole job on all pieces: wall clock against ffmpeg decoding them one after the other with the same threads (a
  process for each piece, and one for all pieces of a clip), and how many cores were busy;
- as many workers as there are cores, each with one thread, together against one alone: 1.0 is what cores that share
  nothing would give. ffmpeg beside it tells what these cores share.

It ends with 1 when a start takes half a second, or workers side by side fall behind ffmpegs by more than a seventh.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightly_pipeline_tests.benchmarks.costs import THREADS, decode, run, whole_job
from lightly_pipeline_tests.benchmarks.decoding import clips_given

#: Seconds of a start; share of what ffmpeg gains by a further core that workers gain by one.
START, GAIN = 0.5, 0.85


def cut(ffmpeg: str, clips: list[Path], folder: Path, seconds: float) -> list[list[Path]]:
    """Pieces of the clips in one folder, those of each clip in a list."""
    folder.mkdir()
    pieces = []
    for number, clip in enumerate(clips):
        name = f"{number}-{clip.stem}"
        run(
            [
                *(ffmpeg, "-v", "error", "-i", str(clip), "-map", "0:v:0", "-c:v", "libx264", "-preset", "veryfast"),
                *("-force_key_frames", f"expr:gte(t,n_forced*{seconds})", "-f", "segment"),
                *("-segment_time", str(seconds), "-reset_timestamps", "1", str(folder / f"{name}-%03d.mp4")),
            ]
        )
        pieces.append(sorted(folder.glob(f"{name}-*.mp4")))
    return pieces


def start(folder: Path) -> float:
    """Seconds from the start of the process until it has found its input, after which it decodes."""
    with tempfile.TemporaryDirectory(prefix="bench-") as output:
        command = [sys.executable, "-m", "lightly_pipeline.worker", str(folder), output, "run_directory=run"]
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = [time.perf_counter() - begin for line in process.stdout if "Found " in line and " input " in line]
    return found[0]


def decode_joined(ffmpeg: str, pieces: list[list[Path]], threads: int) -> float:
    """Wall clock of ffmpeg decoding the pieces of each clip to nothing, in one process for each clip."""
    wall = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for number, some in enumerate(pieces):
            listed = Path(folder, f"{number}.txt")
            listed.write_text("".join(f"file '{piece}'\n" for piece in some))
            command = [ffmpeg, "-v", "error", "-threads", str(threads), "-f", "concat", "-safe", "0", "-i", str(listed)]
            wall += run([*command, "-f", "null", "-"]).wall
    return wall


def gain(job: Callable[[], object], count: int) -> float:
    """Wall clock of one job against that of `count` at a time: 1 / count where they only wait for each other."""
    begin = time.perf_counter()
    job()
    alone = time.perf_counter() - begin
    with ThreadPoolExecutor(count) as threads:
        begin = time.perf_counter()
        list(threads.map(lambda _: job(), range(count)))
        together = time.perf_counter() - begin
    return alone / together


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        print("short_videos: skipped, there is no ffmpeg to cut and to compare with on this machine.")
        return 0
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="bench-pieces-") as scratch:
        folder = Path(scratch, "pieces")
        by_clip = cut(ffmpeg, clips_given([], Path(scratch, "clips")), folder, options.seconds)
        pieces = [piece for some in by_clip for piece in some]
        selected = ("stopping_condition.n_samples=0.1", "output_image_format=jpg")
        whole_job(folder, *selected)  # machine code is compiled once, before anything is measured

        starts, jobs, each, joined, workers, ffmpegs = [], [], [], [], [], []
        for _ in range(options.repeat):
            starts.append(start(folder))
            jobs.append(whole_job(folder, *selected))
            each.append(decode(ffmpeg, pieces).wall)
            joined.append(decode_joined(ffmpeg, by_clip, THREADS))
            workers.append(gain(lambda: whole_job(folder, *selected, "num_threads=1"), cores))
            ffmpegs.append(gain(lambda: decode_joined(ffmpeg, by_clip, 1), cores))

    print(f"start                    {statistics.median(starts):5.2f} s  ({_range(starts)})  ≤ {START} s")
    walls = [job.wall for job in jobs]
    print(f"{len(pieces)} pieces of {options.seconds:g} s      {statistics.median(walls):5.2f} s  ({_range(walls)})")
    for name, alone in (("each", each), ("joined", joined)):
        ratios = [job.wall / other for job, other in zip(jobs, alone, strict=True)]
        print(f"  × ffmpeg, {name:6}       {statistics.median(ratios):5.2f}    ({_range(ratios)})")
    busy = [job.cpu / job.wall for job in jobs]
    print(f"  cores busy             {statistics.median(busy):5.2f}    ({_range(busy)})  of {cores}")
    shares = [worker / other for worker, other in zip(workers, ffmpegs, strict=True)]
    print(f"{cores} workers together       {statistics.median(workers):5.2f}    ({_range(workers)})")
    print(f"{cores} ffmpegs together       {statistics.median(ffmpegs):5.2f}    ({_range(ffmpegs)})")
    print(f"  workers / ffmpegs      {statistics.median(shares):5.2f}    ({_range(shares)})  ≥ {GAIN}")
    return int(statistics.median(starts) >= START or statistics.median(shares) < GAIN)


def _range(values: list[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
