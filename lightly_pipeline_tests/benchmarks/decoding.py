"""How fast the whole job is, against ffmpeg decoding the same clips to nothing with the same threads.

    python -m lightly_pipeline_tests.benchmarks.decoding [--repeat 3] [--long HOURS] [VIDEO ...]

Without videos: the clips of LIGHTLY_TEST_VIDEOS as the mixed set, and the first of them enlarged to a minute of 1080p
(or rendered footage where there are none). Each run of the worker (a process of its own: start-up, decoding,
selection of 10 %, pictures, lists, report, manifest) is paired with a run of ffmpeg right before it; the table has the
medians of wall clock, their ratio with its range, the ratio of CPU seconds, and the worker's peak memory. It ends with
1 when a median misses its target, or the memory 350 MB. `--long` adds a clip of that length,
with small pictures of which hardly two are equal.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import av
import numpy as np

from lightly_pipeline_tests.benchmarks.costs import Cost, decode, run, whole_job
from lightly_pipeline_tests.worker.scan.clips import render

MODES = {
    "jpg": ("output_image_format=jpg",),
    "png": ("output_image_format=png",),
    "jpg, exact": ("output_image_format=jpg", "exact_frames=True"),
    "png, exact": ("output_image_format=png", "exact_frames=True"),
}
#: Wall clock against ffmpeg's that the worker promises: 1080p, mixed set.
TARGETS = {"jpg": (1.0, 1.15), "png": (1.6, 1.6), "jpg, exact": (1.35, 1.35)}
#: Megabytes, whatever the length of the clip.
MEMORY = 350


def select(folder: Path, mode: str) -> Cost:
    """The whole job on a folder."""
    return whole_job(folder, "stopping_condition.n_samples=0.1", *MODES[mode])


def clips_given(arguments: list[str], folder: Path) -> list[Path]:
    """The clips to measure with, as links in a folder of their own."""
    found = [Path(argument) for argument in arguments]
    shared = os.environ.get("LIGHTLY_TEST_VIDEOS", "")
    if not found and shared:
        found = sorted(path for path in Path(shared).iterdir() if path.suffix in (".mp4", ".webm"))
    folder.mkdir()
    if not found:
        found = [render(folder / f"rendered{n}.mp4", 600, width=640, height=360, shot=40) for n in range(3)]
        return found
    return [Path(shutil.copy(path, folder)) for path in found]


def enlarge(ffmpeg: str, clip: Path, target: Path, seconds: float = 60) -> Path:
    """A 1080p h264 clip with grain, so that it is as hard to decode as camera footage."""
    run(
        [
            *(ffmpeg, "-v", "error", "-y", "-stream_loop", "-1", "-t", str(seconds), "-i", str(clip), "-an"),
            *("-vf", "scale=1920:1080:flags=lanczos,noise=alls=6:allf=t"),
            *("-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p", str(target)),
        ]
    )
    return target


def long_clip(target: Path, hours: float) -> Path:
    """Small pictures at 25 frames a second: a new scene every few seconds, through which the camera moves."""
    width, height, rate = 128, 72, 25
    chance = np.random.default_rng(1)
    frames = round(hours * 3600 * rate)
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "g": "250", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        ends = 0
        for number in range(frames):
            if number == ends:
                begins, ends = number, number + int(chance.integers(50, 400))
                scene = np.kron(chance.integers(0, 250, (18, 32), np.uint8), np.ones((8, 8), np.uint8))
                speed, colours = chance.uniform(-1.5, 1.5, 2), chance.integers(60, 200, 2)
            down, right = (speed * (number - begins)).astype(int)
            luma = np.roll(scene, (down, right), (0, 1))[:height, :width] + chance.integers(0, 6, dtype=np.uint8)
            chroma = [np.full((height // 2) * (width // 2), colour, np.uint8) for colour in colours]
            planes = np.concatenate([luma.ravel(), *chroma]).reshape(height * 3 // 2, width)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--long", type=float, default=0.0, metavar="HOURS")
    parser.add_argument("videos", nargs="*")
    options = parser.parse_args()
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        print("decoding: skipped, there is no ffmpeg to compare with on this machine.")
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-clips-") as scratch:
        mixed = clips_given(options.videos, Path(scratch, "mixed"))
        Path(scratch, "1080p").mkdir()
        large = enlarge(ffmpeg, mixed[0], Path(scratch, "1080p", "clip.mp4"))
        sets = {"1080p h264, 60 s": [large], f"mixed, {len(mixed)} clips": mixed}
        modes = dict.fromkeys(sets, tuple(MODES))
        if options.long:
            Path(scratch, "long").mkdir()
            name = f"{options.long:g} h"
            sets[name] = [long_clip(Path(scratch, "long", "long.mp4"), options.long)]
            modes[name] = ("jpg",)
        select(large.parent, "jpg")  # machine code is compiled once, before anything is measured
        print(f"{'clips':20} {'mode':11} {'ffmpeg':>8} {'worker':>8} {'wall':>14} {'CPU':>6} {'memory':>8}  target")
        missed = False
        for place, (name, clips) in enumerate(sets.items()):
            for mode in modes[name]:
                pairs = [(decode(ffmpeg, clips), select(clips[0].parent, mode)) for _ in range(options.repeat)]
                walls = [worker.wall / alone.wall for alone, worker in pairs]
                target = TARGETS.get(mode, (0.0, 0.0))[place] if place < 2 else 0.0
                missed |= bool(target and statistics.median(walls) > target)
                missed |= max(worker.memory for _, worker in pairs) > MEMORY
                print(
                    f"{name:20} {mode:11} {statistics.median(a.wall for a, _ in pairs):6.2f} s "
                    f"{statistics.median(w.wall for _, w in pairs):6.2f} s "
                    f"{statistics.median(walls):5.2f} ({min(walls):.2f}-{max(walls):.2f}) "
                    f"{statistics.median(w.cpu / a.cpu for a, w in pairs):5.2f} "
                    f"{max(w.memory for _, w in pairs):5.0f} MB  {f'≤ {target}' if target else ''}",
                    flush=True,
                )
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
