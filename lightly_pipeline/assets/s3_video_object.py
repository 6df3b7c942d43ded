"""The second asset: the video in the bucket, under `input_dir/<key>/`, with what is known of its origin.

The file comes from the cache of the first asset, or from Pexels again where this host has none. A video that somebody
else uploaded is only looked at. Dagster concepts: asset, data version, asset check.
"""

from pathlib import PurePosixPath

import dagster as dg

from lightly_pipeline.assets.failures import failures
from lightly_pipeline.assets.pexels_video import attribution, pexels_video
from lightly_pipeline.resources.pexels import PexelsResource
from lightly_pipeline.resources.s3 import BucketResource
from lightly_pipeline.storage import VideoBucket, VideoFolder, read_folder
from lightly_pipeline.videos import input_key, input_prefix, pexels_id, videos
from lightly_pipeline.worker.discover import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS

INPUT_VERSION = "input_version"
"""Metadata key: the version of the input folder, by which sensor and selection tell whether anything is new."""


def is_media(object_key: str) -> bool:
    """Whether the worker would read an object of this name."""
    return PurePosixPath(object_key).suffix.lower() in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS


@dg.asset(
    partitions_def=videos,
    deps=[pexels_video],
    kinds={"s3"},
    group_name="lightly_pipeline",
    check_specs=[dg.AssetCheckSpec("object_is_the_download", asset="s3_video_object", blocking=True)],
)
def s3_video_object(
    context: dg.AssetExecutionContext, pexels: PexelsResource, s3: BucketResource
) -> dg.MaterializeResult:
    """The video in the bucket, under input_dir/<key>/, with its origin and licence as object metadata."""
    key = context.partition_key
    with failures(video=key):
        bucket = s3.open()
        video_id = pexels_id(key)
        if video_id is None:
            return _somebody_elses(bucket, key)
        video = pexels.open().fetch(video_id)
        upload = bucket.store(
            video.path, input_key(key, video.path.name), sha256=video.sha256, metadata=attribution(video)
        )
        folder = read_folder(bucket, input_prefix(key), is_media)
    context.log.info(
        f"{bucket.uri(upload.object.key)}: {'uploaded' if upload.uploaded else 'is there already, nothing uploaded'}"
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(video.sha256),
        metadata={
            "dagster/uri": bucket.uri(upload.object.key),
            "bytes": upload.object.size,
            "uploaded": upload.uploaded,
            "sha256": video.sha256,
            INPUT_VERSION: folder.version,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="object_is_the_download",
                passed=(upload.object.sha256, upload.object.size) == (video.sha256, video.bytes),
                metadata={"downloaded_bytes": video.bytes, "stored_bytes": upload.object.size},
            )
        ],
    )


def _somebody_elses(bucket: VideoBucket, key: str) -> dg.MaterializeResult:
    """Record a video that did not come from Pexels, and that is therefore nobody's to upload but its owner's."""
    folder = require_videos(bucket, key)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(folder.version),
        metadata={
            "dagster/uri": bucket.uri(input_prefix(key)),
            "files": len(folder.files),
            "bytes": folder.size,
            "uploaded": False,
            INPUT_VERSION: folder.version,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="object_is_the_download",
                passed=True,
                metadata={"note": "Not downloaded by this pipeline."},
            )
        ],
    )


def require_videos(bucket: VideoBucket, key: str) -> VideoFolder:
    """The folder of a video, which must hold a media file; dg.Failure otherwise."""
    folder = read_folder(bucket, input_prefix(key), is_media)
    if not folder.files:
        raise dg.Failure(
            f"{bucket.uri(input_prefix(key))} holds no video: upload one there, or materialize s3_video_object first.",
            metadata={"video": key},
            allow_retries=False,
        )
    if folder.overfull:
        raise dg.Failure(
            f"{bucket.uri(input_prefix(key))} holds more than {len(folder.files)} files: split it into folders.",
            metadata={"video": key},
            allow_retries=False,
        )
    return folder
