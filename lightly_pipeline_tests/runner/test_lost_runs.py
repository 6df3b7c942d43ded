"""Which started runs have lost their process with their host, and which only look like it."""

import time

import dagster as dg
import pytest
from dagster._core.execution.plan.objects import StepSuccessData

from lightly_pipeline.automation.lost_runs import end_lost_runs
from lightly_pipeline.definitions import build_defs
from lightly_pipeline.pipes_runs import HOLDER_TAG, INSTANCE_TAG
from lightly_pipeline.runner.record import Lease
from lightly_pipeline.runner.record import Record as LeaseRecord
from lightly_pipeline_tests.runner.virtual_cloud import VirtualCloud

INSTANCE = "i-00000000000000001"
STEP = "lightly_frames"


class Host:
    """A Dagster instance with one run whose host may be gone."""

    def __init__(self, instance):
        self.instance, self.cloud = instance, VirtualCloud()
        job = build_defs().resolve_job_def("select_frames")
        self.run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        self.holder = f"{self.run.run_id}/{STEP}/0"
        instance.add_run_tags(self.run.run_id, {HOLDER_TAG: self.holder, INSTANCE_TAG: INSTANCE})
        self.event("STEP_START")

    def event(self, kind, data=None):
        event = dg.DagsterEvent(kind, self.run.job_name, step_key=STEP, event_specific_data=data)
        self.instance.report_dagster_event(event, self.run.run_id)

    def leased(self, kind="job", *, seconds):
        lease = Lease(kind, since=self.cloud.now - 3600, expires=self.cloud.now + seconds)
        body = LeaseRecord({self.holder: lease}).to_json().encode()
        self.cloud.objects[f".lightly/instances/{INSTANCE}.json"] = (body, "etag", {})

    def look(self, *, minutes):
        told = end_lost_runs(self.instance, self.cloud.runner(), now=time.time() + 60 * minutes)
        return told, self.instance.get_run_by_id(self.run.run_id).status.value


@pytest.fixture
def host():
    with dg.DagsterInstance.ephemeral() as instance:
        yield Host(instance)


def test_a_run_without_lease_or_word_for_longer_than_any_wait_has_failed(host):
    """It held its place in the pool for up to 14 hours, until dagster/max_runtime."""
    host.leased(seconds=-60)
    told, status = host.look(minutes=26)
    assert status == "FAILURE"
    assert "has lost its process" in told[0]
    assert host.look(minutes=26) == ([], "FAILURE")


@pytest.mark.parametrize("kind", ["job", "waiting"])
def test_a_run_with_a_live_lease_works_however_silent_it_is(host, kind):
    host.leased(kind, seconds=60)
    assert host.look(minutes=600) == ([], "STARTED")


def test_a_run_that_has_just_said_something_may_be_between_two_leases(host):
    """EC2 may have no capacity for ten minutes, and nothing is leased meanwhile."""
    assert host.look(minutes=24) == ([], "STARTED")


def test_a_run_that_is_done_with_its_instance_goes_on_without_a_lease(host):
    host.event("STEP_SUCCESS", StepSuccessData(duration_ms=1.0))
    assert host.look(minutes=600) == ([], "STARTED")


def test_a_run_whose_tags_are_another_runs_has_no_sign_of_life_to_judge_by(host):
    host.instance.add_run_tags(host.run.run_id, {HOLDER_TAG: f"somebody/{STEP}/0"})
    assert host.look(minutes=600) == ([], "STARTED")
