"""For which other runs an instance stays up: those that will come, not those that a dead host left behind."""

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from lightly_pipeline import pipes_runs
from lightly_pipeline.definitions import build_defs


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def more_is_coming(instance, monkeypatch):
    def ask(status, *, minutes_ago, has_come=False):
        job = build_defs().resolve_job_def("select_frames")
        place = RegisteredCodeLocationOrigin("lightly_pipeline")
        origin = RemoteJobOrigin(RemoteRepositoryOrigin(place, "__repository__"), job.name)
        other = instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED, remote_job_origin=origin)
        instance.report_dagster_event(dg.DagsterEvent(status.value, job.name), other.run_id)
        if has_come:
            instance.add_run_tags(other.run_id, {pipes_runs.HOLDER_TAG: f"{other.run_id}/lightly_frames/0"})
        mine = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        later = datetime.now(timezone.utc) + timedelta(minutes=minutes_ago)
        monkeypatch.setattr(pipes_runs, "datetime", SimpleNamespace(now=lambda _: later))
        context = SimpleNamespace(instance=instance, run=mine, run_id=mine.run_id, job_name=job.name)
        context.has_assets_def = False
        return pipes_runs.more_is_coming(context)

    return ask


def test_a_run_that_has_been_queued_for_hours_is_still_coming(more_is_coming):
    """A hundred videos in a queue: the last ones wait for hours, and each is worth a running instance."""
    assert more_is_coming(dg.DagsterEventType.RUN_ENQUEUED, minutes_ago=600)


def test_a_run_that_has_just_begun_is_coming(more_is_coming):
    assert more_is_coming(dg.DagsterEventType.RUN_START, minutes_ago=1)


def test_a_run_that_began_long_ago_has_its_instance_or_is_dead(more_is_coming):
    """Its host was killed: for an hour every other run kept the instance up for it."""
    assert not more_is_coming(dg.DagsterEventType.RUN_START, minutes_ago=30)


def test_a_run_that_has_its_instance_is_not_waited_for(more_is_coming):
    """Two runs on two instances ended in the same second: each left its instance up for the other."""
    assert not more_is_coming(dg.DagsterEventType.RUN_START, minutes_ago=1, has_come=True)
