"""What other tools would have chosen from the same clips, what they take for it, and ours at the same count.

    python -m lightly_pipeline_tests.benchmarks.peers [--only NAME …] [VIDEO …]

Without videos: the clips of LIGHTLY_TEST_VIDEOS, or the sandbox's generated footage where there are none. For each
peer one line (frames kept; wall clock in seconds and in ffmpeg's time for decoding alone; peak memory; in every space
of `judges.py` radius, p99, mean and redundancy; shots with a frame) and below it the worker's default strategy with as
many frames. Peers from PyPI are installed by pip into an environment of their own in `.sandbox/peers`, and left out,
with the reason in their line, where they do not install or run. Peers that want pictures are given every frame as a
JPEG that ffmpeg wrote; that is in their time.

It ends with 1 when there is a peer that ours equals or beats, both in radius and in redundancy, in fewer than four
spaces. There are four, and a fifth when LIGHTLY_BENCH_MODEL names an ONNX model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lightly_pipeline_tests.benchmarks.costs import NOTHING, Cost, decode, run, whole_job
from lightly_pipeline_tests.benchmarks.judged import Clips, by_ffmpeg, generated_clips, judge, load, real_clips

ENVIRONMENTS = Path(__file__).parents[2] / ".sandbox" / "peers"
#: Seconds after which an installation, or the run of a peer, is given up.
TO_INSTALL, TO_RUN = 900, 900
#: In how many spaces ours has to be as good as a peer: four of five, or all four without a neural one.
SPACES_WON = 4
#: What is called equal: half of what the table's last digit stands for.
EQUAL = 0.005


@dataclass
class Bench:
    """The clips as files and as judged frames, and every frame as a picture for those who want that."""

    clips: Clips
    scratch: Path
    _pictures: tuple[Path, Cost] | None = field(default=None, repr=False)

    def folder(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def pictures(self) -> tuple[Path, Cost]:
        """A folder with each frame as CLIP-NUMBER.jpg, numbers from 1, and what it took to write them."""
        if self._pictures is None:
            folder = self.folder()
            cost = NOTHING
            for number, path in enumerate(self.clips.paths):
                target = str(folder / f"{number}-%06d.jpg")
                rate = ("-fps_mode", "passthrough", "-q:v", "2")
                cost += run(["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-an", *rate, target])
            self._pictures = folder, cost
        return self._pictures

    def rows_of(self, names) -> np.ndarray:
        """The frames that pictures of these names show."""
        rows = []
        for name in names:
            clip, frame = Path(name).stem.split("-")
            own = np.flatnonzero(self.clips.groups == int(clip))
            rows.append(own[min(int(frame), len(own)) - 1])
        return np.unique(np.array(rows, dtype=np.int64))


def installed(requirement: str) -> Path:
    """The interpreter of an environment with this package alone; raises RuntimeError with pip's reason."""
    home = ENVIRONMENTS / requirement
    python = home / "bin" / "python"
    ready = home / "ready"
    if not ready.exists():
        print(f"installing {requirement} …", file=sys.stderr, flush=True)
        shutil.rmtree(home, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(home)], patience=TO_INSTALL)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        run([*pip, requirement], patience=TO_INSTALL)
        ready.touch()
    return python


Peer = Callable[[Bench], tuple[np.ndarray, Cost]]


def ffmpeg(video_filter: str) -> Peer:
    """An ffmpeg filter, to JPEG."""
    return lambda bench: by_ffmpeg(bench.clips, video_filter, bench.folder())


def video_sampler(*options: str) -> Peer:
    """video-sampler's hash buffer; it names its pictures by their time."""

    def peer(bench: Bench) -> tuple[np.ndarray, Cost]:
        python = installed("video-sampler==0.13.0")
        output = bench.folder()
        cost, picks = NOTHING, []
        for number, path in enumerate(bench.clips.paths):
            command = [str(python), "-m", "video_sampler", "hash", *options, str(path), str(output)]
            cost += run(command, patience=TO_RUN)
            written = sorted((output / path.name).glob("*.jpg"))
            picks.append(bench.clips.rows(number, [float(picture.stem) for picture in written]))
        return np.concatenate(picks), cost

    return peer


def on_pictures(requirement: str, program: str) -> Peer:
    """A package that looks at a folder of pictures: `program` assigns `kept` from `folder` and `work`."""

    def peer(bench: Bench) -> tuple[np.ndarray, Cost]:
        python = installed(requirement)
        folder, written = bench.pictures()
        answer = bench.folder() / "kept.json"
        given = f"import json, os; folder = {str(folder)!r}; work = {str(bench.folder())!r}; names = os.listdir(folder)"
        told = f"json.dump(sorted(kept), open({str(answer)!r}, 'w'))"
        cost = run([str(python), "-c", f"{given}\n{program}\n{told}"], patience=TO_RUN)
        return bench.rows_of(json.loads(answer.read_text())), written + cost

    return peer


_IMAGEDEDUP = """
from imagededup.methods import PHash
removed = PHash().find_duplicates_to_remove(image_dir=folder, max_distance_threshold=10)
kept = set(names) - set(removed)
"""

_FASTDUP = """
import fastdup
data = fastdup.create(work_dir=work, input_dir=folder)
data.run(overwrite=True)
parts = data.connected_components()[0]
first = parts.sort_values("filename").groupby("component_id")["filename"].first()
kept = set(names) - {os.path.basename(n) for n in parts["filename"]} | {os.path.basename(n) for n in first}
"""

_CLEANVISION = """
from cleanvision import Imagelab
lab = Imagelab(data_path=folder)
lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=1)
alike = [s for kind in ("exact_duplicates", "near_duplicates") for s in lab.info[kind]["sets"]]
kept = set(names) - {os.path.basename(n) for s in alike for n in sorted(s)[1:]}
"""

PEERS: dict[str, Peer] = {
    "ffmpeg every 10th": ffmpeg("select=not(mod(n\\,10))"),
    "ffmpeg thumbnail=10": ffmpeg("thumbnail=10"),
    "ffmpeg scene>0.03": ffmpeg("select=gt(scene\\,0.03)"),
    "ffmpeg mpdecimate": ffmpeg("mpdecimate"),
    "video-sampler keyframes": video_sampler(),
    "video-sampler all, hash 4": video_sampler(
        *("--no-keyframes-only", "--min-frame-interval-sec", "0.001", "--hash-size", "4")
    ),
    "imagededup pHash ≤ 10": on_pictures("imagededup==0.3.3.post2", _IMAGEDEDUP),
    "fastdup components": on_pictures("fastdup==2.54", _FASTDUP),
    "cleanvision": on_pictures("cleanvision==0.3.7", _CLEANVISION),
}


def line(name: str, count: int, cost: Cost | None, unit: Cost, verdicts, shots: float) -> str:
    """One line of the table."""
    took = f"{cost.wall:7.1f} {cost.wall / unit.wall:6.2f} {cost.memory:6.0f}" if cost else " " * 21
    cells = "".join(f"  {v.radius:6.2f} {v.p99:4.2f} {v.mean:.3f} {v.redundancy:.2f}" for v in verdicts.values())
    return f"{name:26}{count:6} {took}{cells}   {shots:.2f}"


def worse(ours, peer) -> dict[str, str]:
    """{space: how ours is worse than the peer in it}."""
    found = {}
    for space, theirs in peer.items():
        for what in ("radius", "redundancy"):
            mine, other = getattr(ours[space], what), getattr(theirs, what)
            if mine > other + EQUAL:
                found.setdefault(space, f"{space} {what} {mine:.3f} > {other:.3f}")
    return found


def compare(bench: Bench, names: list[str]) -> list[str]:
    """Print the table; returns the sentences about the peers that ours is worse than."""
    clips = bench.clips
    unit = decode("ffmpeg", clips.paths)
    folder = clips.paths[0].parent
    count = len(clips.embeddings)
    print(f"{count} frames of {len(clips.paths)} clips; ffmpeg decodes them in {unit.wall:.2f} s, {unit.memory:.0f} MB")
    spaces = "".join(f"  {f'{space}: radius p99 mean red.':>22}" for space in clips.judges)
    print(f"{'':26}{'kept':>6} {'wall s':>7} {'x dec.':>6} {'MB':>6}{spaces}   shots")
    options = ("stopping_condition.n_samples=0.1", "output_image_format=jpg")
    whole_job(folder, *options)  # machine code is compiled once, before anything is measured
    verdicts, shots, _ = judge(clips, {"ours": clips.ours(count // 10)})
    print(line("ours, 10 %", count // 10, whole_job(folder, *options), unit, verdicts["ours"], shots["ours"]))
    missed = []
    for name in names:
        try:
            picks, cost = PEERS[name](bench)
        except (RuntimeError, OSError) as error:
            print(f"{name:26}skipped: {reason(str(error))}", flush=True)
            continue
        if not len(picks):
            print(f"{name:26}skipped: it kept no frame", flush=True)
            continue
        made = {name: picks, "ours": clips.ours(len(picks))}
        verdicts, shots, _ = judge(clips, made)
        print(line(name, len(picks), cost, unit, verdicts[name], shots[name]))
        print(line("  ours", len(made["ours"]), None, unit, verdicts["ours"], shots["ours"]), flush=True)
        lost = worse(verdicts["ours"], verdicts[name])
        if len(clips.judges) - len(lost) < SPACES_WON:
            missed.append(f"{name}: {'; '.join(lost.values())} ({len(lost)} of {len(clips.judges)} spaces)")
        elif lost:
            print(f"  (but {'; '.join(lost.values())})")
    return missed


def reason(said: str) -> str:
    """The line of a failure's output that says why."""
    lines = [text.strip() for text in said.splitlines() if text.strip()]
    errors = [text for text in lines if "error" in text.lower()]
    return (errors or lines or ["it says nothing"])[-1][:200]


def main(arguments=None) -> int:
    """Print the table; exit status 1 when ours is worse than a peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME")
    parser.add_argument("videos", nargs="*", type=Path)
    given = parser.parse_args(arguments)
    if shutil.which("ffmpeg") is None:
        print("peers: skipped, there is no ffmpeg on this machine.")
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as scratch:
        found, scenes = given.videos or real_clips(), None
        if not found:
            found, scenes = generated_clips(Path(scratch, "footage"))
        folder = Path(scratch, "clips")
        folder.mkdir()
        paths = [Path(shutil.copy(path, folder / f"{n:02}{path.suffix}")) for n, path in enumerate(found)]
        missed = compare(Bench(load(paths, scenes), Path(scratch)), given.only)
    for sentence in missed:
        print("missed:", sentence)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
