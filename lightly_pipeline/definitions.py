"""The one place of wiring: assets, jobs, schedule, sensors and resources become one `Definitions`.

`build_defs` makes a fresh one, so that a test or another code location replaces a resource instead of patching it.
Building reads no environment variable and reaches no network: resources do that when a run opens them.
"""

from typing import Any

import dagster as dg

from lightly_pipeline.assets.lightly_frames import lightly_frames
from lightly_pipeline.assets.pexels_video import pexels_video
from lightly_pipeline.assets.s3_video_object import s3_video_object
from lightly_pipeline.automation.collect_pexels_videos import collect_pexels_videos
from lightly_pipeline.automation.jobs import collect_videos_job, lightly_pipeline_job, select_frames_job
from lightly_pipeline.automation.new_s3_videos import new_s3_videos
from lightly_pipeline.automation.release_expired_instances import release_expired_instances
from lightly_pipeline.resources.pexels import PexelsResource
from lightly_pipeline.resources.runner import RunnerResource
from lightly_pipeline.resources.s3 import BucketResource


def build_defs(**resources: Any) -> dg.Definitions:
    """The pipeline's definitions, with `resources` (`pexels`, `s3`, `runner`) in place of the default ones."""
    defaults: dict[str, Any] = {
        "pexels": PexelsResource(),
        "s3": BucketResource(),
        "runner": RunnerResource(),
    }
    unknown = resources.keys() - defaults.keys()
    if unknown:
        raise TypeError(f"There is no resource {sorted(unknown)}: the pipeline has {sorted(defaults)}.")
    return dg.Definitions(
        assets=[pexels_video, s3_video_object, lightly_frames],
        jobs=[lightly_pipeline_job, collect_videos_job, select_frames_job],
        schedules=[collect_pexels_videos],
        sensors=[new_s3_videos, release_expired_instances],
        resources={**defaults, **resources},
    )


defs = build_defs()
