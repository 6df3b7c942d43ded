"""How the time and memory of exact greedy k-center grow, k = n / 10, with and without a pool.

    python -m lightly_pipeline_tests.benchmarks.selection_scale [--most 1000000] [--pool 100000] [EMBEDDINGS.npy]

The rows are copies of the given embeddings (float32 [n, d]; else of the sandbox's footage, described by the built-in
descriptor) under random rotations: each copy has the structure of real frames. The pool has n / 10 vectors, at most
--pool: half is known content (rows with a little noise), half is unrelated. Each size runs in a process of its own,
from a memory-mapped file, BLAS on all cores; CPU seconds are the figure to compare on a shared machine. MB is the
process's peak, the mapped rows included. Up to 20,000 rows the brute force runs too and its picks must be the same.

The target: a million rows on a pool of 100,000 in a minute and 1 GiB. Exit status 1 when it is missed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = (20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
DIMENSIONS = 128
_BRUTE = 20_000
_TARGET, _TARGET_SECONDS, _TARGET_MEGABYTES = 1_000_000, 60, 1024
_PATIENCE = 600  # seconds for one line


def base_embeddings(path) -> np.ndarray:
    """Distinct unit rows of DIMENSIONS dimensions."""
    if path is not None:
        rows = np.load(path)
    else:
        from lightly_pipeline_tests.benchmarks.quality import generated_clips, load

        with tempfile.TemporaryDirectory() as folder:
            rows = load(*generated_clips(folder)).embeddings
    rows = np.asarray(rows, dtype=np.float32)
    # In time, as frames come.
    rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    if rows.shape[1] != DIMENSIONS:
        axes = np.linalg.svd(rows, full_matrices=False)[2][:DIMENSIONS]
        rows = np.pad(rows @ axes.T, ((0, 0), (0, DIMENSIONS - len(axes))))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rotated(base, count, rng, target):
    """`count` rows of rotated copies of `base`, written to the .npy file `target`."""
    rows = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=(count, DIMENSIONS))
    for begin in range(0, count, len(base)):
        rotation = np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))[0]
        rows[begin : begin + len(base)] = (base @ rotation)[: count - begin]
    rows.flush()


def pool_for(rows, base, count, rng, target):
    """Half of it rows with noise, half of other rotations."""
    half = count // 2
    rotated(base, count, rng, target)
    pool = np.load(target, mmap_mode="r+")
    wanted = np.sort(rng.choice(len(rows), half, replace=half > len(rows)))
    for begin in range(0, half, 10_000):
        known = rows[wanted[begin : begin + 10_000]]
        known = known + rng.standard_normal(known.shape, dtype=np.float32) * np.float32(0.003)
        pool[begin : begin + len(known)] = known / np.linalg.norm(known, axis=1, keepdims=True)
    pool.flush()


def _peak_megabytes() -> float:
    """This process's own peak; getrusage's begins with that of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(rows_path, pool_path) -> None:
    """Select in this process; print n, m, wall and CPU seconds, peak memory in MB, last distance, agreement."""
    from lightly_pipeline.worker.select import select

    rows = np.load(rows_path, mmap_mode="r")
    pool = np.load(pool_path, mmap_mode="r") if pool_path else None
    # Compiled code comes from the cache, as in every run but the first.
    select(np.eye(40, 16, dtype=np.float32), budget=2, pool=np.eye(3, 16, 2, dtype=np.float32), engine="numba")
    wall, cpu = time.perf_counter(), time.process_time()
    made = select(rows, budget=len(rows) // 10, pool=pool, engine="numba")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = _peak_megabytes()
    same = "-"
    if len(rows) <= _BRUTE:
        brute = select(rows, budget=len(rows) // 10, pool=pool, engine="numpy")
        same = "same" if (brute.indices == made.indices).all() and (brute.distances == made.distances).all() else "NOT"
    print(
        len(rows), 0 if pool is None else len(pool), f"{wall:.2f} {cpu:.2f} {memory:.0f} {made.distances[-1]:.4f}", same
    )


def main(arguments=None) -> int:
    """Print the table; exit status 1 when picks differ from the brute force's, or the target of 1M rows is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", nargs="?", type=Path)
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--pool", type=int, default=100_000)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        one(*given.one)
        return 0
    base = base_embeddings(given.embeddings)
    print(f"{len(base):,} distinct embeddings under rotations, {DIMENSIONS} dimensions, k = n / 10")
    print(f"{'n':>10}{'k':>9}{'pool':>9}{'CPU s':>9}{'wall s':>9}{'MB':>7}{'last gap':>10}  brute force")
    measured, wrong = [], False
    with tempfile.TemporaryDirectory() as folder:
        for count in [size for size in SIZES if size <= given.most]:
            rng = np.random.default_rng(count)
            rows, pool = Path(folder, "rows.npy"), Path(folder, "pool.npy")
            rotated(base, count, rng, rows)
            pool_for(np.load(rows, mmap_mode="r"), base, min(given.pool, count // 10), rng, pool)
            for chosen in ("", str(pool)):
                try:
                    told = subprocess.run(
                        [sys.executable, "-m", __spec__.name, "--one", str(rows), chosen],
                        capture_output=True,
                        text=True,
                        check=True,
                        timeout=_PATIENCE,
                    ).stdout.split()
                except subprocess.TimeoutExpired:
                    size = min(given.pool, count // 10) if chosen else 0
                    print(f"{count:10,}{count // 10:9,}{size:9,}   not done in {_PATIENCE} s: MISSED", flush=True)
                    wrong = True
                    continue
                n, m, wall, cpu, memory, gap, same = told
                print(
                    f"{int(n):10,}{int(n) // 10:9,}{int(m):9,}{cpu:>9}{wall:>9}{memory:>7}{gap:>10}  {same}", flush=True
                )
                wrong |= same == "NOT"
                if count == _TARGET and (float(wall) > _TARGET_SECONDS or float(memory) > _TARGET_MEGABYTES):
                    print(
                        f"{'':28}   MISSED: the target is {_TARGET_SECONDS} s and {_TARGET_MEGABYTES} MB",
                        flush=True,
                    )
                    wrong = True
                if chosen:
                    measured.append((int(n), float(cpu)))
    if len(measured) > 1:
        sizes, seconds = np.log(np.array(measured)).T
        print(
            f"CPU time with a pool grows with n to the power of {np.polyfit(sizes, seconds, 1)[0]:.2f} (brute force: 2)"
        )
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
