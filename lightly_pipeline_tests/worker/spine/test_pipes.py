"""What Dagster hears of a run: log lines, progress, one materialization, its checks."""

import base64
import io
import json

import dagster_pipes as dp
import pytest
from PIL import Image

from lightly_pipeline.worker.s3 import s3_client
from lightly_pipeline_tests.worker.spine.conftest import run_worker

CONTEXT = {
    "asset_keys": ["lightly_frames"],
    "code_version_by_asset_key": {"lightly_frames": None},
    "provenance_by_asset_key": {"lightly_frames": None},
    "partition_key": "key",
    "partition_key_range": {"start": "key", "end": "key"},
    "partition_time_window": None,
    "run_id": "run",
    "job_name": "job",
    "retry_number": 0,
    "extras": {},
}


def heard_through(place, read, clips, out):
    """Run the worker with messages to `place`; (ended process, messages by method)."""
    environment = {
        "DAGSTER_PIPES_CONTEXT": dp.encode_param({"data": CONTEXT}),
        "DAGSTER_PIPES_MESSAGES": dp.encode_param(place),
    }
    ended = run_worker(clips, out, "stopping_condition.n_samples=9", "dump_dataset=True", **environment)
    messages = [json.loads(line) for line in read() if line]
    return ended, {
        method: [message["params"] for message in messages if message["method"] == method]
        for method in {message["method"] for message in messages}
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("heard") / "out"


@pytest.fixture(scope="module")
def heard(clips, out):
    file = out.with_name("messages")
    file.touch()
    return heard_through({"path": str(file)}, lambda: file.read_text().splitlines(), clips, out)


def test_one_materialization_carries_counts_picture_and_data_version(heard, out):
    ended, messages = heard
    assert ended.returncode == 0, ended.stderr
    [materialization] = messages["report_asset_materialization"]
    manifest = json.loads((out / "manifest.json").read_text())
    metadata = {key: value["raw_value"] for key, value in materialization["metadata"].items()}
    assert len(materialization["data_version"]) == 64
    assert metadata["count/frames"] == manifest["counts"]["frames"] == 56
    assert metadata["count/selected"] == 9
    assert metadata["distance/after"]["min"] > 0
    assert metadata["manifest"].endswith("/out/manifest.json")
    picture = metadata["contact_sheet"]
    assert len(picture) <= 100_000
    content = base64.b64decode(picture.partition("base64,")[2].rstrip(")"))
    assert Image.open(io.BytesIO(content)).format == "JPEG"


def test_checks_and_progress_and_log_lines_arrive(heard):
    _, messages = heard
    checks = {check["check_name"]: check for check in messages["report_asset_check"]}
    assert set(checks) == {"budget_kept", "no_exact_duplicates", "min_distance_kept"}
    assert all(check["passed"] for check in checks.values())
    progress = [message["payload"] for message in messages["report_custom_message"]]
    assert all(
        set(event) == {"event", "stage", "done", "total", "frames_per_second"} and event["event"] == "progress"
        for event in progress
    )
    assert {"scan", "select", "write"} <= {event["stage"] for event in progress}
    assert any("Found 3 input videos" in line["message"] for line in messages["log"])


def test_a_repeated_run_reports_the_result_that_is_there(heard, clips, out):
    file = out.with_name("again")
    file.touch()
    ended, messages = heard_through({"path": str(file)}, lambda: file.read_text().splitlines(), clips, out)
    assert ended.returncode == 0
    first = heard[1]["report_asset_materialization"][0]
    [second] = messages["report_asset_materialization"]
    assert second["data_version"] == first["data_version"]
    assert second["metadata"]["already_done"]["raw_value"] is True
    assert "contact_sheet" in second["metadata"]


def test_messages_go_to_s3_when_dagster_reads_them_there(bucket, clips, tmp_path):
    def chunks():
        listed = s3_client().list_objects_v2(Bucket=bucket, Prefix="messages/").get("Contents", [])
        for key in sorted((entry["Key"] for entry in listed), key=lambda key: int(key.split("/")[1].split(".")[0])):
            yield from s3_client().get_object(Bucket=bucket, Key=key)["Body"].read().decode().splitlines()

    ended, messages = heard_through({"bucket": bucket, "key_prefix": "messages"}, chunks, clips, tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert len(messages["opened"]) == len(messages["closed"]) == len(messages["report_asset_materialization"]) == 1


def test_a_failed_run_tells_dagster_why(tmp_path):
    file = tmp_path / "messages"
    file.touch()
    ended, messages = heard_through(
        {"path": str(file)}, lambda: file.read_text().splitlines(), tmp_path / "nowhere", tmp_path / "out"
    )
    assert ended.returncode == 3
    assert "report_asset_materialization" not in messages
    assert "does not exist" in messages["closed"][0]["exception"]["message"]
