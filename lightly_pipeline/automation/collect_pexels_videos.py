"""The schedule that discovers videos: random popular ones become partitions and are collected.

This is where the pipeline's randomness lives, so that a partition, once it exists, always means the same video.
Dagster concept: schedules.
"""

import random
from collections.abc import Iterator

import dagster as dg

from lightly_pipeline.automation.jobs import collect_videos_job
from lightly_pipeline.pexels import PexelsVideo
from lightly_pipeline.resources.pexels import PexelsResource
from lightly_pipeline.videos import is_registered, pexels_key, register_videos

VIDEOS_PER_TICK = 3


def discover_videos(
    instance: dg.DagsterInstance, pexels: PexelsResource, count: int, rng: random.Random | None = None
) -> list[PexelsVideo]:
    """Up to `count` random popular videos that are not partitions yet, registered as partitions."""
    found = pexels.open().client.discover(
        count,
        rng or random.Random(),  # noqa: S311 - which video comes next is no secret
        lambda video_id: is_registered(instance, pexels_key(video_id)),
    )
    register_videos(instance, (pexels_key(video.id) for video in found))
    return found


@dg.schedule(
    job=collect_videos_job,
    cron_schedule="0 * * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def collect_pexels_videos(
    context: dg.ScheduleEvaluationContext, pexels: PexelsResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Every hour, collects a few random popular videos that are not known yet.

    Off until it is switched on: it spends quota of the Pexels API, whose terms restrict systematic copying.
    """
    found = discover_videos(context.instance, pexels, VIDEOS_PER_TICK)
    for video in found:
        key = pexels_key(video.id)
        # One run per video, ever: a tick that is evaluated again after a crash launches nothing twice.
        yield dg.RunRequest(run_key=f"collect:{key}", partition_key=key)
    if not found:
        yield dg.SkipReason("Every popular video that Pexels answered with is a partition already.")
