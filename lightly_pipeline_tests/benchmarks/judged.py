"""All frames of some clips: what the worker measures of them, and how every space of `judges.py` sees them.

What the benchmarks of quality share: which clips there are, how they are loaded, and what a selection from them is
worth.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightly_pipeline.worker.scan import NeuralEmbedder, ScanSettings, scan_video, snap_in_stages
from lightly_pipeline.worker.select import REPRESENTATIVES, select
from lightly_pipeline_tests.benchmarks.costs import NOTHING, THREADS, run
from lightly_pipeline_tests.benchmarks.judges import SPACES, Judge, features_of

_EXTENSIONS = {".mp4", ".webm", ".mov", ".avi", ".mkv", ".m4v"}


#: An ONNX model (with its sidecar, see the worker's `scan.neural`) whose features become one more space, `nn`.
MODEL = "LIGHTLY_BENCH_MODEL"


@dataclass
class Clips:
    """All frames of some clips, one after the other; `others` are further descriptions of them, by name.

    kept: which frames the worker wrote to scratch while it decoded them, without copies of earlier ones of their clip.
    """

    paths: list
    embeddings: np.ndarray
    groups: np.ndarray
    seconds: np.ndarray
    sharpness: np.ndarray
    pts: np.ndarray
    kept: np.ndarray
    judges: dict
    shots: np.ndarray
    others: dict

    def ours(self, budget: int, strategy: str = "balanced"):
        """The picks of the worker (by its default strategy) at this budget."""
        best = {"sharpness": self.sharpness} if strategy == "balanced" else {}
        return select(
            self.embeddings, budget=budget, strategy=strategy, groups=self.groups, seconds=self.seconds, seed=1, **best
        ).indices

    def written(self, picks):
        """The frames that the worker writes for these picks: the nearest of those that it kept."""

        def choose_more(taken, count):
            return select(self.embeddings, budget=count, pool=self.embeddings[taken]).indices

        return snap_in_stages(self.embeddings, self.kept, picks, choose_more, settled=REPRESENTATIVES)

    def rows(self, number: int, seconds):
        """The frames of one clip that are shown at these times."""
        own = np.flatnonzero(self.groups == number)
        if not len(seconds):
            return own[:0]
        return own[np.unique(np.abs(self.seconds[own][None, :] - np.array(seconds)[:, None]).argmin(axis=1))]


def load(paths, true_shots=None, others=None, share=0.1) -> Clips:
    """Describe and judge every frame of `paths`; shots are detected, or given as one array of numbers per clip.

    others: {name: function of (RGB, luma)}, further descriptions to make of each frame. share: of the frames, that will
    be selected.
    """
    columns = {name: [] for name in ("embeddings", "groups", "seconds", "sharpness", "pts", "kept")}
    spaces, more = {name: [] for name in SPACES}, {name: [] for name in others or {}}
    model = NeuralEmbedder(Path(os.environ[MODEL])) if os.environ.get(MODEL) else None
    if model:
        spaces["nn"] = []
    shots = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, path in enumerate(paths):
            folder = Path(scratch, str(number))
            folder.mkdir()
            settings = ScanSettings(expected_share=share, image_format="jpg", output_image_size=16)
            scan = scan_video(Path(path), scratch=folder, settings=settings)
            features = features_of(path, {**SPACES, **(others or {})})
            if model:
                scanned = scan_video(Path(path), scratch=folder, settings=ScanSettings(expected_share=0), model=model)
                features["nn"] = np.array(scanned.embeddings)
            count = min(len(scan.frames), *(len(rows) for rows in features.values()))
            columns["embeddings"].append(np.array(scan.embeddings[:count]))
            columns["groups"].append(np.full(count, number))
            first = np.unique(scan.frames["pixel_hash"][:count], return_index=True)[1]
            columns["kept"].append(np.isin(np.arange(count), np.intersect1d(scan.kept, first)))
            for name in ("seconds", "sharpness", "pts"):
                columns[name].append(scan.frames[name][:count])
            for name, rows in features.items():
                (spaces if name in spaces else more)[name].append(rows[:count])
            if true_shots is not None:
                shots.append(number * 10_000 + np.array(true_shots[number])[:count])
    table = {name: np.concatenate(rows) for name, rows in columns.items()}
    judges = {name: Judge(name, np.concatenate(rows)) for name, rows in spaces.items()}
    numbers = np.concatenate(shots) if shots else np.cumsum(_cuts(judges, table["groups"])) - 1
    described = {name: np.concatenate(rows) for name, rows in more.items()}
    return Clips(list(paths), judges=judges, shots=numbers, others=described, **table)


def _cuts(judges, groups):
    """Where a shot begins: two neighbouring frames that differ in colour and in gradients as random frames do."""
    starts = np.ones(len(groups), dtype=bool)
    same = groups[1:] == groups[:-1]
    far = [np.linalg.norm(np.diff(judges[n].rows, axis=0), axis=1) / judges[n].unit for n in ("hsv", "hog")]
    starts[1:] = ~same | ((far[0] > 0.35) & (far[1] > 0.5))
    return starts


def by_ffmpeg(clips: Clips, video_filter: str, pictures: Path | None = None):
    """The frames that an ffmpeg filter lets through, and what it costs; written as JPEG to `pictures` if given."""
    picks, cost = [], NOTHING
    for number, path in enumerate(clips.paths):
        target = ("-q:v", "2", str(pictures / f"{number}-%06d.jpg")) if pictures else ("-f", "null", "-")
        took = run(
            [
                *("ffmpeg", "-nostdin", "-v", "info", "-threads", str(THREADS), "-copyts", "-i", str(path), "-an"),
                *("-vf", f"{video_filter},showinfo", "-fps_mode", "passthrough", *target),
            ]
        )
        cost += took
        picks.append(clips.rows(number, [float(t) for t in re.findall(r"pts_time:\s*(-?[\d.]+)", took.said)]))
    return np.concatenate(picks), cost


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
