"""The first asset: a Pexels video, downloaded and verified, in this host's cache.

Which video it is follows from the partition key alone, so that a partition can be made again anywhere. Dagster
concepts: asset, data version, asset check.
"""

import re

import dagster as dg

from lightly_pipeline.assets.failures import failures
from lightly_pipeline.pexels import CachedVideo
from lightly_pipeline.resources.pexels import PexelsResource
from lightly_pipeline.videos import pexels_id, register_videos, videos


def attribution(video: CachedVideo) -> dict[str, str]:
    """Where a video comes from, as Pexels' terms want it to be told; also the object's metadata in S3."""
    return {
        "source": video.page_url,
        "creator": video.creator,
        "creator-url": video.creator_url,
        "licence": video.licence,
    }


def credit(creator: str, creator_url: str, page_url: str) -> dg.MarkdownMetadataValue:
    """The line that Pexels asks for, with links; the names are somebody's text and are no markup."""
    name = re.sub(r"([\\`*_{}\[\]<>()#+.!|-])", r"\\\1", creator)
    return dg.MetadataValue.md(f"Video by [{name}](<{creator_url}>) on [Pexels](<{page_url}>)")


@dg.asset(
    partitions_def=videos,
    kinds={"pexels"},
    group_name="lightly_pipeline",
    check_specs=[dg.AssetCheckSpec("opens_and_has_frames", asset="pexels_video", blocking=True)],
)
def pexels_video(context: dg.AssetExecutionContext, pexels: PexelsResource) -> dg.MaterializeResult:
    """A video from Pexels in the local cache: the largest mp4 up to the height limit, whole and playable."""
    key = context.partition_key
    video_id = pexels_id(key)
    if video_id is None:
        raise dg.Failure(
            f"{key} is no Pexels video but somebody's upload: run the job select_frames for it.",
            metadata={"video": key},
            allow_retries=False,
        )
    # `dagster job execute` takes the key from a tag and validates nothing.
    register_videos(context.instance, [key])
    with failures(video=key):
        video = pexels.open().fetch(video_id)
    context.log.info(f"{video.path.name}: {video.bytes} bytes, {video.width}x{video.height}, {video.seconds:.1f} s")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(video.sha256),
        metadata={
            "attribution": credit(video.creator, video.creator_url, video.page_url),
            "page": dg.MetadataValue.url(video.page_url),
            "path": dg.MetadataValue.path(video.path),
            "bytes": video.bytes,
            "resolution": f"{video.width}x{video.height}",
            "seconds": video.seconds,
            "codec": video.codec,
            "sha256": video.sha256,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="opens_and_has_frames",
                passed=True,
                metadata={"codec": video.codec, "fps": video.fps or 0.0},
            )
        ],
    )
