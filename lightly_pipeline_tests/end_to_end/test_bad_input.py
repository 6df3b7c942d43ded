"""What goes wrong in real life: each ends in one sentence that names the thing and the remedy.

Nothing that was stored before is lost, and no instance keeps running.
"""

import json

import dagster as dg
import pytest
import requests

from lightly_pipeline.definitions import build_defs
from lightly_pipeline.sandbox.pexels import Fault
from lightly_pipeline.videos import register_videos


@pytest.fixture
def failed(world, monkeypatch):
    """Runs some assets for a video, which must fail with a `dg.Failure`: the sentence that it failed with."""

    def run(key, *assets, config=None, **environment):
        for name, value in {**world.environment, **environment}.items():
            monkeypatch.setenv(name, value)
        with world.instance() as instance:
            register_videos(instance, [key])
            job = build_defs().resolve_job_def("lightly_pipeline")
            result = job.execute_in_process(
                partition_key=key,
                instance=instance,
                asset_selection=[dg.AssetKey(asset) for asset in assets],
                run_config={"ops": config} if config else None,
                raise_on_error=False,
            )
            failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
        assert not result.success
        assert set(world.settled_states().values()) == {"stopped"}
        assert failures[0].user_failure_data is not None, failures[0].error.to_string()
        assert failures[0].user_failure_data.metadata
        return failures[0].user_failure_data.description

    return run


def put(world, key, body=b"not a video"):
    world.bucket.client.put_object(Bucket=world.sandbox.bucket, Key=key, Body=body)


def test_no_key_and_no_sandbox(world):
    done = world.run("lightly-pipeline", "collect", without=("PEXELS_API_KEY",))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: PEXELS_API_KEY is not set")
    assert "Traceback" not in done.stderr


def test_a_wrong_key(world):
    done = world.run("lightly-pipeline", "collect", PEXELS_API_KEY="wrong-key-123")
    assert done.returncode == 1
    assert "PEXELS_API_KEY" in done.stderr
    assert "wrong-key-123" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("../../etc/passwd", "is not a video key: use pexels-<id>"),
        ("$(reboot)", "is not a video key: use pexels-<id>"),
        ("holiday", "upload the file to input_dir/holiday/<file>"),
    ],
)
def test_a_partition_key_that_names_no_video(world, key, sentence):
    done = world.run(
        *("dagster", "asset", "materialize", "-m", "lightly_pipeline", "--select", "lightly_frames"),
        *("--partition", key),
    )
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_video(failed):
    assert "knows no video 999999999999" in failed("pexels-999999999999", "pexels_video")


def test_a_video_that_is_not_from_pexels(failed):
    assert "run the job select_frames" in failed("holiday", "pexels_video")


def test_a_video_without_an_mp4_file(failed, world, keys):
    video_id = keys[0].partition("-")[2]
    answer = requests.get(
        f"{world.sandbox.pexels_root}/v1/videos/videos/{video_id}",
        headers={"Authorization": world.environment["PEXELS_API_KEY"], "User-Agent": "test"},
        timeout=10,
    ).json()
    answer["video_files"] = [file for file in answer["video_files"] if file["quality"] == "hls"]
    body, headers = json.dumps(answer).encode(), {"Content-Type": "application/json"}
    world.sandbox.pexels.faults.add("api", Fault(status=200, headers=headers, body=body))
    assert "mp4" in failed(keys[0], "pexels_video")


def test_a_download_that_breaks_off_again_and_again(failed, world, keys):
    world.sandbox.pexels.faults.add("files", Fault(break_off_after=1000, no_range=True), times=50)
    said = failed(keys[0], "pexels_video")
    world.sandbox.pexels.faults.clear()
    assert "try again" in said
    assert not list((world.home.parent / "videos").rglob("*.mp4"))


def test_a_video_that_is_too_large(failed, keys):
    assert "PEXELS_MAX_BYTES" in failed(keys[0], "pexels_video", PEXELS_MAX_BYTES="1000")


def test_a_video_that_is_not_in_the_bucket_yet(failed):
    assert "holds no video" in failed("pexels-424242424242", "lightly_frames")


def test_a_bucket_that_is_missing(failed, keys):
    said = failed(keys[0], "pexels_video", "s3_video_object", LIGHTLY_BUCKET="no-such-one")
    assert "Bucket no-such-one does not exist" in said


def test_a_bucket_that_is_forbidden(failed, world, keys):
    world.sandbox.faults.inject("s3:HeadObject", "AccessDenied", times=1)
    assert "refuses these credentials" in failed(keys[0], "pexels_video", "s3_video_object")


def test_an_instance_that_does_not_exist(failed, world):
    put(world, "input_dir/pexels-11/a.mp4")
    assert "i-00000000000000bad" in failed("pexels-11", "lightly_frames", LIGHTLY_INSTANCES="i-00000000000000bad")


def test_a_run_script_that_is_missing_on_the_instance(failed, world):
    put(world, "input_dir/pexels-12/a.mp4")
    assert "/nowhere/run.sh" in failed("pexels-12", "lightly_frames", LIGHTLY_RUN_SCRIPT="/nowhere/run.sh")


def test_a_file_that_is_no_video(failed, world):
    put(world, "input_dir/pexels-13/a.mp4")
    assert "a.mp4" in failed("pexels-13", "lightly_frames")
    assert world.bucket.find("output_dir/pexels-13/manifest.json") is None


def test_a_value_that_the_worker_refuses(failed, world):
    put(world, "input_dir/pexels-14/a.mp4")
    config = {"lightly_frames": {"config": {"stopping_condition": {"n_samples": 1.5}}}}
    assert "between 0.0 and 1.0" in failed("pexels-14", "lightly_frames", config=config)


def test_an_option_that_the_worker_does_not_know(failed, world):
    config = {"lightly_frames": {"config": {"stoping_condition": {}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="stoping_condition"):
        failed("pexels-14", "lightly_frames", config=config)


def test_what_was_selected_before_survives_a_failure(failed, world):
    put(world, "input_dir/pexels-15/a.mp4")
    put(world, "output_dir/pexels-15/manifest.json", b"{}")
    failed("pexels-15", "lightly_frames")
    assert world.bucket.read("output_dir/pexels-15/manifest.json") == b"{}"


def test_a_folder_without_video_for_the_sandbox(world, tmp_path):
    (tmp_path / "empty").mkdir()
    done = world.run("lightly-pipeline", "demo", "--videos", "empty", "--state", "state", cwd=tmp_path)
    assert done.returncode == 1
    assert "no video" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dagster_home_that_is_no_folder(world, tmp_path):
    done = world.run("lightly-pipeline", "collect", DAGSTER_HOME=str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert str(tmp_path / "nowhere") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_the_sandbox_cannot_use(world, tmp_path):
    (tmp_path / "file").touch()
    done = world.run("lightly-pipeline", "demo", "--state", "file/state", cwd=tmp_path)
    assert done.returncode == 1
    assert "file/state cannot be used (Not a directory)" in done.stderr
    assert "Traceback" not in done.stderr
