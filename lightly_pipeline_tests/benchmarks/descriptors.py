"""The built-in descriptor against a larger one that needs no compiler: the best combination that was measured.

400 numbers in plain NumPy: histograms of oriented gradients (4 x 4 cells, 8 directions) of the 64 x 64 luma, an 8 x 8
luma picture, and on a 2 x 2 grid histograms of luma (16) and of both chroma together (6 x 6). Each part is scaled so
that two random frames differ by as much in it as in the others.
"""

from __future__ import annotations

import itertools
import math
import time

import numpy as np

from lightly_pipeline.worker.scan.compiled import kernels
from lightly_pipeline.worker.scan.descriptor import BUILT_IN, projection
from lightly_pipeline.worker.select import select
from lightly_pipeline_tests.benchmarks.judged import Clips, judge

#: Milliseconds that the built-in descriptor may take for one frame.
MILLISECONDS = 0.1
#: In how many spaces its selection has to be as good: four of five, or all four without a neural one.
SPACES_WON = 4
FIGURES = ("radius", "p99", "mean", "redundancy")


def gradients(_rgb, luma):
    """float [128]: square roots of the histograms of oriented gradients, as a unit vector."""
    picture = _halved(luma)
    dy, dx = np.gradient(picture)
    strength = np.hypot(dx, dy).ravel()
    place = (np.arctan2(dy, dx) % np.pi / np.pi * 8 - 0.5).ravel()
    low = np.floor(place).astype(int)
    share = place - low
    cell = (np.add.outer(np.arange(64) // 16 * 4, np.arange(64) // 16) * 8).ravel()
    counts = np.bincount(cell + low % 8, strength * (1 - share), 128)
    counts = np.sqrt(counts + np.bincount(cell + (low + 1) % 8, strength * share, 128))
    return counts / (np.linalg.norm(counts) + 1e-6)


def tiny(_rgb, luma):
    """float [64]: luma of 8 x 8 blocks."""
    return luma.reshape(8, 16, 8, 16).mean(axis=(1, 3)).ravel()


def colour(rgb, luma):
    """float [208]: square roots of the shares of luma and chroma in each quarter, bins finer around gray."""
    grey = luma[::2, ::2]
    chroma = [(rgb[::2, ::2, band] / 255 - grey) / reach for band, reach in ((2, 0.886), (0, 0.701))]
    chroma = [np.clip(np.sign(part) * np.sqrt(np.abs(part)) * 2.5 + 2.5, 0, 4.999) for part in chroma]
    quarter = np.add.outer(np.arange(64) // 32 * 2, np.arange(64) // 32)
    light = _shared(quarter, np.clip(grey * 16 - 0.5, 0, 14.999)[None], (16,))
    tint = _shared(quarter, np.array(chroma), (6, 6))
    return np.sqrt(np.concatenate([light, tint]) / 1024)


def _shared(cell, places, bins):
    """Counts for each cell and bin; what lies between the middles of bins is shared between them."""
    low = places.astype(int)
    counts = np.zeros(4 * math.prod(bins))
    for corner in itertools.product((0, 1), repeat=len(bins)):
        weight, index = np.ones(cell.shape), cell
        for step, position, floor, count in zip(corner, places, low, bins, strict=True):
            weight = weight * (position - floor if step else 1 - position + floor)
            index = index * count + floor + step
        counts += np.bincount(index.ravel(), weight.ravel(), len(counts))
    return counts


PARTS = {"gradients": gradients, "tiny": tiny, "colour": colour}


def _halved(luma):
    return luma.reshape(64, 2, 64, 2).mean(axis=(1, 3))


def combination(clips: Clips):
    """The 400 numbers of every frame, from `clips.others`."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, len(clips.embeddings), (2, 20_000))
    parts = []
    for name in PARTS:
        rows = clips.others[name]
        apart = np.linalg.norm(rows[first] - rows[second], axis=1)
        parts.append(rows / np.median(apart[first != second]))
    return np.concatenate(parts, axis=1).astype(np.float32)


def milliseconds(repeat: int = 2000) -> float:
    """What describing one frame takes the built-in descriptor, from its block means; the best of five rounds."""
    rng = np.random.default_rng(0)
    luma = rng.random((64, 64), np.float32)
    chroma = rng.random((2, 32, 32), np.float32) - np.float32(0.5)
    signs, rows = projection()
    out, workspace = np.zeros(BUILT_IN.dimensions, np.float32), np.zeros(1 << 14, np.uint32)
    buffers = (luma, chroma, signs, rows, out, workspace)
    block = np.array([buffer.ctypes.data for buffer in buffers], np.int64)
    describe, address = kernels().functions["describe"], block.ctypes.data
    rounds = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(repeat):
            describe(address)
        rounds.append((time.perf_counter() - begin) / repeat * 1000)
    return min(rounds)


def compare(title: str, clips: Clips, share: float) -> list[str]:
    """Print both, selected from by exact greedy k-center; returns the sentences about what was missed."""
    budget = max(1, int(len(clips.embeddings) * share))
    rows = {f"built-in, {BUILT_IN.dimensions}": clips.embeddings, "combination, 400": combination(clips)}
    made = {
        name: select(vectors, budget=budget, strategy="coreset", engine="numpy").indices
        for name, vectors in rows.items()
    }
    verdicts, covered, _ = judge(clips, made)
    print(f"\n{title}: descriptors, by exact greedy k-center")
    for name, spaces in verdicts.items():
        cells = "".join(f"{v.radius:13.2f} {v.p99:4.2f} {v.mean:.3f} {v.redundancy:.2f}" for v in spaces.values())
        print(f"{name:24}{len(made[name]):6} {cells}   {covered[name]:.2f}")
    ours, theirs = verdicts.values()
    lost = [s for s in ours if ours[s].radius > theirs[s].radius + 0.005 and ours[s].p99 > theirs[s].p99 + 0.005]
    took = milliseconds()
    verdict = f"radius or p99 as good in {len(ours) - len(lost)} of {len(ours)} spaces"
    each = {what: sum(getattr(ours[s], what) <= getattr(theirs[s], what) + 0.005 for s in ours) for what in FIGURES}
    print(
        f"  {verdict} (at least {SPACES_WON}; {', '.join(f'{what} in {n}' for what, n in each.items())}); "
        f"{took:.3f} ms per frame (at most {MILLISECONDS})"
    )
    missed = []
    if len(ours) - len(lost) < SPACES_WON:
        missed.append(f"{title}: the descriptor is {verdict}, worse in {', '.join(lost)}")
    if took > MILLISECONDS:
        missed.append(f"the descriptor takes {took:.3f} ms per frame > {MILLISECONDS}")
    return missed
