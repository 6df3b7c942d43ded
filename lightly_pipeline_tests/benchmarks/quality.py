"""How good the selected frames are: the default strategy against what else one could take, at the same budget.

    python -m lightly_pipeline_tests.benchmarks.quality [--share 0.1] [--embeddings cache.npz] [VIDEO ...]

Without videos: the clips of LIGHTLY_TEST_VIDEOS, then the sandbox's generated footage. For every selection and every
space of `judges.py` it prints radius, p99, mean and redundancy, and the share of shots with a selected frame; then
what targets the default strategy meets, with the frames that it picks and with those that are written for them (which
the worker kept while it decoded): in every space radius at most 1.15 and redundancy at most +0.05 of pure coreset,
mean at most 1.07 of every-10th, shots at least every-10th's. Then the built-in descriptor against a larger one
(`descriptors.py`), and of the generated footage what is known: exact and near duplicates among the written frames,
shots, and injected corruption (`corruption.py`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from lightly_pipeline.sandbox.footage import ground_truth
from lightly_pipeline.worker.select import select
from lightly_pipeline_tests.benchmarks import corruption, descriptors
from lightly_pipeline_tests.benchmarks.judged import Clips, by_ffmpeg, generated_clips, judge, load, real_clips

#: Share of the selected frames of generated footage that may be near duplicates of another.
NEAR_DUPLICATES = 0.02
#: Damaged copies of each generated clip, codec and injury.
COPIES = 4
WRITTEN = "balanced, as written"


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
    made = {
        f"every {step}th": every,
        "random": clips.ours(budget, "random"),
        "coreset (Lightly's)": clips.ours(budget, "coreset"),
        "balanced (ours)": clips.ours(budget),
    }
    made[WRITTEN] = clips.written(made["balanced (ours)"])
    if count <= 20_000:
        made["half facility location"] = facility_location(clips, budget)
    if shutil.which("ffmpeg"):
        made[f"ffmpeg thumbnail={step}"] = by_ffmpeg(clips, f"thumbnail={step}")[0]
        made["ffmpeg scene>0.03"] = by_ffmpeg(clips, "select=gt(scene\\,0.03)")[0]
    else:
        print("ffmpeg is not installed: its thumbnail and scene filters are left out")
    return made


def table(title, clips: Clips, share: float):
    """Print the comparison; returns the sentences about the targets that were missed."""
    made = selections(clips, share)
    verdicts, covered, shots = judge(clips, made)
    print(f"\n{title}: {len(clips.embeddings)} frames, {shots} shots, {share:.0%}")
    print(
        f"{'':24}{'kept':>6} "
        + "".join(f"{space + ': radius p99 mean red.':>28}" for space in clips.judges)
        + "   shots"
    )
    for name, spaces in verdicts.items():
        cells = "".join(f"{v.radius:13.2f} {v.p99:4.2f} {v.mean:.3f} {v.redundancy:.2f}" for v in spaces.values())
        print(f"{name:24}{len(made[name]):6} {cells}   {covered[name]:.2f}")
    missed = []
    for name in ("balanced (ours)", WRITTEN):
        missed += [f"{title}, {name}: {sentence}" for sentence in against_targets(name, verdicts, covered)]
    return missed + descriptors.compare(title, clips, share)


def against_targets(name: str, verdicts, covered) -> list[str]:
    """Print how a selection does against the targets; returns what it missed."""
    ours, core = verdicts[name], verdicts["coreset (Lightly's)"]
    uniform_name = next(iter(verdicts))
    uniform = verdicts[uniform_name]
    missed = []
    print(f"  {name}:")
    for space in ours:
        for what, value, limit in (
            ("radius", ours[space].radius / core[space].radius, 1.15),
            ("redundancy above coreset", ours[space].redundancy - core[space].redundancy, 0.05),
            (f"mean of {uniform_name}", ours[space].mean / uniform[space].mean, 1.07),
        ):
            mark = "ok" if value <= limit + 1e-9 else "MISSED"
            print(f"  {space:6} {what:26} {value:6.3f} (limit {limit}) {mark}")
            if mark != "ok":
                missed.append(f"{space} {what} {value:.3f} > {limit}")
    print(f"  shots {covered[name]:.3f} (at least {covered[uniform_name]:.3f})")
    if covered[name] < covered[uniform_name]:
        missed.append(f"shots {covered[name]:.3f} < {covered[uniform_name]:.3f}")
    return missed


def truth(clips: Clips, share: float) -> list[str]:
    """Print what is known of the generated clips: duplicates among the picks; returns the targets that were missed."""
    picks = clips.written(clips.ours(max(1, int(len(clips.embeddings) * share))))
    exact = near = 0
    for number, path in enumerate(clips.paths):
        own = np.flatnonzero(clips.groups == number)
        chosen = np.searchsorted(own, picks[np.isin(picks, own)])
        known = ground_truth(path.parent.name)
        first = np.array(known.first_equal())
        exact += len(chosen) - len(np.unique(first[chosen]))
        for span in known.near_duplicates:
            # The grain lies over the picture right before the span.
            alike = (first[chosen] == first[span.start - 1]) | ((chosen >= span.start) & (chosen < span.end))
            near += max(0, int(alike.sum()) - 1)
    _, covered, shots = judge(clips, {"ours": picks})
    print(
        f"\nground truth, {len(picks)} of {len(clips.embeddings)} frames: {exact} exact duplicates (none), "
        f"near duplicates {near / len(picks):.1%} (at most {NEAR_DUPLICATES:.0%}), "
        f"{covered['ours']:.0%} of {shots} shots of half a second (all)"
    )
    missed = []
    if exact:
        missed.append(f"{exact} exact duplicates among {len(picks)} selected frames")
    if near > NEAR_DUPLICATES * len(picks):
        missed.append(f"{near} of {len(picks)} selected frames are near duplicates of another")
    if covered["ours"] < 1:
        missed.append(f"only {covered['ours']:.0%} of the generated shots are represented")
    return missed


def main(arguments=None) -> int:
    """Print the tables; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--share", type=float, default=0.1)
    given = parser.parse_args(arguments)
    missed = []
    if given.videos:
        missed += table("given clips", load(given.videos, others=descriptors.PARTS, share=given.share), given.share)
    else:
        if real := real_clips():
            missed += table("real clips", load(real, others=descriptors.PARTS, share=given.share), given.share)
        else:
            print("LIGHTLY_TEST_VIDEOS is not set: real clips are left out")
        with tempfile.TemporaryDirectory() as folder:
            home = os.environ.get("LIGHTLY_BENCH_FOOTAGE", folder)
            paths, scenes = generated_clips(home)
            generated = load(paths, scenes, descriptors.PARTS, given.share)
            missed += table("generated clips", generated, given.share)
            missed += truth(generated, given.share)
            missed += corruption.measure(corruption.clips(home), COPIES)
    for sentence in missed:
        print("missed:", sentence)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
