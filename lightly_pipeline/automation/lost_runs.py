"""Runs whose host is gone: told from those that work, and ended, so that they hold no place in the pool for hours.

Dagster keeps a run as "started" when its host dies, until `dagster/max_runtime`. But a step that has an instance renews
its lease all the time it works, so a step that is in progress, holds no lease, and has logged nothing for longer than
any wait without a lease may take, has no process any more. Runs that died before they had an instance have no such sign
of life, and are left to Dagster's own monitor.
"""

import time

import dagster as dg
from dagster._core.execution.stats import StepEventStatus

from lightly_pipeline.pipes_runs import HOLDER_TAG, INSTANCE_TAG
from lightly_pipeline.runner import InstanceRunner

_CANDIDATES = 1000


def end_lost_runs(instance: dg.DagsterInstance, runner: InstanceRunner, now: float | None = None) -> list[str]:
    """Mark runs that died with their host as failed, and free their places in Dagster's pools; a sentence for each."""
    now = time.time() if now is None else now
    # Without a lease a live step waits for capacity at the longest.
    silence = runner.settings.lease.ttl + runner.settings.deadlines.capacity
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    silent = [
        run
        for run in instance.get_runs(started, limit=_CANDIDATES)
        if run.tags.get(HOLDER_TAG, "").startswith(f"{run.run_id}/") and _last_event(instance, run) < now - silence
    ]
    if not silent:
        return []
    alive = {holder for status in runner.status() for holder in status.record.live(status.now)}
    told = []
    for run in silent:
        holder, instance_id = run.tags[HOLDER_TAG], run.tags.get(INSTANCE_TAG)
        if instance_id is not None:
            # It may have left the pool since.
            alive |= set(runner.store.read(instance_id).live(runner.store.clock.now()))
        if holder in alive or not _in_progress(instance, run, step=holder.split("/")[1]):
            continue
        sentence = (
            f"Run {run.run_id} has lost its process: its lease on {instance_id} is over, and it has logged nothing for "
            f"{silence / 60:.0f} minutes."
        )
        instance.report_run_failed(run, f"{sentence} Execute it again: a command that still runs is followed.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        told.append(sentence)
    return told


def _last_event(instance: dg.DagsterInstance, run: dg.DagsterRun) -> float:
    """When the run last logged anything, by its host's clock."""
    records = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    return max((record.timestamp for record in records), default=float("inf"))


def _in_progress(instance: dg.DagsterInstance, run: dg.DagsterRun, step: str) -> bool:
    """Whether the step that held the instance has begun and not ended: what follows it in its run needs no lease."""
    stats = instance.get_run_step_stats(run.run_id, step_keys=[step])
    return any(each.status in (None, StepEventStatus.IN_PROGRESS) for each in stats)
