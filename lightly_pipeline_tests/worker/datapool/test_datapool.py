"""The datapool in a folder and in S3: what parallel and repeated runs may rely on."""

import io
import json
import threading
from dataclasses import dataclass

import boto3
import numpy as np
import pytest
from botocore.response import StreamingBody
from moto.server import ThreadedMotoServer

from lightly_pipeline.worker.datapool import Datapool, DatapoolError, lightly_csv
from lightly_pipeline.worker.datapool.cli import main
from lightly_pipeline.worker.datapool.lightly_csv import export_csv, import_csv
from lightly_pipeline.worker.datapool.part import archive
from lightly_pipeline.worker.datapool.store import open_store
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
        with pytest.raises(DatapoolError, match="distances between them mean nothing"):
            pool.check(other)
        pool.check(other, without="pexels-1".__eq__)
    pool.check(Identity())
    fill(pool, "pexels-2", 3, identity=Identity(version="2"))
    with pytest.raises(DatapoolError, match="part 'pexels-2'"):
        pool.load(None, scratch=tmp_path)


def test_a_part_without_frames_fits_every_embedder(uri, tmp_path):
    pool = Datapool(uri)
    fill(pool, "empty", 0, identity=Identity("older", dimensions=2))
    pool.check(Identity())
    fill(pool, "pexels-1", 3)
    for embedder in (Identity(), None):
        assert len(pool.load(embedder, scratch=tmp_path)) == 3


@pytest.mark.parametrize("names", [[""], ["a.png", ""], ["a\n.png", "b.png"]])
def test_names_that_cannot_be_stored_are_refused(tmp_path, names):
    """One empty name is no name at all when it is read again."""
    with pytest.raises(DatapoolError, match=r"no name|line break"):
        Datapool(str(tmp_path)).replace("a", names, np.ones((len(names), 8)), Identity(), "sha")


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


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("no folder")
    pool = Datapool(str(tmp_path / "file"))
    for use in (lambda: fill(pool, "a", 1), lambda: pool.load(None, scratch=tmp_path), lambda: pool.read("a")):
        with pytest.raises(DatapoolError, match="cannot be used: Not a directory"):
            use()


def test_a_server_that_does_not_answer_is_a_sentence(monkeypatch):
    """Reading an object let boto3's own error through, listing did not."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with pytest.raises(DatapoolError, match=r"127\.0\.0\.1:9"):
        Datapool("s3://bucket/pool").read("a")


def test_compaction_changes_how_a_pool_is_read_and_not_what_it_holds(uri, tmp_path):
    pool = Datapool(uri)
    for i in range(7):
        fill(pool, f"video-{i}", 3, seed=i)
    before = sorted(map(bytes, pool.load(Identity(), scratch=tmp_path).embeddings))
    done = pool.compact(rows=9)
    assert (done.parts, done.segments) == (7, 3)
    reads = []
    original = pool.store.open
    pool.store.open = lambda name: reads.append(name) or original(name)
    loaded = pool.load(Identity(), scratch=tmp_path)
    assert sorted(map(bytes, loaded.embeddings)) == before
    assert len(reads) == 3
    part, name = loaded.describe(4)
    assert name in pool.read(part).filenames
    # one video runs again, one is forgotten, one is new: the segments are out of date and nobody is misled
    fill(pool, "video-2", 2, seed=99)
    pool.remove("video-4")
    fill(pool, "video-9", 1, seed=100)
    expected = sorted(map(bytes, np.concatenate([pool.read(n).embeddings for n, _ in pool.parts()])))
    assert sorted(map(bytes, pool.load(Identity(), scratch=tmp_path).embeddings)) == expected
    assert len(pool.load(Identity(), without="video-0", scratch=tmp_path)) == len(expected) - 3
    again = pool.compact(rows=9)
    assert again.removed >= 1
    assert sorted(map(bytes, pool.load(Identity(), scratch=tmp_path).embeddings)) == expected


def test_compaction_beside_writers_and_other_compactions_loses_nothing(uri, tmp_path):
    pool = Datapool(uri)
    for i in range(6):
        fill(pool, f"video-{i}", 2, seed=i)
    failures = []

    def run(work):
        try:
            work()
        except BaseException as error:
            failures.append(error)

    def load():
        folder = tmp_path / threading.current_thread().name
        folder.mkdir()
        for _ in range(4):
            assert len(Datapool(uri).load(Identity(), scratch=folder)) >= 12

    tasks = [lambda: [Datapool(uri).compact(rows=4) for _ in range(4)]] * 2 + [load] * 2
    tasks += [lambda i=i: fill(Datapool(uri), f"late-{i}", 2, seed=50 + i) for i in range(4)]
    threads = [threading.Thread(target=run, args=(task,), name=f"t{n}") for n, task in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(pool.load(Identity(), scratch=tmp_path)) == 20
    assert sum(len(pool.read(name).filenames) for name, _ in pool.parts()) == 20


def before_opening(pool, act):
    """Call `act(name)` whenever an object of the pool is about to be read; returns the names so far."""
    opened, original = [], pool.store.open

    def acting(name):
        opened.append(name)
        act(name)
        return original(name)

    pool.store.open = acting
    return opened


def test_a_compaction_under_a_reader_costs_it_nothing(uri, tmp_path):
    """The segments that it had listed were gone, and in a folder the run ended with a traceback."""
    pool = Datapool(uri)
    for i in range(6):
        fill(pool, f"video-{i}", 2, seed=i)
    expected = sorted(map(bytes, pool.load(Identity(), scratch=tmp_path).embeddings))
    pool.compact(rows=4)
    opened = before_opening(pool, lambda _name: Datapool(uri).compact(rows=100) if len(opened) == 2 else None)
    assert sorted(map(bytes, pool.load(Identity(), scratch=tmp_path).embeddings)) == expected
    assert all(".segments/" in name for name in opened)


def test_a_compaction_knows_a_part_by_what_it_read_and_not_by_what_was_listed(uri, tmp_path):
    """A part was replaced between the two and returned later: the pool held the vectors in between for good."""
    pool = Datapool(uri)
    names, vectors = fill(pool, "video-0", 2, seed=1)
    before_opening(pool, lambda _name: fill(Datapool(uri), "video-0", 2, seed=2))
    pool.compact()
    pool = Datapool(uri)
    pool.replace("video-0", names, vectors, Identity(), "sha")
    assert (pool.load(Identity(), scratch=tmp_path).embeddings == vectors).all()


def test_an_object_whose_transfer_breaks_off_is_asked_for_again(s3_endpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    boto3.client("s3").create_bucket(Bucket="breaking")
    pool = Datapool("s3://breaking/pool")
    _, vectors = fill(pool, "video-0", 3, seed=1)
    get, left = pool.store.client.get_object, [1, 1]

    def broken(**request):
        answer = get(**request)
        if left:
            left.pop()
            answer["Body"] = StreamingBody(io.BytesIO(answer["Body"].read()[:100]), answer["ContentLength"])
        return answer

    monkeypatch.setattr(pool.store.client, "get_object", broken)
    assert (pool.load(Identity(), scratch=tmp_path).embeddings == vectors).all()


def _archive(**arrays):
    return archive({name: np.asarray(array) for name, array in arrays.items()})


def _about(**about):
    whole = {"name": "frames", "version": "1", "dimensions": 8, "parts": []}
    return np.frombuffer(json.dumps({**whole, **about}).encode(), dtype=np.uint8)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"not an archive",
        _archive(embeddings=np.zeros((1, 8), np.float32)),
        _archive(about=_about(parts=None), embeddings=np.zeros((0, 8), np.float32)),
        _archive(about=_about(parts=[["video-0", "tag", "2"]]), embeddings=np.zeros((2, 8), np.float32)),
        _archive(about=_about(parts=[["video-0", "tag", 2]]), embeddings=np.zeros((1, 8), np.float32)),
        _archive(about=_about(), embeddings=np.zeros((0, 8))),
    ],
)
def test_a_damaged_segment_is_not_used_and_goes_with_the_next_compaction(tmp_path, caplog, damaged):
    """It ended every run, and the compaction that was to mend it."""
    pool = Datapool(str(tmp_path))
    for i in range(3):
        fill(pool, f"video-{i}", 2, seed=i)
    pool.compact(rows=2)
    [first, *others] = (tmp_path / "lightly-datapool/.segments").iterdir()
    first.write_bytes(damaged)
    assert len(pool.load(Identity(), scratch=tmp_path)) == 6
    assert first.name in caplog.text
    pool.compact(rows=2)
    assert not first.exists() or first.read_bytes() != damaged
    assert len(list(first.parent.iterdir())) == len(others) + 1
    caplog.clear()
    assert len(pool.load(Identity(), scratch=tmp_path)) == 6
    assert caplog.text == ""


def test_lightlys_file_goes_out_and_comes_back_exactly(tmp_path):
    pool = Datapool(str(tmp_path / "a"))
    _, vectors = fill(pool, "pexels-1", 3, seed=1)
    fill(pool, "pexels-2", 2, seed=2)
    out = tmp_path / "datapool_latest.csv"
    assert export_csv(pool, out) == 5
    lines = out.read_text().splitlines()
    assert lines[0] == "filenames," + ",".join(f"embedding_{i}" for i in range(8)) + ",labels"
    assert lines[1].startswith("pexels-1-000-mp4.png,")
    other = Datapool(str(tmp_path / "b"))
    for _ in range(2):  # the second time replaces the first
        assert import_csv(other, out, name="frames", version="1") == 5
    loaded = other.load(Identity(), scratch=tmp_path)
    assert len(loaded) == 5
    assert np.allclose(loaded.embeddings[:3], vectors, atol=1e-7)
    with pytest.raises(DatapoolError, match="is empty"):
        export_csv(Datapool(str(tmp_path / "c")), tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


def test_a_vector_that_went_out_and_came_back_is_the_same_to_the_bit(tmp_path):
    """Else nothing of an imported pool would be known: every frame was a rounding away from itself."""
    pool, other = Datapool(str(tmp_path / "a")), Datapool(str(tmp_path / "b"))
    vectors = unit_vectors(200, 8, seed=5)
    pool.replace("a", [f"a-{i:03}.png" for i in range(200)], vectors, Identity(), "content")
    export_csv(pool, tmp_path / "out.csv")
    assert import_csv(other, tmp_path / "out.csv", name="frames", version="1") == 200
    assert np.array_equal(other.load(Identity(), scratch=tmp_path).embeddings, vectors)


def test_columns_are_known_by_their_numbers(tmp_path):
    (tmp_path / "back.csv").write_text("labels,embedding_1,filenames,embedding_0\n0,0.8,a.png,0.6\n")
    pool = Datapool(str(tmp_path / "pool"))
    import_csv(pool, tmp_path / "back.csv", name="frames", version="1")
    loaded = pool.load(Identity(dimensions=2), scratch=tmp_path)
    assert np.array_equal(loaded.embeddings, np.array([[0.6, 0.8]], np.float32))
    (tmp_path / "gap.csv").write_text("filenames,embedding_0,embedding_2,labels\na.png,0.6,0.8,0\n")
    with pytest.raises(DatapoolError, match="not an embeddings file of Lightly"):
        import_csv(pool, tmp_path / "gap.csv", name="frames", version="1")


def test_a_broken_line_of_lightlys_file_is_named(tmp_path):
    broken = tmp_path / "pool.csv"
    broken.write_text("filenames,embedding_0,embedding_1,labels\na.png,1,0,0\nb.png,x,0,0\n")
    with pytest.raises(DatapoolError, match="line 3"):
        import_csv(Datapool(str(tmp_path / "p")), broken, name="m", version="1")
    broken.write_text("a,b\n1,2\n")
    with pytest.raises(DatapoolError, match="is not an embeddings file of Lightly"):
        import_csv(Datapool(str(tmp_path / "p")), broken, name="m", version="1")


HEADER = "filenames,embedding_0,embedding_1,labels\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEADER + "a.png,nan,1,0\n", "line 2: the embedding holds a value that is not a finite number"),
        (HEADER + "a.png,1e999,1,0\n", "line 2: the embedding holds a value that is not a finite number"),
        (HEADER + "a.png,0,0,0\n", "line 2: the embedding is zero"),
        (HEADER + "a.png,1,0,inf\n", "line 2: the label inf is not a whole number"),
        (HEADER + "a.png,1,0,3000000000\n", "line 2: the label 3000000000 is not a whole number"),
        (HEADER + "a.png,1,0,0\n\nb.png,1\n", "line 4: it has 2 columns and the first line 4"),
        (HEADER + ",1,0,0\n", "line 2: the name of the frame is empty"),
        (HEADER, "holds no frame"),
        (HEADER.encode() + b"\xe9.png,1,0,0\n", "is not UTF-8 text"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "pool.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatapoolError, match=words):
        import_csv(Datapool(str(tmp_path / "p")), path, name="m", version="1")
    assert not (tmp_path / "p").exists()


def test_a_file_with_a_byte_order_mark_and_extreme_values_is_imported(tmp_path):
    path = tmp_path / "pool.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (HEADER + "a.png,3e200,4e200,1.0\nb.png,3e-200,4e-200,2\n").encode())
    pool = Datapool(str(tmp_path / "p"))
    assert import_csv(pool, path, name="m", version="1") == 2
    [(_, part)] = pool.contents()
    assert np.allclose(part.embeddings, [[0.6, 0.8]] * 2)
    assert part.labels.tolist() == [1, 2]


def test_nothing_is_imported_of_a_file_with_a_bad_line(tmp_path, monkeypatch):
    """The blocks before that line stayed, and the corrected file added their frames again."""
    monkeypatch.setattr(lightly_csv, "_ROWS", 2)
    path, pool = tmp_path / "pool.csv", Datapool(str(tmp_path / "p"))
    rows = [f"{i}.png,1,{i},0\n" for i in range(5)]
    path.write_text(HEADER + "".join(rows) + "x\n")
    with pytest.raises(DatapoolError, match="line 7"):
        import_csv(pool, path, name="m", version="1")
    assert list(pool.parts()) == []
    path.write_text(HEADER + "".join(rows))
    assert import_csv(pool, path, name="m", version="1") == 5
    assert len(pool.load(None, scratch=tmp_path)) == 5


def test_a_pool_takes_in_no_file_of_another_model(tmp_path):
    """It did, and from then on every run failed."""
    path, pool = tmp_path / "pool.csv", Datapool(str(tmp_path / "p"))
    path.write_text(HEADER + "a.png,1,0,0\n")
    assert import_csv(pool, path, name="wrong", version="1") == 1
    assert import_csv(pool, path, name="m", version="1") == 1, "its own parts it replaces"
    fill(pool, "empty", 0, identity=Identity("other", dimensions=2))
    path.write_text(HEADER + "b.png,1,0,0\n")
    for name, version in (("n", "1"), ("m", "2")):
        with pytest.raises(DatapoolError, match=r"holds embeddings of m 1 .* is given as those of"):
            import_csv(pool, path, name=name, version=version)
    assert import_csv(pool, path, name="m", version="1") == 1
    assert len(pool.load(None, scratch=tmp_path)) == 2


def test_an_export_mixes_no_models_and_names_the_place_that_cannot_be_written(tmp_path):
    pool = Datapool(str(tmp_path / "p"))
    fill(pool, "a", 1)
    with pytest.raises(DatapoolError, match=r"nowhere/out\.csv cannot be written: No such file or directory\.$"):
        export_csv(pool, tmp_path / "nowhere/out.csv")
    fill(pool, "b", 1, identity=Identity("other"))
    with pytest.raises(DatapoolError, match=r"of frames 1 .* and of other 1"):
        export_csv(pool, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"embeddings": np.zeros((2, 8))},
        {"embeddings": np.zeros((1, 8), np.float32)},
        {"embeddings": np.full((2, 8), np.nan, np.float32)},
        {"labels": np.zeros(1, np.int32)},
        {"labels": np.zeros(2)},
        {"about": np.frombuffer(b"[]", np.uint8)},
        {
            "about": np.frombuffer(b'{"name": "m", "version": "1", "dimensions": 0, "content": ""}', np.uint8),
            "embeddings": np.zeros((2, 0), np.float32),
        },
    ],
)
def test_a_part_whose_arrays_do_not_fit_is_named_in_the_error(tmp_path, changed):
    pool = Datapool(str(tmp_path))
    fill(pool, "torn", 2)
    path = tmp_path / "lightly-datapool/torn.npz"
    with np.load(path) as arrays:
        path.write_bytes(archive({**arrays, **changed}))
    with pytest.raises(DatapoolError, match=r"torn\.npz is not a readable part"):
        pool.load(Identity(), scratch=tmp_path)


def test_vectors_without_dimensions_are_refused(tmp_path):
    with pytest.raises(DatapoolError, match="tell no frames apart"):
        Datapool(str(tmp_path)).replace("a", ["a.png"], np.empty((1, 0)), Identity(dimensions=0), "sha")


def test_a_uri_is_taken_as_it_is_meant(tmp_path):
    assert open_store(f"file://{tmp_path}/a%20b").locate("x") == f"{tmp_path}/a b/x"
    assert open_store(f"file://localhost{tmp_path}/a").locate("x") == f"{tmp_path}/a/x"
    assert open_store("s3://bucket/pre#fix/x?y%20z/", client=object()).locate("n") == "s3://bucket/pre#fix/x?y%20z/n"
    for wrong in ("file://tmp/a", "s3://", "http://x/y"):
        with pytest.raises(DatapoolError):
            open_store(wrong)


@pytest.mark.parametrize("command", ["show", "nearest", "export", "compact", "remove"])
@pytest.mark.parametrize("where", ["nowhere", "misspelt", "file"])
def test_a_pool_that_is_not_there_is_told(tmp_path, capsys, command, where):
    """It was shown as a pool of no frames."""
    fill(Datapool(str(tmp_path / "pool")), "a", 1)
    (tmp_path / "file").touch()
    place = {"nowhere": ["nowhere"], "misspelt": ["pool", "--name", "lihgtly"], "file": ["file"]}[where]
    more = {"nearest": ["a.png"], "export": [str(tmp_path / "x.csv")], "remove": ["a"]}.get(command, [])
    assert main([command, str(tmp_path / place[0]), *place[1:], *more]) == 5
    told = capsys.readouterr()
    assert told.out == ""
    expected = "has no part" if command == "remove" else "There is no datapool"
    assert (expected if where != "file" else "Not a directory") in told.err


@pytest.mark.parametrize("count", ["0", "-1", "x"])
def test_fewer_than_one_nearest_frame_is_a_wrong_command_line(tmp_path, capsys, count):
    with pytest.raises(SystemExit) as ended:
        main(["nearest", str(tmp_path), "a.png", f"-k={count}"])
    assert ended.value.code == 2
    assert "give 1 or more" in capsys.readouterr().err


def test_the_subcommand_shows_asks_imports_exports_and_compacts(tmp_path, capsys):
    uri = str(tmp_path / "pool")
    pool = Datapool(uri)
    fill(pool, "pexels-1", 3, seed=1)
    fill(pool, "pexels-2", 2, seed=2)

    def run(*arguments):
        code = main(list(arguments))
        told = capsys.readouterr()
        return code, told.out, told.err

    code, out, _ = run("show", uri, "--parts")
    assert code == 0
    assert "5 frames in 2 parts" in out
    assert "model frames 1 (8 dimensions): 5 frames" in out
    assert "pexels-2: 2 frames" in out
    code, out, _ = run("nearest", uri, "pexels-1-001-mp4.png", "-k", "2")
    assert out.splitlines()[0].startswith("0.0000  pexels-1-001-mp4.png")
    assert len(out.splitlines()) == 2
    assert run("compact", uri)[0] == 0
    assert run("export", uri, str(tmp_path / "out.csv"))[0] == 0
    assert run("import", uri, str(tmp_path / "out.csv"), "--embedder", "frames")[0] == 0
    assert run("remove", uri, "pexels-2")[0] == 0
    code, out, _ = run("show", uri)
    assert "8 frames in 2 parts" in out
    code, _, err = run("nearest", uri, str(tmp_path / "nothing.png"))
    assert code == 5
    assert "neither a picture file nor the name" in err


def test_a_part_that_cannot_be_read_can_be_removed(tmp_path, capsys):
    pool = Datapool(str(tmp_path))
    pool.store.write("lightly-datapool/broken.npz", b"not an archive")
    assert main(["remove", str(tmp_path), "broken"]) == 0
    assert len(pool.load(None, scratch=tmp_path)) == 0
    assert main(["remove", str(tmp_path), "broken"]) == 5
    assert "has no part 'broken'" in capsys.readouterr().err


def test_a_part_without_frames_is_shown_as_no_other_model(tmp_path, capsys):
    """Who saw it was told to remove parts before the next run, which no run needs."""
    pool = Datapool(str(tmp_path))
    fill(pool, "pexels-0", 0, identity=Identity("old"))
    fill(pool, "pexels-1", 2)
    assert main(["show", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "2 frames in 2 parts" in said
    assert "model old" not in said
    assert "More than one model" not in said
