"""The vocabulary of the pipeline: what a video is called, where it lies in the bucket, and its partition.

A *video key* names one input folder and is the partition key of all three assets: `pexels-<id>` for a Pexels video,
the folder's own name for a video that somebody else put into the bucket. The S3 layout is the tutorial's
(`input_dir`, `output_dir`) and is written down here and nowhere else; what the runner keeps for itself under
`.lightly/` is the runner's. Dagster concept: dynamic partitions.
"""

import re
from collections.abc import Iterable

import click
import dagster as dg
from dagster import DagsterInstance
from dagster._core.definitions.partitions.context import PartitionLoadingContext, partition_loading_context
from sqlalchemy.exc import IntegrityError

INPUT_PREFIX = "input_dir/"
OUTPUT_PREFIX = "output_dir/"
DATAPOOL_PREFIX = "datapool"
MANIFEST = "manifest.json"

_PARTITIONS = "videos"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PEXELS_KEY = re.compile(r"pexels-([1-9][0-9]{0,17})")


class UnknownVideoKey(click.ClickException):
    """A key that names no video. A ClickException, so that Dagster's command line prints the sentence alone."""


def is_video_key(text: str) -> bool:
    """Whether `text` can be a video key: letters, digits, `.`, `_`, `-`; 128 at most; no leading punctuation."""
    return _KEY.fullmatch(text) is not None


def pexels_key(video_id: int) -> str:
    """The key of the Pexels video with this id."""
    return f"pexels-{video_id}"


def pexels_id(key: str) -> int | None:
    """The Pexels id that `key` stands for, or None where the video is somebody else's upload."""
    match = _PEXELS_KEY.fullmatch(key)
    return int(match[1]) if match else None


def input_prefix(key: str) -> str:
    """The folder of a video in the bucket, with its slash."""
    return f"{INPUT_PREFIX}{key}/"


def input_key(key: str, file_name: str) -> str:
    """The object key of a video's file."""
    return f"{INPUT_PREFIX}{key}/{file_name}"


def output_prefix(key: str) -> str:
    """The folder of what was selected from a video, with its slash."""
    return f"{OUTPUT_PREFIX}{key}/"


def manifest_key(key: str) -> str:
    """The object that is written last: where it is, the selection of `key` succeeded."""
    return f"{OUTPUT_PREFIX}{key}/{MANIFEST}"


class VideoPartitionsDefinition(dg.DynamicPartitionsDefinition):
    """Dynamic partitions that register a well-formed `pexels-<id>` key when a run names it.

    Dagster's command line refuses a dynamic partition key that is not registered yet, and without DAGSTER_HOME none
    ever is; a Pexels id, though, is known by its form alone. To the web server and the daemon, which see only the
    serialized form, it is an ordinary dynamic partitions definition.
    """

    def validate_partition_key(self, partition_key: str, context: PartitionLoadingContext) -> None:
        """Register `partition_key` if it is a Pexels key; raise UnknownVideoKey if it names no video."""
        with partition_loading_context(new_ctx=context) as loading:
            if self.has_partition_key(partition_key):
                return
            store = loading.dynamic_partitions_store
            if pexels_id(partition_key) is not None and isinstance(store, DagsterInstance):
                register_videos(store, [partition_key])
                return
        if not is_video_key(partition_key):
            raise UnknownVideoKey(
                f"{partition_key!r} is not a video key: use pexels-<id> (pexels-857195, say), or the name of a folder "
                f"under {INPUT_PREFIX} in the bucket (letters, digits, '.', '_' and '-', 128 at most)."
            )
        raise UnknownVideoKey(
            f"No video is registered as {partition_key!r}: use pexels-<id> for a Pexels video, or upload the file to "
            f"{input_key(partition_key, '<file>')} and let the sensor new_s3_videos register it."
        )


videos = VideoPartitionsDefinition(name=_PARTITIONS)
"""One partition per video key."""


def is_registered(instance: DagsterInstance, key: str) -> bool:
    """Whether `key` is a partition already."""
    return instance.has_dynamic_partition(_PARTITIONS, key)


def register_videos(instance: DagsterInstance, keys: Iterable[str]) -> None:
    """Add `keys` to the partitions; a key that is there already, or that another process adds now, is fine."""
    for key in keys:
        try:
            instance.add_dynamic_partitions(_PARTITIONS, [key])
        except IntegrityError:
            # Dagster looks first and inserts then; somebody inserted in between.
            if not is_registered(instance, key):
                raise
