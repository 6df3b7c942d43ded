"""Lightly's own selection engine, lightly-mundig, run in a process of its own.

It holds the GIL for as long as it works, so in this process neither Ctrl-C nor a progress message would come through,
and its panics derive from BaseException. In a child it can be killed, and whatever happens there becomes a sentence
here. Its arithmetic is float32 on norms and dot products: a pick is within 1.5e-4 of the truly farthest row.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lightly_pipeline.worker.select.distance import nearest_neighbours
from lightly_pipeline.worker.select.in_order import in_order
from lightly_pipeline.worker.select.selection import Floats, Indices, SelectionError, StoppedBy, Watch

_CHILD = Path(__file__).with_name("mundig_child.py")
_POLL_SECONDS = 0.1


def mundig(
    points: Floats, pool: Floats | None, budget: int, min_distance: float, watch: Watch
) -> tuple[Indices, Floats, StoppedBy]:
    """Picks, distances and why it stopped, as `brute_force`, chosen by lightly-mundig."""
    known = 0 if pool is None else len(pool)
    with tempfile.TemporaryDirectory(prefix="lightly-worker-mundig-") as folder:
        vectors, answer = Path(folder, "embeddings.npy"), Path(folder, "picks.npy")
        rows = np.lib.format.open_memmap(
            vectors, mode="w+", dtype=np.float32, shape=(known + len(points), points.shape[1])
        )
        if pool is not None:
            rows[:known] = pool
        rows[known:] = points
        rows.flush()
        del rows
        task = {
            "embeddings": str(vectors),
            "picks": str(answer),
            "preselected": known,
            "select": min(budget, len(points)) + known,
            "min_distance": min_distance if min_distance > 0 else None,
        }
        _run(task, budget, watch)
        picks = np.load(answer)[known:] - known
    # Its rounding can pass a duplicate, or a row nearer than the minimum by its last digits: ours decides.
    picks, distances, _ = in_order(points, pool, picks, len(picks), min_distance, watch)
    if len(picks) >= budget:
        return picks, distances, "budget"
    taken = points[picks] if pool is None else np.concatenate([pool, points[picks]])
    differs = bool((nearest_neighbours(points, taken)[1] > 0).any())
    return picks, distances, "min_distance" if differs else "exhausted"


def _run(task: dict[str, object], budget: int, watch: Watch) -> None:
    child = subprocess.Popen(
        [sys.executable, "-X", "utf8", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A terminal's Ctrl-C goes to the parent, which then ends the child.
        start_new_session=True,
    )
    try:
        pending: str | None = json.dumps(task)
        while True:
            try:
                _, errors = child.communicate(pending, timeout=_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                pending = None
                watch.beat(0, budget)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode != 0:
        reason = errors.strip().splitlines()[-1] if errors.strip() else "no message"
        if child.returncode < 0:
            reason = f"it was ended by signal {-child.returncode} (9 is often a lack of memory)"
        raise SelectionError(
            f"lightly-mundig could not select from {task['embeddings']}: {reason}. "
            "The built-in engine makes the same picks: choose engine 'auto'."
        )
