"""The schedule that discovers videos: random popular ones become partitions and are collected.

This is where the pipeline's randomness lives, so that a partition, once it exists, always means the same video.
Dagster concept: schedules.
"""

import random
from collections.abc import Callable, Iterator

import dagster as dg

from lightly_pipeline.assets.pexels_video import pexels_video
from lightly_pipeline.automation.jobs import collect_videos_job
from lightly_pipeline.pexels import PexelsVideo
from lightly_pipeline.resources.pexels import PexelsResource
from lightly_pipeline.videos import is_registered, pexels_key, register_videos

VIDEOS_PER_TICK = 3


def discover_videos(
    instance: dg.DagsterInstance,
    pexels: PexelsResource,
    count: int,
    rng: random.Random | None = None,
    is_known: Callable[[dg.DagsterInstance, str], bool] = is_registered,
) -> list[PexelsVideo]:
    """Up to `count` random popular videos that are not known yet (by default: no partitions), registered as such."""
    found = pexels.open().client.discover(
        count,
        rng or random.Random(),  # noqa: S311 - which video comes next is no secret
        lambda video_id: is_known(instance, pexels_key(video_id)),
    )
    register_videos(instance, (pexels_key(video.id) for video in found))
    return found


def _is_collected(instance: dg.DagsterInstance, key: str) -> bool:
    """Whether a video was downloaded, or a run has its partition: more than being registered.

    A tick that died after it had registered its videos launched nothing for them.
    """
    if not is_registered(instance, key):
        return False
    return bool(
        instance.get_runs(dg.RunsFilter(tags={"dagster/partition": key}), limit=1)
        or instance.event_log_storage.get_latest_storage_id_by_partition(
            pexels_video.key, dg.DagsterEventType.ASSET_MATERIALIZATION, {key}
        )
    )


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
    # Dagster evaluates a tick again that died: it comes upon the same videos.
    rng = random.Random(context.scheduled_execution_time.timestamp())  # noqa: S311 - as above
    found = discover_videos(context.instance, pexels, VIDEOS_PER_TICK, rng, _is_collected)
    for video in found:
        key = pexels_key(video.id)
        # One run per video, ever: a tick that is evaluated again after a crash launches nothing twice.
        yield dg.RunRequest(run_key=f"collect:{key}", partition_key=key)
    if not found:
        yield dg.SkipReason("Every popular video that Pexels answered with is collected already, or on its way.")
