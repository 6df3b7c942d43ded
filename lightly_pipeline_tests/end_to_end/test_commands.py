"""Every command that the README shows, as a user types it, on generated footage in the sandbox."""

import json

import pytest

ASSETS = "pexels_video,s3_video_object,lightly_frames"


def materialize(world, key, *, select=ASSETS, **options):
    return world.run(
        "dagster", "asset", "materialize", "-m", "lightly_pipeline", "--select", select, "--partition", key, **options
    )


def succeeded(done):
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return done.stdout + done.stderr


def manifest(world, key):
    return json.loads(world.bucket.read(f"output_dir/{key}/manifest.json"))


def test_materializing_an_unregistered_video_twice_uploads_it_once(world, keys):
    key = keys[0]
    first = succeeded(materialize(world, key))
    assert "nothing uploaded" not in first
    made = manifest(world, key)
    [video] = list(world.bucket.list(f"input_dir/{key}/"))
    assert 0 < made["counts"]["selected"] <= 0.1 * made["counts"]["frames"] + 1
    assert set(world.settled_states().values()) == {"stopped"}

    # Of a publication that was killed when its manifest was there.
    for mark in (".incomplete.json", ".publishing.json"):
        world.bucket.client.put_object(Bucket=world.sandbox.bucket, Key=f"output_dir/{key}/{mark}", Body=b"[]")
    second = succeeded(materialize(world, key))
    assert "nothing uploaded" in second
    [again] = list(world.bucket.list(f"input_dir/{key}/"))
    assert (again.etag, again.last_modified) == (video.etag, video.last_modified)
    assert manifest(world, key)["files"] == made["files"]

    with world.instance() as instance:
        assert instance.get_dynamic_partitions("videos") == [key]
        checks = [
            event.dagster_event.asset_check_evaluation_data
            for run in instance.get_runs()
            for event in instance.all_logs(run.run_id)
            if event.dagster_event and event.dagster_event.event_type_value == "ASSET_CHECK_EVALUATION"
        ]
        assert {check.check_name for check in checks} == {
            "opens_and_has_frames",
            "object_is_the_download",
            "budget_kept",
            "no_exact_duplicates",
            "min_distance_kept",
            "manifest_agrees_with_bucket",
        }
        assert all(check.passed for check in checks)


def test_it_works_without_dagster_home(world, keys):
    succeeded(materialize(world, keys[1], without=("DAGSTER_HOME",), select="pexels_video,s3_video_object"))
    assert len(list(world.bucket.list(f"input_dir/{keys[1]}/"))) == 1


def test_dg_launch_and_job_execute_run_the_same_pipeline(world, keys, root):
    launch = ("dg", "launch", "--assets", "pexels_video,s3_video_object", "--partition", keys[2])
    succeeded(world.run(*launch, cwd=root))
    assert len(list(world.bucket.list(f"input_dir/{keys[2]}/"))) == 1
    succeeded(
        world.run(
            *("dagster", "job", "execute", "-m", "lightly_pipeline", "-j", "lightly_pipeline"),
            *("--tags", json.dumps({"dagster/partition": keys[2]})),
        )
    )
    assert manifest(world, keys[2])["counts"]["selected"] > 0


def test_the_definitions_validate_in_every_way(world, root):
    succeeded(world.run("dagster", "definitions", "validate", "-w", str(root / "workspace.yaml")))
    succeeded(world.run("dg", "check", "defs", cwd=root))


def test_the_aws_command_line_sees_the_bucket(world):
    world.bucket.client.put_object(Bucket=world.sandbox.bucket, Key="input_dir/seen/by-the-cli.txt", Body=b"x")
    listed = succeeded(world.run("aws", "s3", "ls", "--recursive", f"s3://{world.sandbox.bucket}/input_dir/seen/"))
    assert "by-the-cli.txt" in listed


def test_two_partitions_at_once_do_not_disturb_each_other(world, keys):
    running = [
        world.start(
            *("dagster", "asset", "materialize", "-m", "lightly_pipeline"),
            *("--select", ASSETS, "--partition", key),
        )
        for key in keys[3:5]
    ]
    for process in running:
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output[-8000:]
    for key in keys[3:5]:
        assert manifest(world, key)["counts"]["selected"] > 0
    assert set(world.settled_states().values()) == {"stopped"}


def test_collect_registers_random_videos_and_prints_their_keys(world):
    printed = succeeded(world.run("lightly-pipeline", "collect", "--count", "2")).split()
    assert len(set(printed)) == 2
    with world.instance() as instance:
        assert set(instance.get_dynamic_partitions("videos")) == set(printed)


@pytest.mark.long
def test_collect_runs_what_it_has_found(world):
    done = world.run("lightly-pipeline", "collect", "--run")
    succeeded(done)
    with world.instance() as instance:
        [key] = instance.get_dynamic_partitions("videos")
    assert done.stdout.splitlines()[0] == key
    assert manifest(world, key)["counts"]["selected"] > 0
