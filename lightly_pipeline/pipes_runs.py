"""What Dagster knows of a job's other runs: those that came before it and left a command, and those that are coming.

Instance, command and holder are tags of a run, written before the wait for the command begins: so a restarted run, or
one that replaces it, finds the command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone

import dagster as dg

from lightly_pipeline.runner import Job

Context = dg.OpExecutionContext | dg.AssetExecutionContext

INSTANCE_TAG = "lightly/instance_id"
COMMAND_TAG = "lightly/ssm_command_id"
HOLDER_TAG = "lightly/holder"
_PARTITION_TAG = "dagster/partition"

# How long a run may take from its beginning to its step, downloading its video for one.
_ON_ITS_WAY = timedelta(minutes=10)


def holder_of(context: Context) -> str:
    """The name under which this try of this step holds leases."""
    step = context.get_step_execution_context().step.key
    return f"{context.run.run_id}/{step}/{context.retry_number}"


def job_of(context: Context, command: Sequence[str], timeout: int, environment: Mapping[str, str]) -> Job:
    """The job, with what earlier tries of the same work left in run tags.

    Of this run, started again after a crash, or of the run that this one replaces, once that is over.
    """
    holder = holder_of(context)
    earlier = context.instance.get_run_by_id(context.run.run_id)
    if earlier is not None and not _left_by(earlier, earlier.run_id) and earlier.parent_run_id:
        parent = context.instance.get_run_by_id(earlier.parent_run_id)
        same = parent is not None and parent.tags.get(_PARTITION_TAG) == earlier.tags.get(_PARTITION_TAG)
        earlier = parent if parent is not None and parent.is_finished and same else None
    # A run that was launched "again, with the same tags" carries another's: only a run's own say anything.
    known = earlier is not None and _left_by(earlier, earlier.run_id)
    tags = earlier.tags if earlier is not None and known else {}
    before = tags.get(HOLDER_TAG)
    return Job(
        holder=holder,
        argv=list(command),
        timeout=timeout,
        environment=environment,
        adopt=[before] if before and before != holder else [],
        instance_hint=tags.get(INSTANCE_TAG),
    )


def _left_by(run: dg.DagsterRun, run_id: str) -> bool:
    """Whether the run's tags name a holder of that very run."""
    return run.tags.get(HOLDER_TAG, "").startswith(f"{run_id}/")


def more_is_coming(context: Context) -> bool:
    """Whether another run that materializes the same asset is queued or on its way.

    A queued run will come, however long it has waited. One with a holder's tag has come already: two that ended at once
    left an instance up for each other. One that began a while ago without it is dead: a host that died leaves runs
    "started" for ever.
    """
    wanted = set(context.selected_asset_keys) if context.has_assets_def else set()
    status = dg.DagsterRunStatus
    begun = dg.RunsFilter(
        statuses=[status.NOT_STARTED, status.STARTING, status.STARTED],
        updated_after=datetime.now(timezone.utc) - _ON_ITS_WAY,
    )
    recent = [
        *context.instance.get_runs(dg.RunsFilter(statuses=[status.QUEUED]), limit=100),
        *context.instance.get_runs(begun, limit=100),
    ]
    for run in recent:
        if run.run_id == context.run.run_id or _left_by(run, run.run_id):
            continue
        same_job = not run.asset_selection and run.job_name == context.job_name
        if same_job or wanted & set(run.asset_selection or ()):
            return True
    return False
