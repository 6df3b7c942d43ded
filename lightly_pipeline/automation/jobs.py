"""The jobs: which assets run together, and the tags their runs carry. Dagster concept: asset jobs.

Tags that the run queue and the monitor read must sit on a job: tags of an asset never become tags of its runs.
"""

import dagster as dg

from lightly_pipeline.assets.lightly_frames import lightly_frames
from lightly_pipeline.assets.pexels_video import pexels_video
from lightly_pipeline.assets.s3_video_object import s3_video_object

# A run whose host died stays "started" for ever unless the monitor may end it.
_COLLECT = {"dagster/max_runtime": str(2 * 3600)}
_SELECT = {"dagster/max_runtime": str(14 * 3600)}

lightly_pipeline_job = dg.define_asset_job(
    "lightly_pipeline",
    selection=dg.AssetSelection.assets(pexels_video, s3_video_object, lightly_frames),
    tags=_SELECT,
    description="The tutorial's pipeline for one video: download it, put it into S3, select its frames.",
)

collect_videos_job = dg.define_asset_job(
    "collect_videos",
    selection=dg.AssetSelection.assets(pexels_video, s3_video_object),
    tags=_COLLECT,
    description="Download a Pexels video and put it into S3; the sensor new_s3_videos has its frames selected.",
)

select_frames_job = dg.define_asset_job(
    "select_frames",
    selection=dg.AssetSelection.assets(lightly_frames),
    tags=_SELECT,
    description="Select the frames of a video that lies in S3.",
)
