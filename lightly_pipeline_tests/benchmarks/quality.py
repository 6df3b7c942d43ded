"""How good the selected frames are: the default strategy against what else one could take, at the same budget.

    python -m lightly_pipeline_tests.benchmarks.quality [--share 0.1] [--embeddings cache.npz] [VIDEO ...]

Without videos: the clips of LIGHTLY_TEST_VIDEOS, then the sandbox's generated footage. For every selection and every
space of `judges.py` it prints radius, p99, mean and redundancy, and the share of shots with a selected frame; then
what issue-level targets the default strategy meets: in every space radius at most 1.15 and redundancy at most +0.05 of
pure coreset, mean at most 1.07 of every-10th, shots at least every-10th's.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightly_pipeline.worker.scan import ScanSettings, scan_video
from lightly_pipeline.worker.select import select
from lightly_pipeline_tests.benchmarks.judges import SPACES, Judge, features_of

_EXTENSIONS = {".mp4", ".webm", ".mov", ".avi", ".mkv", ".m4v"}


@dataclass
class Clips:
    """All frames of some clips, one after the other."""

    paths: list
    embeddings: np.ndarray
    groups: np.ndarray
    seconds: np.ndarray
    sharpness: np.ndarray
    pts: np.ndarray
    judges: dict
    shots: np.ndarray


def load(paths, true_shots=None) -> Clips:
    """Describe and judge every frame of `paths`; shots are detected, or given as one array of numbers per clip."""
    columns = {name: [] for name in ("embeddings", "groups", "seconds", "sharpness", "pts")}
    spaces = {name: [] for name in SPACES}
    shots = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, path in enumerate(paths):
            folder = Path(scratch, str(number))
            folder.mkdir()
            scan = scan_video(
                Path(path), scratch=folder, settings=ScanSettings(expected_share=0), on_progress=lambda _done: None
            )
            features = features_of(path)
            count = min(len(scan.frames), len(features["hog"]))
            columns["embeddings"].append(np.array(scan.embeddings[:count]))
            columns["groups"].append(np.full(count, number))
            for name in ("seconds", "sharpness", "pts"):
                columns[name].append(scan.frames[name][:count])
            for name, rows in features.items():
                spaces[name].append(rows[:count])
            if true_shots is not None:
                shots.append(number * 10_000 + np.array(true_shots[number])[:count])
    table = {name: np.concatenate(rows) for name, rows in columns.items()}
    judges = {name: Judge(name, np.concatenate(rows)) for name, rows in spaces.items()}
    numbers = np.concatenate(shots) if shots else np.cumsum(_cuts(judges, table["groups"])) - 1
    return Clips(list(paths), judges=judges, shots=numbers, **table)


def _cuts(judges, groups):
    """Where a shot begins: two neighbouring frames that differ in colour and in gradients as random frames do."""
    starts = np.ones(len(groups), dtype=bool)
    same = groups[1:] == groups[:-1]
    far = [np.linalg.norm(np.diff(judges[n].rows, axis=0), axis=1) / judges[n].unit for n in ("hsv", "hog")]
    starts[1:] = ~same | ((far[0] > 0.35) & (far[1] > 0.5))
    return starts


def by_ffmpeg(clips: Clips, video_filter: str):
    """The frames that an ffmpeg filter lets through."""
    picks = []
    for number, path in enumerate(clips.paths):
        rows = np.flatnonzero(clips.groups == number)
        told = subprocess.run(
            [
                *("ffmpeg", "-nostdin", "-v", "info", "-copyts", "-i", str(path), "-an"),
                *("-vf", f"{video_filter},showinfo", "-fps_mode", "passthrough", "-f", "null", "-"),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
        seconds = np.array([float(value) for value in re.findall(r"pts_time:\s*(-?[\d.]+)", told)])
        if len(seconds):
            times = clips.seconds[rows]
            nearest = np.abs(times[None, :] - seconds[:, None]).argmin(axis=1)
            picks.extend(rows[np.unique(nearest)])
    return np.array(picks, dtype=np.int64)


def facility_location(clips: Clips, budget: int, neighbours: int = 64):
    """Half representatives by greedy facility location on the kNN graph, half k-center: the rival of arc length."""
    rows, half = clips.embeddings, budget // 2
    near = np.argsort(-(rows @ rows.T), axis=1)[:, : min(neighbours, len(rows))]
    worth = np.maximum(0, 2 - np.linalg.norm(rows[:, None][:, 0][near] - rows[:, None], axis=2))
    reverse = [[] for _ in rows]
    for row, (others, values) in enumerate(zip(near, worth, strict=True)):
        for other, value in zip(others, values, strict=True):
            reverse[other].append((row, value))
    reverse = [(np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])) for pairs in reverse]
    best = np.zeros(len(rows))
    gains = np.array([values.sum() for _, values in reverse], dtype=np.float64)
    picks = []
    while len(picks) < half:
        row = int(gains.argmax())
        who, value = reverse[row]
        true = np.maximum(0, value - best[who]).sum()
        if true < gains[row] - 1e-9:
            gains[row] = true
            continue
        picks.append(row)
        best[who] = np.maximum(best[who], value)
        gains[row] = -1
    rest = select(rows, budget=budget - half, pool=rows[picks], strategy="coreset").indices
    return np.concatenate([picks, rest])


def selections(clips: Clips, share: float):
    """{name: picks}: ours and everything that it is compared with."""
    count = len(clips.embeddings)
    budget = max(1, int(count * share))
    step = round(1 / share)
    every = np.concatenate([np.flatnonzero(clips.groups == number)[::step] for number in range(len(clips.paths))])
    common = {"groups": clips.groups, "seconds": clips.seconds}
    made = {
        f"every {step}th": every,
        "random": select(clips.embeddings, budget=budget, strategy="random", seed=1).indices,
        "coreset (Lightly's)": select(clips.embeddings, budget=budget, strategy="coreset").indices,
        "balanced (ours)": select(
            clips.embeddings, budget=budget, strategy="balanced", sharpness=clips.sharpness, **common
        ).indices,
    }
    if count <= 20_000:
        made["half facility location"] = facility_location(clips, budget)
    if shutil.which("ffmpeg"):
        made[f"ffmpeg thumbnail={step}"] = by_ffmpeg(clips, f"thumbnail={step}")
        made["ffmpeg scene>0.03"] = by_ffmpeg(clips, "select=gt(scene\\,0.03)")
    else:
        print("ffmpeg is not installed: its thumbnail and scene filters are left out")
    return made


def judge(clips: Clips, made):
    """{selection: {space: Verdict}} and {selection: share of shots of at least half a second with a pick}."""
    verdicts = {
        name: {space: judge.verdict(picks) for space, judge in clips.judges.items()}
        for name, picks in made.items()
        if len(picks)
    }
    numbers, sizes = np.unique(clips.shots, return_counts=True)
    spans = np.array([np.ptp(clips.seconds[clips.shots == shot]) for shot in numbers])
    counted = set(numbers[(spans >= 0.46) & (sizes > 1)])
    covered = {
        name: len(counted & set(clips.shots[picks])) / max(1, len(counted))
        for name, picks in made.items()
        if len(picks)
    }
    return verdicts, covered, len(counted)


def table(title, clips: Clips, share: float):
    """Print the comparison; returns the sentences about the targets that were missed."""
    made = selections(clips, share)
    verdicts, covered, shots = judge(clips, made)
    print(f"\n{title}: {len(clips.embeddings)} frames, {shots} shots, {share:.0%}")
    print(f"{'':24}{'kept':>6} " + "".join(f"{space + ': radius p99 mean red.':>28}" for space in SPACES) + "   shots")
    for name, spaces in verdicts.items():
        cells = "".join(f"{v.radius:13.2f} {v.p99:4.2f} {v.mean:.3f} {v.redundancy:.2f}" for v in spaces.values())
        print(f"{name:24}{len(made[name]):6} {cells}   {covered[name]:.2f}")
    ours, core = verdicts["balanced (ours)"], verdicts["coreset (Lightly's)"]
    uniform_name = next(iter(verdicts))
    uniform = verdicts[uniform_name]
    missed = []
    for space in SPACES:
        for what, value, limit in (
            ("radius", ours[space].radius / core[space].radius, 1.15),
            ("redundancy above coreset", ours[space].redundancy - core[space].redundancy, 0.05),
            (f"mean of {uniform_name}", ours[space].mean / uniform[space].mean, 1.07),
        ):
            mark = "ok" if value <= limit + 1e-9 else "MISSED"
            print(f"  {space:6} {what:26} {value:6.3f} (limit {limit}) {mark}")
            if mark != "ok":
                missed.append(f"{title}: {space} {what} {value:.3f} > {limit}")
    print(f"  shots {covered['balanced (ours)']:.3f} (at least {covered[uniform_name]:.3f})")
    if covered["balanced (ours)"] < covered[uniform_name]:
        missed.append(f"{title}: shots {covered['balanced (ours)']:.3f} < {covered[uniform_name]:.3f}")
    return missed


def real_clips():
    """The readable clips of LIGHTLY_TEST_VIDEOS."""
    folder = os.environ.get("LIGHTLY_TEST_VIDEOS")
    return sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in _EXTENSIONS) if folder else []


def generated_clips(folder):
    """The sandbox's footage and the scene that each frame shows: a shot that comes back is the same scene."""
    from lightly_pipeline.sandbox.footage import footage, ground_truth

    clips = footage(Path(folder))
    scenes = []
    for clip in clips:
        truth = ground_truth(clip)
        scenes.append(np.zeros(truth.frames, dtype=int))
        for shot in truth.shots:
            scenes[-1][shot.span.start : shot.span.end] = shot.scene
    return [clip.files[0] for clip in clips], scenes


def main(arguments=None) -> int:
    """Print the tables; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--share", type=float, default=0.1)
    given = parser.parse_args(arguments)
    missed = []
    if given.videos:
        missed += table("given clips", load(given.videos), given.share)
    else:
        if real := real_clips():
            missed += table("real clips", load(real), given.share)
        else:
            print("LIGHTLY_TEST_VIDEOS is not set: real clips are left out")
        with tempfile.TemporaryDirectory() as folder:
            paths, scenes = generated_clips(os.environ.get("LIGHTLY_BENCH_FOOTAGE", folder))
            missed += table("generated clips", load(paths, scenes), given.share)
    for sentence in missed:
        print("missed:", sentence)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
