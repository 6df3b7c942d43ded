"""The datapool in a folder and in S3: what parallel and repeated runs may rely on."""

import threading
from dataclasses import dataclass

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from lightly_pipeline.worker.datapool import Datapool, DatapoolError
from lightly_pipeline_tests.worker.select.vectors import unit_vectors


@dataclass(frozen=True)
class Identity:
    name: str = "frames"
    version: str = "1"
    dimensions: int = 8


@pytest.fixture(scope="module")
def s3_endpoint():
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def uri(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return str(tmp_path / "shared dir")
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_endpoint"))
    bucket = f"pool-{abs(hash(request.node.nodeid))}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/datapool"


def fill(pool, part, count, *, seed=0, identity=None, content="sha"):
    identity = identity or Identity()
    names = [f"{part}-{i:03}-mp4.png" for i in range(count)]
    vectors = unit_vectors(count, identity.dimensions, seed=seed) if count else np.empty((0, identity.dimensions))
    pool.replace(part, names, vectors, identity, content)
    return names, vectors


def test_a_pool_that_nobody_wrote_is_empty(uri, tmp_path):
    loaded = Datapool(uri).load(Identity(), scratch=tmp_path)
    assert len(loaded) == 0
    assert loaded.embeddings.shape == (0, 8)


def test_what_was_stored_is_loaded_with_its_names(uri, tmp_path):
    pool = Datapool(uri)
    names, vectors = fill(pool, "pexels-1", 3, seed=1)
    fill(pool, "pexels-2", 0)
    other_names, other = fill(pool, "pexels-3", 2, seed=2)
    loaded = Datapool(uri).load(Identity(), scratch=tmp_path)
    assert (loaded.embeddings == np.concatenate([vectors, other])).all()
    assert [loaded.describe(row) for row in range(5)] == [("pexels-1", n) for n in names] + [
        ("pexels-3", n) for n in other_names
    ]
    assert not list(tmp_path.glob("datapool-*"))
    assert pool.read("pexels-1").content == "sha"


def test_a_repeated_run_replaces_its_own_part_and_does_not_see_it(uri, tmp_path):
    """Lightly's own datapool added the same frames again when a video was run again."""
    pool = Datapool(uri)
    fill(pool, "pexels-1", 3, seed=1)
    fill(pool, "pexels-2", 4, seed=2)
    assert len(pool.load(Identity(), without="pexels-1", scratch=tmp_path)) == 4
    before = pool.read("pexels-1").to_bytes()
    fill(pool, "pexels-1", 3, seed=1)
    assert pool.read("pexels-1").to_bytes() == before
    assert len(pool.load(Identity(), scratch=tmp_path)) == 7


def test_vectors_of_different_embedders_never_mix(uri, tmp_path):
    pool = Datapool(uri)
    fill(pool, "pexels-1", 3)
    for other in (Identity("resnet"), Identity(version="2"), Identity(dimensions=16)):
        with pytest.raises(DatapoolError, match="distances between them mean nothing"):
            pool.load(other, scratch=tmp_path)
    fill(pool, "pexels-2", 3, identity=Identity(version="2"))
    with pytest.raises(DatapoolError, match="part 'pexels-2'"):
        pool.load(None, scratch=tmp_path)


def test_parallel_writers_never_lose_each_others_parts(uri, tmp_path):
    pool = Datapool(uri)
    threads = [threading.Thread(target=fill, args=(pool, f"video-{i}", 2), kwargs={"seed": i}) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pool.load(Identity(), scratch=tmp_path)) == 24


def test_an_object_that_is_no_part_is_named_in_the_error(uri, tmp_path):
    pool = Datapool(uri)
    pool.store.write("lightly-datapool/broken.npz", b"not an archive")
    with pytest.raises(DatapoolError, match=r"broken\.npz is not a readable part"):
        pool.load(Identity(), scratch=tmp_path)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 129])
def test_names_that_could_leave_the_pool_are_refused(name, tmp_path):
    with pytest.raises(DatapoolError, match="cannot name"):
        Datapool(str(tmp_path), name)
    with pytest.raises(DatapoolError, match="cannot name"):
        Datapool(str(tmp_path)).read(name)


def test_a_bucket_that_is_not_there_is_a_sentence(s3_endpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    with pytest.raises(DatapoolError, match="Check that the bucket exists"):
        Datapool("s3://nobody-made-this/pool").load(Identity(), scratch=tmp_path)
