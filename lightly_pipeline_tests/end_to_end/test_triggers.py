"""The schedule and the sensor, with a real instance and the sandbox's S3: what they launch, and that only once."""

import json
import os
import random
import signal
import time
from datetime import datetime, timedelta, timezone

import dagster as dg
import pytest

from lightly_pipeline.automation.collect_pexels_videos import collect_pexels_videos, discover_videos
from lightly_pipeline.automation.new_s3_videos import Position, new_s3_videos
from lightly_pipeline.definitions import build_defs
from lightly_pipeline.resources.pexels import PexelsResource
from lightly_pipeline.resources.s3 import BucketResource
from lightly_pipeline_tests.clips import rendered


@pytest.fixture
def inside(world, monkeypatch):
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    with world.instance() as instance:
        yield instance


@pytest.fixture
def empty_bucket(world, inside, monkeypatch, request):
    name = f"triggers-{abs(hash(request.node.name)) % 10**10}"
    client = world.client("s3")
    client.create_bucket(Bucket=name)
    monkeypatch.setenv("LIGHTLY_BUCKET", name)
    return lambda key, body=b"video": client.put_object(Bucket=name, Key=key, Body=body)


def tick(instance, cursor=None):
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"s3": BucketResource()}, definitions=build_defs()
    ) as context:
        return new_s3_videos(context)


def launched(result):
    return {request.partition_key for request in result.run_requests or []}


def test_a_foreign_upload_is_registered_recorded_and_selected_once(inside, empty_bucket):
    empty_bucket("input_dir/holiday/clip one.mp4")
    result = tick(inside)
    [request] = result.run_requests
    assert request.partition_key == "holiday"
    assert request.run_key.startswith("holiday:")
    assert result.dynamic_partitions_requests[0].partition_keys == ["holiday"]
    [event] = result.asset_events
    assert (event.asset_key.to_user_string(), event.partition) == ("s3_video_object", "holiday")

    again = tick(inside, result.cursor)
    assert [request.run_key for request in again.run_requests] == [request.run_key], "same content, same run key"


def test_new_content_in_a_known_folder_has_a_new_run_key(inside, empty_bucket):
    empty_bucket("input_dir/holiday/a.mp4", b"one")
    first = tick(inside)
    empty_bucket("input_dir/holiday/a.mp4", b"two")
    second = tick(inside, first.cursor)
    assert first.run_requests[0].run_key != second.run_requests[0].run_key


def test_what_is_selected_for_that_content_is_left_alone(inside, empty_bucket):
    empty_bucket("input_dir/holiday/a.mp4")
    result = tick(inside)
    version = result.run_requests[0].run_key.partition(":")[2]
    inside.add_dynamic_partitions("videos", ["holiday"])
    inside.report_runless_asset_event(
        dg.AssetMaterialization("lightly_frames", partition="holiday", metadata={"input_version": version})
    )
    assert launched(tick(inside, result.cursor)) == set()
    empty_bucket("input_dir/holiday/b.mp4")
    assert launched(tick(inside, result.cursor)) == {"holiday"}


def test_what_a_run_is_working_on_is_left_alone_until_it_ends(inside, empty_bucket):
    empty_bucket("input_dir/holiday/a.mp4")
    inside.add_dynamic_partitions("videos", ["holiday"])
    job = build_defs().resolve_job_def("lightly_pipeline")
    run = inside.create_run_for_job(job, tags={"dagster/partition": "holiday"}, status=dg.DagsterRunStatus.STARTED)
    result = tick(inside)
    assert launched(result) == set()
    inside.report_run_canceled(run)
    assert launched(tick(inside, result.cursor)) == {"holiday"}


def test_files_that_are_no_video_and_names_that_are_no_key_launch_nothing(inside, empty_bucket):
    for key in ("holiday/readme.txt", "$(reboot)/a.mp4", "-rf/a.mp4", "loose.mp4", "a b/c.mp4"):
        empty_bucket(f"input_dir/{key}")
    assert launched(tick(inside)) == set()


def test_a_folder_that_still_changes_is_left_to_the_next_tick(inside, empty_bucket, monkeypatch):
    monkeypatch.setenv("LIGHTLY_SETTLE_SECONDS", "3600")
    empty_bucket("input_dir/holiday/a.mp4")
    result = tick(inside)
    assert launched(result) == set()
    monkeypatch.setenv("LIGHTLY_SETTLE_SECONDS", "0")
    assert launched(tick(inside, result.cursor)) == {"holiday"}


def test_many_folders_are_all_seen_some_per_tick(inside, empty_bucket, monkeypatch):
    monkeypatch.setattr("lightly_pipeline.automation.new_s3_videos.LOOKUPS_PER_TICK", 4)
    names = {f"video{number:02}" for number in range(10)}
    for name in names:
        empty_bucket(f"input_dir/{name}/a.mp4")
    seen, cursor = [], None
    for _ in range(3):
        result = tick(inside, cursor)
        assert len(launched(result)) <= 4
        seen += launched(result)
        cursor = result.cursor
    assert sorted(seen) == sorted(names)


def test_a_slow_upload_that_began_before_the_last_round_is_still_seen():
    """S3 dates a multipart object by the start of its upload, so that it can appear with an old date."""
    now = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
    position = Position.read(None, now).next("", now).next("", now + timedelta(minutes=1))
    assert position.is_news(now - timedelta(hours=20))
    assert not position.is_news(now - timedelta(hours=30))


@pytest.mark.parametrize("cursor", ["", "not json", "[]", '{"surprise": 1}', "null"])
def test_a_cursor_that_somebody_broke_starts_a_new_round_over_everything(cursor):
    position = Position.read(cursor, datetime.now(timezone.utc))
    assert (position.after, position.since) == ("", "")
    assert json.loads(str(position))["began"]


def scheduled(instance, hour):
    with dg.build_schedule_context(
        instance=instance,
        resources={"pexels": PexelsResource()},
        scheduled_execution_time=datetime(2030, 1, 1, hour, tzinfo=timezone.utc),
    ) as context:
        return [item for item in collect_pexels_videos(context) if isinstance(item, dg.RunRequest)]


def test_the_schedule_registers_unknown_videos_and_launches_each_once(inside):
    requests = scheduled(inside, 1)
    keys = [request.partition_key for request in requests]
    assert len(set(keys)) == 3
    assert set(inside.get_dynamic_partitions("videos")) == set(keys)
    assert [request.run_key for request in requests] == [f"collect:{key}" for key in keys]


def test_a_tick_that_died_before_its_runs_were_launched_loses_no_video(inside):
    lost = [request.partition_key for request in scheduled(inside, 1)]
    assert [request.partition_key for request in scheduled(inside, 1)] == lost, "Dagster evaluates it again"
    # Their runs are launched now: one works, one has ended and is deleted, one has failed.
    job = build_defs().resolve_job_def("collect_videos")
    for key, status in zip(lost, (dg.DagsterRunStatus.STARTED, None, dg.DagsterRunStatus.FAILURE), strict=True):
        if status is None:
            inside.report_runless_asset_event(dg.AssetMaterialization("pexels_video", partition=key))
        else:
            inside.create_run_for_job(job, tags={"dagster/partition": key}, status=status)
    later = [request.partition_key for hour in range(1, 24) for request in scheduled(inside, hour)]
    assert later
    assert not set(later) & set(lost)


TICK = """
mutation {
  scheduleDryRun(
    selectorData: {
      repositoryLocationName: "lightly_pipeline"
      repositoryName: "__repository__"
      scheduleName: "collect_pexels_videos"
    }
    timestamp: 1800000000
  ) {
    ... on DryRunInstigationTick { evaluationResult { runRequests { runKey tags { key value } } error { message } } }
    ... on PythonError { message }
  }
}
"""


def test_a_tick_of_the_schedule_from_the_command_line_adds_partitions(world):
    done = world.run("dagster-graphql", "-m", "lightly_pipeline", "-t", TICK)
    assert done.returncode == 0, done.stdout + done.stderr
    [answer] = [line for line in done.stdout.splitlines() if line.startswith("{")]  # beside the code server's log
    result = json.loads(answer)["data"]["scheduleDryRun"]["evaluationResult"]
    assert result["error"] is None
    asked = [{tag["key"]: tag["value"] for tag in request["tags"]} for request in result["runRequests"]]
    keys = {tags["dagster/partition"] for tags in asked}
    assert len(keys) == 3
    with world.instance() as instance:
        assert set(instance.get_dynamic_partitions("videos")) == keys


def test_discovery_never_names_a_known_video_and_ends_when_all_are_known(inside):
    found = []
    while batch := discover_videos(inside, PexelsResource(), 3, random.Random(1)):
        found += [video.id for video in batch]
    assert len(found) == len(set(found)) > 3


def test_the_daemon_sees_a_foreign_upload_and_has_its_frames_selected(world):
    """The sensor as a user switches it on, from the upload to the frames: Dagster's own queue, launcher and run."""
    (clip,) = rendered("drift")
    content = clip.files[-1].read_bytes()
    world.client("s3").put_object(Bucket=world.sandbox.bucket, Key="input_dir/holiday/clip one.mp4", Body=content)
    switched = world.run("dagster", "sensor", "start", "new_s3_videos", "-m", "lightly_pipeline")
    assert switched.returncode == 0, switched.stderr
    with world.instance() as instance, world.start("dagster-daemon", "run", "-m", "lightly_pipeline") as daemon:
        try:
            deadline = time.monotonic() + 150
            while not [run for run in instance.get_runs() if run.is_finished]:
                assert time.monotonic() < deadline, instance.get_runs()
                time.sleep(0.5)
        finally:
            os.killpg(daemon.pid, signal.SIGINT)
            daemon.communicate(timeout=60)
        [run] = instance.get_runs()
        assert (run.job_name, run.status) == ("select_frames", dg.DagsterRunStatus.SUCCESS)
        assert instance.get_dynamic_partitions("videos") == ["holiday"]
    assert json.loads(world.bucket.read("output_dir/holiday/manifest.json"))["counts"]["selected"] > 0
    assert set(world.settled_states().values()) == {"stopped"}
