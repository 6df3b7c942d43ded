"""Small real clips, an S3 server, and a scratch folder of the test's own."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from lightly_pipeline.worker.progress import Listener
from lightly_pipeline.worker.s3 import s3_client


def write_clip(
    path: Path, *, frames: int = 24, seed: int = 0, repeat: int = 1, codec: str = "mpeg4", pan: bool = False
) -> Path:
    """A playable clip of moving blocks; each picture is shown `repeat` times in a row.

    pan: of a camera that turns faster and slower instead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    ground = generator.integers(0, 255, (6, 8, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(frames):
            picture = np.kron(ground, np.ones((16, 16, 1))).astype(np.uint8)
            step = number // repeat
            top, left = (step * 5 + seed * 11) % 60, (step * 9) % 90
            picture[top : top + 36, left : left + 36] = (step * 37 % 255, 255 - step * 7 % 255, seed * 40 % 255)
            if pan:
                turned = round(60 + 50 * np.sin(step / 15))
                picture = np.roll(np.kron(ground, np.ones((16, 16, 1))).astype(np.uint8), turned, axis=1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4 (24 frames), sub/a.mp4 (20 others), sub/deeper/b.avi (12); do not change."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.mp4", seed=1)
    write_clip(folder / "sub" / "a.mp4", frames=20, seed=2)
    write_clip(folder / "sub" / "deeper" / "b.avi", frames=12, seed=3)
    return folder


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in progress stays in the test's folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an empty bucket that boto3 finds by its environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    s3_client.cache_clear()
    client = s3_client()
    client.create_bucket(Bucket="frames")
    yield "frames"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="frames"):
        for entry in page.get("Contents", []):
            client.delete_object(Bucket="frames", Key=entry["Key"])
    client.delete_bucket(Bucket="frames")
    s3_client.cache_clear()


def run_worker(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """lightly-worker as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "lightly_pipeline.worker", *map(str, arguments)],
        text=True,
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


def tree_of(folder: Path) -> set[str]:
    """Every file below the folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def sampled(out):
    """The names of the selected frames."""
    return (out / "filenames/sampled_filenames.txt").read_text().splitlines()


class At(Listener):
    """Does something when a stage begins."""

    def __init__(self, stage, action):
        self._stage, self._action = stage, action

    def begin(self, stage, total, unit):
        if stage == self._stage:
            self._action()

    def advance(self, done, total, seconds):
        pass

    def end(self, done, seconds):
        pass


def vectors_in(path):
    """float32 [n, d] in one of Lightly's CSV files of embeddings."""
    rows = list(csv.reader(path.open()))[1:]
    return np.array([row[1:-1] for row in rows], dtype=np.float32)


def write_given(folder, names, **columns):
    """An embeddings file in which frame i lies at the angle i."""
    path = folder / "given.csv"
    with path.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["filenames", "embedding_0", "embedding_1", *columns, "labels"])
        for number, name in enumerate(names):
            angle = number / len(names)
            extra = [values[number] for values in columns.values()]
            writer.writerow([name, 5 * np.cos(angle), 5 * np.sin(angle), *extra, 0])
    return path
