"""What goes wrong in real life: each ends in one sentence that names the thing and the remedy.

Nothing that was stored before is lost, and no instance keeps running.
"""

import json

import pytest

SELECT = "pexels_video,s3_video_object,lightly_frames"


def materialize(world, key, *, select=SELECT, config=None, **options):
    command = ["dagster", "asset", "materialize", "-m", "lightly_pipeline", "--select", select, "--partition", key]
    if config:
        command += ["--config-json", json.dumps(config)]
    return world.run(*command, **options)


def failed(world, done):
    assert done.returncode != 0, done.stdout[-3000:]
    assert set(world.instance_states().values()) == {"stopped"}
    return done.stdout + done.stderr


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


@pytest.mark.parametrize("key", ["../../etc/passwd", "$(reboot)", "no such"])
def test_a_malformed_partition_key(world, key):
    said = failed(world, materialize(world, key, select="pexels_video"))
    assert "is not a video key: use pexels-<id>" in said
    assert "Traceback" not in said


def test_a_foreign_key_that_nobody_uploaded(world):
    said = failed(world, materialize(world, "holiday", select="lightly_frames"))
    assert "upload the file to input_dir/holiday/<file>" in said


def test_an_unknown_video(world):
    said = failed(world, materialize(world, "pexels-999999999999", select="pexels_video"))
    assert "999999999999" in said


def test_a_video_that_is_not_in_the_bucket_yet(world, keys):
    said = failed(world, materialize(world, "pexels-424242424242", select="lightly_frames"))
    assert "holds no video" in said


def test_a_bucket_that_is_missing(world, keys):
    said = failed(
        world, materialize(world, keys[0], select="pexels_video,s3_video_object", LIGHTLY_BUCKET="no-such-one")
    )
    assert "Bucket no-such-one does not exist" in said


def test_an_instance_that_does_not_exist(world):
    put(world, "input_dir/pexels-11/a.mp4")
    said = failed(
        world, materialize(world, "pexels-11", select="lightly_frames", LIGHTLY_INSTANCES="i-00000000000000bad")
    )
    assert "i-00000000000000bad" in said


def test_a_run_script_that_is_missing_on_the_instance(world):
    put(world, "input_dir/pexels-12/a.mp4")
    said = failed(world, materialize(world, "pexels-12", select="lightly_frames", LIGHTLY_RUN_SCRIPT="/nowhere/run.sh"))
    assert "/nowhere/run.sh" in said


def test_a_file_that_is_no_video(world):
    put(world, "input_dir/pexels-13/a.mp4")
    said = failed(world, materialize(world, "pexels-13", select="lightly_frames"))
    assert "a.mp4" in said
    assert world.bucket.find("output_dir/pexels-13/manifest.json") is None


def test_an_option_that_the_worker_does_not_know_or_a_value_that_it_refuses(world):
    put(world, "input_dir/pexels-14/a.mp4")

    def configured(config):
        run_config = {"ops": {"lightly_frames": {"config": config}}}
        return failed(world, materialize(world, "pexels-14", select="lightly_frames", config=run_config))

    assert "stoping_condition" in configured({"stoping_condition": {}})
    assert "between 0.0 and 1.0" in configured({"stopping_condition": {"n_samples": 1.5}})


def test_a_folder_without_video_for_the_sandbox(world, tmp_path):
    (tmp_path / "empty").mkdir()
    done = world.run("lightly-pipeline", "demo", "--videos", "empty", "--state", "state", cwd=tmp_path)
    assert done.returncode == 1
    assert "no video" in done.stderr
    assert "Traceback" not in done.stderr
