"""Footage that the sandbox renders itself: playable clips whose ground truth is known.

Several h264 clips of some seconds, each in two sizes, rendered with PyAV on first use and cached: moving
cameras and objects over textured scenery, cuts, cross-fades, freezes (exact duplicates: bit-identical when
decoded), freezes under grain (near duplicates) and shots that come back bit by bit. `ground_truth` tells
which frames are which, so that a test can ask whether a selection is right. The pictures themselves are
painted in `scenery.py`; what serves the clips over HTTP is in `pexels/`.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType

from lightly_pipeline.sandbox.scenery import Scene
from lightly_pipeline.sandbox.storyboard import SCRIPTS, Script, Take

# Near duplicates: each square of so many pixels is lighter or darker by at most so many levels, which is
# hardly seen and yet survives the encoder.
_GRAIN_PIXELS = 8
_GRAIN_LEVELS = 5


class Span(NamedTuple):
    """Frames start … end - 1 of a clip."""

    start: int
    end: int


@dataclass(frozen=True)
class Shot:
    """Frames between two cuts. Shots of one clip with the same `scene` show the very same frames."""

    span: Span
    scene: int


@dataclass(frozen=True)
class GroundTruth:
    """What is true of a clip's decoded frames, by frame index in display order.

    `static` are the spans in which all frames are bit-identical to each other; `repeats` are pairs (span,
    start of the earlier frames that it repeats bit by bit); `near_duplicates` are the spans in which frames
    differ by faint grain alone (no two frames in them are equal). Frames in none of these are unique.
    """

    frames: int
    shots: tuple[Shot, ...]
    static: tuple[Span, ...]
    repeats: tuple[tuple[Span, int], ...]
    near_duplicates: tuple[Span, ...]

    def first_equal(self) -> list[int]:
        """For every frame the index of the first bit-identical one (its own if none is earlier)."""
        first = list(range(self.frames))
        for span in self.static:
            for index in range(*span):
                first[index] = first[span.start]
        for span, earlier in self.repeats:
            for index in range(*span):
                first[index] = first[earlier + index - span.start]
        return first

    def exact_duplicates(self) -> set[int]:
        """Frames that are bit-identical to an earlier one: what exact deduplication removes."""
        return {index for index, first in enumerate(self.first_equal()) if first != index}


@dataclass(frozen=True)
class Clip:
    """One rendered clip: `files` are the same frames as mp4 files, the largest first."""

    id: int
    name: str
    title: str
    creator: str
    width: int
    height: int
    fps: Fraction
    frames: int
    files: tuple[Path, ...]


def clips(folder: Path) -> tuple[Clip, ...]:
    """All clips as they are or will be in `folder`: nothing is rendered, `files` may not exist."""
    return tuple(_clip(script, folder) for script in SCRIPTS)


def footage(folder: Path, *names: str) -> tuple[Clip, ...]:
    """The clips of these names (none given: all), rendered into `folder` where they are missing.

    Safe for several processes at once: one renders, the others wait for it. Raises ValueError for a name that no clip
    has.
    """
    scripts = [_script(name) for name in names] or list(SCRIPTS)
    if not all(_home(script, folder).is_dir() for script in scripts):
        with _alone(folder):
            for left_by_a_killed_process in (folder / f"footage-{_version()}").glob(".*"):
                shutil.rmtree(left_by_a_killed_process)
            missing = [script for script in scripts if not _home(script, folder).is_dir()]
            # Painting and encoding release the GIL for most of their time.
            with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 4)) as pool:
                list(pool.map(lambda script: _render(script, _home(script, folder)), missing))
    return tuple(_clip(script, folder) for script in scripts)


def ground_truth(clip: Clip | str) -> GroundTruth:
    """What is true of the clip (or of the clip of that name); holds for each of its files."""
    script = _script(clip if isinstance(clip, str) else clip.name)
    shots: list[Shot] = []
    static: list[Span] = []
    repeats: list[tuple[Span, int]] = []
    near: list[Span] = []
    at = 0
    for scene, take in enumerate(script.takes):
        if take.repeat_of is not None:
            earlier = shots[take.repeat_of].span
            shots.append(Shot(Span(at, at + earlier.end - earlier.start), shots[take.repeat_of].scene))
            repeats.append((shots[-1].span, earlier.start))
        else:
            # The freeze holds the last moving frame, which therefore belongs to it.
            frozen = max(0, at + take.frames - 1)
            thawed = at + take.frames + take.frozen
            shots.append(Shot(Span(at, thawed + take.grain), scene))
            if take.frozen:
                static.append(Span(max(at, frozen), thawed))
            if take.grain:
                near.append(Span(thawed, thawed + take.grain))
        at = shots[-1].span.end
    return GroundTruth(at, tuple(shots), tuple(static), tuple(repeats), tuple(near))


def _script(name: str) -> Script:
    for script in SCRIPTS:
        if script.name == name:
            return script
    known = ", ".join(script.name for script in SCRIPTS)
    raise ValueError(f"There is no footage named {name}: the clips are {known}.")


def _home(script: Script, folder: Path) -> Path:
    return folder / f"footage-{_version()}" / script.name


@functools.cache
def _version() -> str:
    """A hash of the code that makes the clips: a cache never holds what would come out differently."""
    digest = hashlib.sha256()
    for module in ("footage.py", "scenery.py", "storyboard.py"):
        digest.update(Path(__file__).with_name(module).read_bytes())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's kernel lock, which ends with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _clip(script: Script, folder: Path) -> Clip:
    return Clip(
        id=script.id,
        name=script.name,
        title=script.title,
        creator=script.creator,
        width=script.width,
        height=script.height,
        fps=script.fps,
        frames=ground_truth(script.name).frames,
        files=tuple(_home(script, folder) / f"{width}x{height}.mp4" for width, height in _sizes(script)),
    )


def _sizes(script: Script) -> list[tuple[int, int]]:
    return [(script.width, script.height), (script.width // 4 * 2, script.height // 4 * 2)]


def _render(script: Script, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{script.name}-", dir=home.parent))
    try:
        _encode(script, [(scratch / f"{w}x{h}.mp4", w, h) for w, h in _sizes(script)])
        scratch.rename(home)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _encode(script: Script, targets: list[tuple[Path, int, int]]) -> None:
    has_exact_duplicates = any(take.frozen or take.repeat_of is not None for take in script.takes)
    containers = [av.open(str(path), "w", options={"movflags": "+faststart"}) for path, _, _ in targets]
    streams = []
    for container, (_, width, height) in zip(containers, targets, strict=True):
        stream = container.add_stream("libx264", rate=script.fps, options=_EXACT if has_exact_duplicates else _ORDINARY)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        streams.append(stream)
    for index, (picture, key) in enumerate(_pictures(script)):
        source = av.VideoFrame.from_ndarray(picture, format="rgb24")
        for container, stream in zip(containers, streams, strict=True):
            frame = source.reformat(stream.width, stream.height, "yuv420p")
            frame.pts, frame.time_base = index, 1 / script.fps
            frame.pict_type = PictureType.I if key else PictureType.NONE
            container.mux(stream.encode(frame))
    for container, stream in zip(containers, streams, strict=True):
        container.mux(stream.encode(None))
        container.close()


# What any encoder does, B frames and rate control included.
_ORDINARY = {"preset": "veryfast", "crf": "23", "forced-idr": "1"}

# Equal pictures decode to equal pixels only when the encoder sees them in equal state: a constant
# quantiser, no look-ahead, no references across a key frame, and a key frame at each shot and at each frame
# of a freeze.
_EXACT = {
    "preset": "veryfast",
    "qp": "25",
    "forced-idr": "1",
    "x264-params": "aq-mode=0:mbtree=0:rc-lookahead=0:sync-lookahead=0:bframes=0:ref=1:scenecut=0:"
    "keyint=infinite:threads=1:ipratio=1",
}


def _pictures(script: Script) -> Iterator[tuple[npt.NDArray[np.uint8], bool]]:
    """Each frame as RGB [height, width, 3], and whether it must be a key frame."""
    for number, take in enumerate(script.takes):
        seed = number if take.repeat_of is None else take.repeat_of
        yield from _filmed(script, script.takes[seed], np.random.default_rng((script.id, seed)))


def _filmed(script: Script, take: Take, rng: np.random.Generator) -> Iterator[tuple[npt.NDArray[np.uint8], bool]]:
    scene = Scene(rng, script.width, script.height, take.motion)
    seconds = float(1 / script.fps)
    picture = scene.at(0.0)
    # With a freeze ahead its first frame is the last moving one, and has to be a key frame too.
    for index in range(take.frames):
        picture = scene.at(index * seconds)
        yield picture, index == 0 or (take.frozen > 0 and index == take.frames - 1)
    for _ in range(take.frozen):
        yield picture, True
    for _ in range(take.grain):
        yield _under_grain(picture, rng), False


def _under_grain(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    height, width, _ = picture.shape
    squares = (height // _GRAIN_PIXELS + 1, width // _GRAIN_PIXELS + 1)
    grain = rng.integers(-_GRAIN_LEVELS, _GRAIN_LEVELS, squares, np.int16, endpoint=True)
    grain = grain.repeat(_GRAIN_PIXELS, 0).repeat(_GRAIN_PIXELS, 1)[:height, :width, None]
    grainy: npt.NDArray[np.uint8] = np.clip(picture + grain, 0, 255).astype(np.uint8)
    return grainy
