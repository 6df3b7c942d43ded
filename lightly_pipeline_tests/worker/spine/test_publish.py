"""Publishing: whole or not at all, also from another file system, and beside other runs."""

import errno
import json
import threading
from pathlib import Path

import pytest

from lightly_pipeline.worker.errors import Interrupted, StorageError
from lightly_pipeline.worker.output.targets import FolderTarget, open_target
from lightly_pipeline.worker.s3 import s3_client
from lightly_pipeline_tests.worker.spine.conftest import tree_of


@pytest.fixture
def on_another_file_system(monkeypatch):
    """Folders cannot be renamed, as when scratch lies on another disk than OUTPUT."""

    def elsewhere(path, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", elsewhere)


def make_tree(folder, names, content):
    for name in (*names, "manifest.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "manifest.json").write_text(json.dumps({"files": [{"path": name} for name in names], "by": content}))
    return folder


def publish(target, tree, on_file=lambda done: None):
    FolderTarget(target).publish(tree, lambda: None, on_file)


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
    for turn in range(20):
        trees = [
            make_tree(tmp_path / f"{turn}-{own}", [f"data/sampled/{own}-{n}.png" for n in range(5)] + ["log.txt"], own)
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
    client.put_object(Bucket=bucket, Key="out/manifest.json", Body=json.dumps({"files": []}).encode())
    target.prepare()
