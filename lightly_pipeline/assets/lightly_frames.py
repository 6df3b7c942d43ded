"""The third asset: the frames selected from a video, chosen on an instance that runs only for that.

The instance is leased, `run.sh INPUT OUTPUT key=value…` runs on it through SSM as a Dagster Pipes session, and the
worker reports what it did; its `manifest.json` in the bucket, written last, is what counts. Dagster concepts: Pipes,
asset checks, concurrency pools. There is no RetryPolicy: with one, Terminate would start the step again, and the
runner retries by itself what is worth it.
"""

import json
from typing import Any

import dagster as dg

from lightly_pipeline.assets.failures import failures
from lightly_pipeline.assets.pexels_video import credit
from lightly_pipeline.assets.s3_video_object import INPUT_VERSION, require_videos, s3_video_object
from lightly_pipeline.assets.selection import SelectionConfig
from lightly_pipeline.pipes import PipesSSMClient
from lightly_pipeline.resources.runner import RunnerResource
from lightly_pipeline.resources.s3 import BucketResource
from lightly_pipeline.settings import RUN_SCRIPT
from lightly_pipeline.storage import VideoBucket, VideoFolder
from lightly_pipeline.videos import DATAPOOL_PREFIX, input_prefix, manifest_key, output_prefix, videos
from lightly_pipeline.worker.output import layout

# What the worker reports by itself, and what is checked from outside.
_WORKER_CHECKS = ("budget_kept", "no_exact_duplicates", "min_distance_kept")
_MANIFEST_CHECK = "manifest_agrees_with_bucket"


@dg.asset(
    partitions_def=videos,
    deps=[s3_video_object],
    kinds={"ec2", "python"},
    group_name="lightly_pipeline",
    pool="ec2",
    check_specs=[dg.AssetCheckSpec(name, asset="lightly_frames") for name in (*_WORKER_CHECKS, _MANIFEST_CHECK)],
)
def lightly_frames(
    context: dg.AssetExecutionContext, config: SelectionConfig, s3: BucketResource, runner: RunnerResource
) -> dg.MaterializeResult:
    """The selected frames with their report, under output_dir/<key>/.

    No corrupt frames, no exact duplicates, and a diverse tenth of the rest, chosen on top of what earlier videos
    contributed to the datapool.
    """
    key = context.partition_key
    with failures(video=key):
        bucket = s3.open()
        folder = require_videos(bucket, key)
        pool = {"datapool.uri": bucket.uri(DATAPOOL_PREFIX), "datapool.part": key}
        invocation = PipesSSMClient(runner.open()).run(
            context=context,
            command=[
                RUN_SCRIPT.value(),
                bucket.uri(input_prefix(key)),
                bucket.uri(output_prefix(key)),
                *config.arguments(pool),
            ],
            timeout_seconds=runner.command_timeout_seconds,
        )
        reported = invocation.get_materialize_result(implicit_materialization=False)
        agreement = _compare_with_bucket(bucket, key)
    return dg.MaterializeResult(
        data_version=reported.data_version,
        metadata={
            **(reported.metadata or {}),
            **_origin(bucket, folder),
            "dagster/uri": bucket.uri(output_prefix(key)),
            INPUT_VERSION: folder.version,
        },
        check_results=[*(reported.check_results or []), agreement],
    )


def _origin(bucket: VideoBucket, folder: VideoFolder) -> dict[str, dg.MetadataValue]:
    """Whom the frames are owed to, where the video's uploader left it."""
    video = bucket.find(folder.files[0].key)
    told = video.metadata if video is not None else {}
    if not {"source", "creator", "creator-url"} <= told.keys():
        return {}
    return {"attribution": credit(told["creator"], told["creator-url"], told["source"])}


def _compare_with_bucket(bucket: VideoBucket, key: str) -> dg.AssetCheckResult:
    """Whether every file that the manifest lists is in the bucket with its size, and no other file is.

    A publication that was killed when its manifest was there leaves two marks of its own, which say nothing of it.
    """
    content = bucket.read(manifest_key(key))
    if content is None:
        raise dg.Failure(
            f"The worker ended without {bucket.uri(manifest_key(key))}: its log tells why.",
            metadata={"video": key},
            allow_retries=False,
        )
    manifest: dict[str, Any] = json.loads(content)
    listed = {f"{output_prefix(key)}{file['path']}": file["bytes"] for file in manifest["files"]}
    beside = {f"{output_prefix(key)}{name}" for name in (layout.MANIFEST, layout.PLAN, layout.TURN)}
    present = {file.key: file.size for file in bucket.list(output_prefix(key)) if file.key not in beside}
    wrong = sorted({name for name in listed.keys() | present.keys() if listed.get(name) != present.get(name)})
    return dg.AssetCheckResult(
        check_name=_MANIFEST_CHECK,
        passed=not wrong,
        metadata={"files": len(listed), "wrong": len(wrong), "examples": wrong[:10]},
    )
