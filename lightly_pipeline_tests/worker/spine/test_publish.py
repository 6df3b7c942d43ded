"""Publishing: whole or not at all, also from another file system, and beside other runs."""

import errno
import hashlib
import json
import logging
import threading
import time
from pathlib import Path

import pytest

from lightly_pipeline.worker import select_frames
from lightly_pipeline.worker.errors import Interrupted, StorageError
from lightly_pipeline.worker.output import turn
from lightly_pipeline.worker.output.targets import open_target
from lightly_pipeline.worker.progress import Lines, Progress
from lightly_pipeline.worker.s3 import s3_client
from lightly_pipeline_tests.worker.spine.conftest import tree_of


@pytest.fixture
def on_another_file_system(monkeypatch):
    """Folders cannot be renamed, as when scratch lies on another disk than OUTPUT."""

    def elsewhere(path, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", elsewhere)


EMPTY = {"worker": "test", "job": "", "files": []}


def make_tree(folder, names, content):
    for name in (*names, "manifest.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "manifest.json").write_text(
        json.dumps({"worker": "test", "job": "", "files": [{"path": name} for name in names], "by": content})
    )
    return folder


def publish(target, tree, on_file=lambda done: None):
    open_target(str(target), "").publish(tree, lambda: None, on_file)


def published(bucket):
    """The objects below out/ by their name."""
    client = s3_client()
    listed = client.list_objects_v2(Bucket=bucket, Prefix="out/").get("Contents", [])
    return {
        entry["Key"].removeprefix("out/"): client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read().decode()
        for entry in listed
    }


def test_an_interrupt_ends_a_copy_to_another_file_system(tmp_path, on_another_file_system):
    """The copy went on, the process ended without it, and half of the tree stayed in OUTPUT."""
    tree = make_tree(tmp_path / "tree", [f"data/sampled/{number}.png" for number in range(9)], "new")
    calls = []

    def interrupted(done):
        calls.append(done)
        if len(calls) == 5:
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        publish(tmp_path / "out" / "run", tree, interrupted)
    assert not (tmp_path / "out").exists()


def test_runs_into_one_folder_leave_the_tree_of_one_of_them(tmp_path, on_another_file_system):
    """They took each other's files away, and a manifest vouched for what was not there."""
    out = tmp_path / "out"
    for number in range(20):
        trees = [
            make_tree(
                tmp_path / f"{number}-{own}", [f"data/sampled/{own}-{n}.png" for n in range(5)] + ["log.txt"], own
            )
            for own in "abc"
        ]
        threads = [threading.Thread(target=publish, args=(out, tree)) for tree in trees]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        manifest = json.loads((out / "manifest.json").read_text())
        names = {entry["path"] for entry in manifest["files"]}
        assert tree_of(out) == names | {"manifest.json"}
        assert {(out / name).read_text() for name in names} == {manifest["by"]}


def test_a_prefix_with_somebody_elses_objects_is_refused(bucket):
    """A folder was, and of a prefix they were replaced."""
    client = s3_client()
    target = open_target(f"s3://{bucket}/out", "")
    client.put_object(Bucket=bucket, Key="out/log.txt.old", Body=b"no name of ours")
    client.put_object(Bucket=bucket, Key="out/notes/plots", Body=b"nor this")
    target.prepare()
    for key, name in (("out/log.txt", "log.txt"), ("out/plots/mine.png", "plots")):
        client.put_object(Bucket=bucket, Key=key, Body=b"precious")
        with pytest.raises(StorageError, match=f"already holds '{name}', which no run of this worker left"):
            target.prepare()
        client.delete_object(Bucket=bucket, Key=key)
    client.put_object(Bucket=bucket, Key="out/log.txt", Body=b"of an earlier run")
    client.put_object(Bucket=bucket, Key="out/manifest.json", Body=json.dumps(EMPTY).encode())
    target.prepare()


def test_runs_to_one_prefix_leave_the_tree_of_one_of_them(bucket, tmp_path, monkeypatch):
    """Each replaced objects of the other as they came, and both said that they were done."""
    monkeypatch.setattr(turn, "_LOOKS_EVERY", 0.01)
    for number in range(4):
        trees = [
            make_tree(
                tmp_path / f"{number}-{own}", [f"data/sampled/{own}-{n}.png" for n in range(5)] + ["log.txt"], own
            )
            for own in "abc"
        ]
        threads = [threading.Thread(target=publish, args=(f"s3://{bucket}/out", tree)) for tree in trees]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = published(bucket)
        manifest = json.loads(found.pop("manifest.json"))
        assert found == {entry["path"]: manifest["by"] for entry in manifest["files"]}


def test_the_turn_of_a_killed_run_is_taken_over(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(turn, "_LOOKS_EVERY", 0.05)
    monkeypatch.setattr(turn, "_LAPSES_AFTER", 1.5)
    client = s3_client()
    client.put_object(Bucket=bucket, Key="out/.publishing.json", Body=b"of a run that was killed")
    begin = time.monotonic()
    publish(f"s3://{bucket}/out", make_tree(tmp_path / "tree", ["log.txt"], "mine"))
    assert time.monotonic() - begin > 0.5, "it may still be alive"
    assert set(published(bucket)) == {"log.txt", "manifest.json"}


def test_a_run_that_is_heard_of_keeps_its_turn_for_as_long_as_it_takes(bucket, tmp_path, monkeypatch):
    for name, seconds in (("_LOOKS_EVERY", 0.05), ("_LAPSES_AFTER", 4.0), ("_RENEWED_EVERY", 0.2)):
        monkeypatch.setattr(turn, name, seconds)
    slow, order = make_tree(tmp_path / "slow", ["log.txt"], "slow"), []
    begun = threading.Event()

    def slowly(done):
        if done:
            begun.set()
            time.sleep(7)
            order.append("slow")

    first = threading.Thread(target=publish, args=(f"s3://{bucket}/out", slow, slowly))
    first.start()
    begun.wait(30)
    publish(
        f"s3://{bucket}/out", make_tree(tmp_path / "quick", ["log.txt"], "quick"), lambda done: order.append("quick")
    )
    first.join()
    assert "slow" not in order[order.index("slow") + 1 :]
    assert order[-1] == "quick"
    assert published(bucket)["log.txt"] == "quick"


def test_a_renewal_whose_answer_was_lost_loses_no_turn(bucket, tmp_path, monkeypatch):
    """It is sent again with an ETag that is the object's no longer, where each write has one of its own (KMS)."""
    monkeypatch.setattr(turn, "_RENEWED_EVERY", 0.1)
    client, at = s3_client(), {"Bucket": bucket, "Key": "out/.publishing.json"}

    def with_another_etag(done):
        if done == 1:
            there = client.get_object(**at)
            upload = {**at, "UploadId": client.create_multipart_upload(**at)["UploadId"]}
            part = client.upload_part(**upload, PartNumber=1, Body=there["Body"].read())["ETag"]
            client.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
            assert client.head_object(**at)["ETag"] != there["ETag"]
            time.sleep(1)
            assert client.head_object(**at)["ETag"] == there["ETag"], "it was renewed"

    publish(f"s3://{bucket}/out", make_tree(tmp_path / "tree", ["log.txt"], "mine"), with_another_etag)
    assert set(published(bucket)) == {"log.txt", "manifest.json"}


def test_a_run_that_stood_still_for_too_long_leaves_the_others_objects_alone(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(turn, "_RENEWED_EVERY", 0.1)
    client = s3_client()

    def overtaken(done):
        if done == 1:
            client.put_object(Bucket=bucket, Key="out/.publishing.json", Body=b"of another run")
            client.put_object(Bucket=bucket, Key="out/log.txt", Body=b"theirs")
            time.sleep(1)

    tree = make_tree(tmp_path / "tree", ["log.txt"], "mine")
    with pytest.raises(StorageError, match=r"Another run publishes to .*start it again"):
        publish(f"s3://{bucket}/out", tree, overtaken)
    found = published(bucket)
    assert found["log.txt"] == "theirs"
    assert found[".publishing.json"] == "of another run"
    assert "manifest.json" not in found


def test_the_log_is_as_the_manifest_says_whatever_is_told_while_it_is_published(clips, bucket, tmp_path):
    """Lines were added when its size and hash were written down already: the next run made the job again."""

    def tell(line):
        logging.getLogger("lightly_pipeline.worker").info("%s", line)

    for output in (str(tmp_path / "out"), f"s3://{bucket}/out"):
        result = select_frames(clips, output, progress=Progress(Lines(tell, every=0.0)))
        [entry] = [file for file in result.manifest.files if file.path == "log.txt"]
        log = open_target(output, "").read("log.txt")
        assert hashlib.sha256(log).hexdigest() == entry.sha256
        assert b"Writing report" in log
        assert select_frames(clips, output).already_done


def test_a_folder_that_looks_like_a_tree_on_its_way_is_not_taken_for_one(tmp_path):
    out = tmp_path / "out"
    (out / ".incoming").mkdir(parents=True)
    (out / ".incoming" / "mine.txt").write_text("precious")
    tree = make_tree(tmp_path / "tree", ["log.txt"], "new")
    for attempt in (lambda: open_target(str(out), "").prepare(), lambda: publish(out, tree)):
        with pytest.raises(StorageError, match=r"already holds '\.incoming', which no run of this worker left"):
            attempt()
    assert tree_of(out) == {".incoming/mine.txt"}
    (out / ".incoming" / "mine.txt").unlink()
    (out / ".incoming" / "data").mkdir()  # of a run that was killed
    publish(out, tree)
    assert tree_of(out) == {"log.txt", "manifest.json"}


def test_the_manifest_of_something_else_makes_nothing_ours(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps({"files": [], "name": "a web application"}))
    with pytest.raises(StorageError, match="already holds 'data'"):
        open_target(str(tmp_path), "").prepare()


def test_what_another_run_publishes_meanwhile_is_not_foreign(tmp_path):
    """Its manifest was looked for before it came, and its plan when that was gone."""
    trees = [make_tree(tmp_path / f"tree-{n}", ["data/a.png"], "new") for n in range(300)]
    target, ended = open_target(str(tmp_path / "out"), ""), threading.Event()

    def publish_all():
        for tree in trees:
            publish(tmp_path / "out", tree)
            time.sleep(0.002)
        ended.set()

    publish(tmp_path / "out", make_tree(tmp_path / "tree", ["data/a.png"], "new"))
    publisher = threading.Thread(target=publish_all)
    publisher.start()
    while not ended.is_set():
        target.prepare()
    publisher.join()


def test_an_output_that_is_a_link_to_nothing_is_told_before_the_work(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match="which does not exist: make that folder"):
        open_target(str(tmp_path / "out"), "").prepare()
