"""Loading the code location: quiet, quick to import, and without network or environment."""

import subprocess
import sys

import dagster as dg
import pytest

from lightly_pipeline.definitions import build_defs
from lightly_pipeline.resources.s3 import BucketResource


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:lightly_pipeline", "-c", code],
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_loading_the_definitions_warns_of_nothing_and_reaches_no_network():
    done = run(
        "import socket, warnings\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from lightly_pipeline import defs\n"
        "defs.resolve_job_def('lightly_pipeline')\n"
        "print(sorted(key.to_user_string() for key in defs.resolve_all_asset_keys()))"
    )
    assert done.stdout.strip() == "['lightly_frames', 'pexels_video', 's3_video_object']", done.stderr
    assert done.stderr == ""


def test_importing_the_package_loads_no_dagster():
    done = run("import sys, lightly_pipeline, lightly_pipeline.worker; print('dagster' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_what_starts_work_is_off_until_it_is_switched_on_and_what_stops_instances_is_on():
    definitions = build_defs()
    assert [schedule.default_status for schedule in definitions.schedules] == [dg.DefaultScheduleStatus.STOPPED]
    assert {sensor.name: sensor.default_status for sensor in definitions.sensors} == {
        "new_s3_videos": dg.DefaultSensorStatus.STOPPED,
        "release_expired_instances": dg.DefaultSensorStatus.RUNNING,
    }


def test_a_resource_can_be_replaced_and_a_misspelt_one_is_refused():
    assert build_defs(s3=BucketResource(bucket="mine")).resources["s3"].bucket == "mine"
    with pytest.raises(TypeError, match="no resource"):
        build_defs(s33=None)


def test_every_run_may_be_ended_by_the_monitor():
    definitions = build_defs()
    jobs = [definitions.resolve_job_def(name) for name in ("lightly_pipeline", "collect_videos", "select_frames")]
    assert all("dagster/max_runtime" in job.run_tags for job in jobs)


def test_frames_hold_a_place_in_the_ec2_pool_and_are_never_retried_by_dagster():
    asset = build_defs().resolve_assets_def("lightly_frames")
    assert asset.op.pool == "ec2"
    assert asset.op.retry_policy is None
