"""S3 in and out: the same result as between folders, and nothing half-visible whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lightly_pipeline.worker import select_frames
from lightly_pipeline.worker.datapool import DatapoolError
from lightly_pipeline.worker.datapool.store import S3Store
from lightly_pipeline.worker.errors import DatapoolUnusable, Interrupted, NothingToSelect, OptionError, StorageError
from lightly_pipeline.worker.progress import Progress
from lightly_pipeline.worker.s3 import s3_client
from lightly_pipeline_tests.worker.spine.conftest import run_worker

SELECT = {"stopping_condition.n_samples": 7, "dump_dataset": True}


@pytest.fixture
def uploaded(bucket, clips):
    """The clips below input_dir/key/."""
    for path in clips.rglob("*.*"):
        s3_client().upload_file(str(path), bucket, f"input_dir/key/{path.relative_to(clips).as_posix()}")
    return f"s3://{bucket}/input_dir/key/"


def keys(prefix=""):
    answer = s3_client().list_objects_v2(Bucket="frames", Prefix=prefix)
    return {entry["Key"].removeprefix(prefix) for entry in answer.get("Contents", [])}


@pytest.mark.parametrize("n_samples", [7, 0.125])
def test_s3_gives_what_folders_give(uploaded, clips, tmp_path, n_samples):
    options = {**SELECT, "stopping_condition.n_samples": n_samples}
    there = select_frames(uploaded, "s3://frames/output_dir/key", options).manifest
    here = select_frames(clips, tmp_path / "out", options).manifest
    assert there.content_hash == here.content_hash
    assert keys("output_dir/key/") == {file.path for file in there.files} | {"manifest.json"}
    body = s3_client().get_object(Bucket="frames", Key="output_dir/key/manifest.json")["Body"].read()
    assert json.loads(body)["counts"]["selected"] == 7


def test_only_changed_input_or_options_make_a_second_run_work(uploaded, scratch):
    first = select_frames(uploaded, "s3://frames/out", SELECT)
    assert not first.already_done
    assert select_frames(uploaded, "s3://frames/out/", SELECT).already_done
    less = select_frames(uploaded, "s3://frames/out", {**SELECT, "stopping_condition.n_samples": 2})
    assert keys("out/") == {file.path for file in less.manifest.files} | {"manifest.json"}
    assert [path for path in scratch.rglob("*") if path.is_file()] == []


def test_a_prefix_may_be_input_and_output(uploaded):
    """All of INPUT was left out as OUTPUT's; with OUTPUT below it the earlier run's pictures were taken for input."""
    for options in (SELECT, {**SELECT, "seed": 1}):
        assert select_frames(uploaded, uploaded, options).manifest.counts.videos == 3
    assert select_frames(uploaded, "s3://frames/", SELECT).manifest.counts.videos == 3
    assert select_frames("s3://frames/", "s3://frames/", {**SELECT, "run_directory": "x"}).manifest.counts.videos == 3


@pytest.mark.parametrize("lost", ["out/data/sampled/a-00-mp4.png", "pool/p/clips.npz"])
def test_a_result_in_a_bucket_that_is_no_longer_whole_is_made_again(uploaded, lost):
    pool = {"datapool.uri": "s3://frames/pool", "datapool.name": "p", "datapool.part": "clips"}
    options = {**pool, "dump_dataset": True}
    select_frames(uploaded, "s3://frames/out", options)
    s3_client().delete_object(Bucket="frames", Key=lost)
    assert not select_frames(uploaded, "s3://frames/out", options).already_done
    assert lost in keys()
    assert select_frames(uploaded, "s3://frames/out", options).already_done


def test_names_are_data_and_lead_nowhere(bucket, clips, tmp_path):
    video = (clips / "a.mp4").read_bytes()
    names = ["a b.mp4", "$(touch hacked).mp4", "it's;.mp4", "umlaut-ü.mp4", "../up.mp4", "a//b.mp4"]
    for name in names:
        s3_client().put_object(Bucket=bucket, Key=f"in/{name}", Body=video)
    s3_client().put_object(Bucket=bucket, Key="in/folder/", Body=b"")
    manifest = select_frames("s3://frames/in", tmp_path / "out", {"dump_dataset": True}).manifest
    assert manifest.counts.videos == 4
    problems = {entry.name: entry.problem for entry in manifest.input if entry.problem}
    assert set(problems) == {"../up.mp4", "a//b.mp4"}
    assert (tmp_path / "out/data/sampled/$(touch hacked)-00-mp4.png").exists()
    assert not (tmp_path / "up-00-mp4.png").exists()


@pytest.mark.parametrize(
    ("source", "target", "error", "words"),
    [
        ("s3://no-such-bucket/x", "s3://frames/out", StorageError, "bucket does not exist"),
        ("s3://frames/nothing", "s3://frames/out", NothingToSelect, "holds no video"),
        ("s3://frames/x", "s3://no-such-bucket/out", StorageError, "bucket does not exist"),
    ],
)
def test_a_place_that_is_not_there_is_one_sentence(bucket, source, target, error, words):
    with pytest.raises(error, match=words):
        select_frames(source, target, {})
    assert keys() == set()


def test_an_endpoint_that_does_not_answer_is_one_sentence():
    ended = run_worker("s3://frames/in", "s3://frames/out", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert ended.returncode == StorageError.exit_code
    assert "127.0.0.1:9" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("option", ["relevant_filenames_file", "embeddings"])
def test_a_list_that_is_not_in_the_bucket_is_a_wrong_option(uploaded, tmp_path, option):
    with pytest.raises(OptionError, match="input_dir/key/nope does not exist"):
        select_frames(uploaded, tmp_path / "out", {option: "nope"})


def test_the_manifest_is_uploaded_after_everything_else(uploaded, monkeypatch):
    order = []
    client = s3_client()
    put = client.put_object

    def noted(**request):
        order.append(request["Key"])
        return put(**request)

    monkeypatch.setattr(client, "put_object", noted)
    select_frames(uploaded, "s3://frames/out", {**SELECT, "datapool.name": "pool"})
    assert order[:2] == ["out/.publishing.json", "out/.incomplete.json"]
    assert order[-1] == "out/manifest.json"
    assert keys("datapool/pool/") == {key for key in keys("datapool/pool/") if key.endswith(".npz")} != set()


def test_an_upload_that_is_interrupted_leaves_nothing_and_the_next_run_completes_it(uploaded):
    class EndsWhileUploading:
        def begin(self, stage, total, unit):
            self.uploading = stage == "publish"

        def advance(self, done, total, seconds):
            if self.uploading and done == 3:
                progress.interrupt(signal.SIGTERM)

        def end(self, done, seconds):
            pass

    progress = Progress(EndsWhileUploading())
    with pytest.raises(Interrupted):
        select_frames(uploaded, "s3://frames/out", SELECT, progress=progress)
    assert keys("out/") <= {".incomplete.json"}
    manifest = select_frames(uploaded, "s3://frames/out", SELECT).manifest
    assert keys("out/") == {file.path for file in manifest.files} | {"manifest.json"}


def test_a_pool_that_fails_at_the_end_leaves_nothing(uploaded, monkeypatch):
    def refused(*_args):
        raise DatapoolError("S3 refused the datapool")

    monkeypatch.setattr(S3Store, "write", refused)
    with pytest.raises(DatapoolUnusable, match="S3 refused the datapool"):
        select_frames(uploaded, "s3://frames/out", {**SELECT, "datapool.name": "pool"})
    assert keys("out/") == set()


def test_what_a_killed_upload_left_is_cleared_by_the_next_run(uploaded):
    left = ["data/sampled/old-000-mp4.png", "report.html"]
    for name in left:
        s3_client().put_object(Bucket="frames", Key=f"out/{name}", Body=b"half")
    s3_client().put_object(Bucket="frames", Key="out/.incomplete.json", Body=json.dumps(left).encode())
    s3_client().put_object(Bucket="frames", Key="out/mine.txt", Body=b"mine")
    manifest = select_frames(uploaded, "s3://frames/out", SELECT).manifest
    assert keys("out/") == {file.path for file in manifest.files} | {"manifest.json", "mine.txt"}


def test_a_plan_cannot_make_the_worker_delete_what_is_not_its_own(uploaded):
    s3_client().put_object(Bucket="frames", Key="precious.txt", Body=b"mine")
    s3_client().put_object(Bucket="frames", Key="out/secret.txt", Body=b"mine")
    plan = json.dumps(["../precious.txt", "data/../../precious.txt", "secret.txt", ""]).encode()
    s3_client().put_object(Bucket="frames", Key="out/.incomplete.json", Body=plan)
    select_frames(uploaded, "s3://frames/out", SELECT)
    assert {"precious.txt", "out/secret.txt"} <= keys()


def test_no_more_of_the_input_is_on_disk_than_two_batches(bucket, clips, scratch, monkeypatch):
    from lightly_pipeline.worker import scanning

    monkeypatch.setattr(scanning, "_BATCH_FILES", 2)
    for number in range(9):
        s3_client().upload_file(str(clips / "a.mp4"), bucket, f"in/{number}.mp4")
    most = 0
    keep = scanning.ScanStore.keep

    def counted(*arguments):
        nonlocal most
        most = max(most, len(list(scratch.rglob("inputs/*/*.mp4"))))
        return keep(*arguments)

    monkeypatch.setattr(scanning.ScanStore, "keep", counted)
    manifest = select_frames("s3://frames/in", "s3://frames/out", SELECT).manifest
    assert manifest.counts.videos == 9
    assert 0 < most <= 4


def test_a_signal_while_uploading_ends_the_command(uploaded):
    number = signal.SIGTERM
    command = [sys.executable, "-m", "lightly_pipeline.worker", uploaded, "s3://frames/out", "dump_dataset=True"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    deadline = time.monotonic() + 60
    while not any(key.startswith("data/") for key in keys("out/")) and process.poll() is None:
        assert time.monotonic() < deadline
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    if process.returncode == 0:
        assert "manifest.json" in keys("out/")
    else:
        assert process.returncode == 128 + number
        assert "nothing was completed" in said
        assert "manifest.json" not in keys("out/")
