"""The nearest selected frame: the same on every machine, and the right one."""

import csv

import pyarrow.parquet as parquet
import pytest

from lightly_pipeline.worker import select_frames
from lightly_pipeline.worker.manifest import Manifest
from lightly_pipeline_tests.worker.spine.conftest import run_worker


def test_a_result_is_the_same_whatever_the_processor(clips, tmp_path):
    """The kernels of BLAS differ in the last bits: equal results had different hashes."""
    hashes = set()
    for kernel in ("Haswell", "Nehalem"):
        out = tmp_path / kernel
        ended = run_worker(clips, out, "stopping_condition.n_samples=20", OPENBLAS_CORETYPE=kernel)
        assert ended.returncode == 0, ended.stderr
        hashes.add(Manifest.from_json((out / "manifest.json").read_bytes()).content_hash)
    assert len(hashes) == 1


def test_small_distances_between_long_vectors_are_exact(clips, tmp_path):
    """Squared norms minus products cancelled: vectors of length 2400 had neighbours at distance 0."""
    names = [f"a-{i:02}-mp4.png" for i in range(24)]
    with (tmp_path / "given.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["filenames", "embedding_0", "embedding_1", "labels"])
        writer.writerows([name, 2400, number * number / 64, 0] for number, name in enumerate(names))
    options = {"embeddings": str(tmp_path / "given.csv"), "normalize_embeddings": False}
    select_frames(clips, tmp_path / "out", {**options, "stopping_condition.n_samples": 6})
    rows = parquet.read_table(tmp_path / "out/data/frames.parquet").to_pylist()[:24]
    places = {row["filename"]: number * number / 64 for number, row in enumerate(rows)}
    chosen = {row["filename"] for row in rows if row["status"] == "selected"}
    for row in rows:
        gaps = [abs(places[row["filename"]] - places[name]) for name in chosen - {row["filename"]}]
        assert row["nearest_distance"] == pytest.approx(min(gaps), rel=1e-6)
