"""The sensor that sees videos in the bucket, ours and foreign ones, and has their frames selected.

It walks `input_dir/` round by round, a bounded number of objects per tick, and decides for each folder by what
Dagster already knows about it. Only folders that changed since the round before the last are looked up, with a day's
overlap: an object's date says when its upload *began*, so that a plain cursor of dates misses slow uploads, and the
second of two uploads in one second. Dagster concept: sensors.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone

import dagster as dg

from lightly_pipeline.assets.lightly_frames import lightly_frames
from lightly_pipeline.assets.s3_video_object import INPUT_VERSION, is_media, s3_video_object
from lightly_pipeline.automation.jobs import lightly_pipeline_job, select_frames_job
from lightly_pipeline.resources.s3 import BucketResource
from lightly_pipeline.settings import SETTLE_SECONDS
from lightly_pipeline.storage import VideoBucket, VideoFolder, read_folders
from lightly_pipeline.videos import INPUT_PREFIX, input_prefix, is_registered, is_video_key, videos

OBJECTS_PER_TICK = 10_000
LOOKUPS_PER_TICK = 100
_OVERLAP = timedelta(days=1)
_SELECTING = {select_frames_job.name, lightly_pipeline_job.name}
_LIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class Position:
    """Where the walk stands: behind which key, when this round began, and from when on a change is news to it."""

    after: str = ""
    began: str = ""
    since: str = ""

    @classmethod
    def read(cls, cursor: str | None, now: datetime) -> "Position":
        """The position that a tick left, or the start of a first round over everything."""
        try:
            position = cls(**json.loads(cursor or "{}"))
        except (TypeError, ValueError):
            # Somebody edited the cursor in the UI: a round over everything loses nothing.
            position = cls()
        return position if position.began else cls(began=now.isoformat())

    def is_news(self, changed: datetime) -> bool:
        """Whether a change at this time may not have been seen in the rounds before."""
        return not self.since or changed > datetime.fromisoformat(self.since) - _OVERLAP

    def next(self, after: str, now: datetime) -> "Position":
        """The position behind `after`, or at the start of the next round where `after` is empty."""
        if after:
            return Position(after, self.began, self.since)
        return Position("", now.isoformat(), self.began)

    def __str__(self) -> str:
        return json.dumps(asdict(self))


@dg.sensor(
    job=select_frames_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
)
def new_s3_videos(context: dg.SensorEvaluationContext, s3: BucketResource) -> dg.SensorResult:
    """Registers every folder under input_dir/ as a video and has its frames selected, once for each content.

    A failed selection is not repeated by itself: launch it again, or upload the video anew.
    """
    now = datetime.now(timezone.utc)
    bucket = s3.open()
    position = Position.read(context.cursor, now)
    page = read_folders(bucket, INPUT_PREFIX, is_media, after=position.after, objects=OBJECTS_PER_TICK)
    news = [folder for folder in page.folders if position.is_news(folder.newest)]
    looked_at, rest = news[:LOOKUPS_PER_TICK], news[LOOKUPS_PER_TICK:]
    folders, ignored = _usable(looked_at, now)
    for sentence in ignored:
        context.log.warning(sentence)

    due = _not_selected(context.instance, folders)
    unknown = [folder.name for folder in due if not is_registered(context.instance, folder.name)]
    stored = _latest_versions(context.instance, s3_video_object.key, [folder.name for folder in due])
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(run_key=f"{folder.name}:{folder.version}", partition_key=folder.name) for folder in due
        ],
        dynamic_partitions_requests=[videos.build_add_request(unknown)] if unknown else None,
        asset_events=[_uploaded(bucket, folder) for folder in due if stored.get(folder.name) != folder.version],
        cursor=str(position.next(looked_at[-1].files[-1].key if rest else page.after, now)),
        skip_reason=None if due else f"Nothing new in {len(page.folders)} folders of {bucket.uri(INPUT_PREFIX)}",
    )


def _not_selected(instance: dg.DagsterInstance, folders: Sequence[VideoFolder]) -> list[VideoFolder]:
    """The folders whose content has no selection yet and none on the way."""
    selected = _latest_versions(instance, lightly_frames.key, [folder.name for folder in folders])
    waiting = [folder for folder in folders if selected.get(folder.name) != folder.version]
    busy = _in_flight(instance, [folder.name for folder in waiting])
    return [folder for folder in waiting if folder.name not in busy]


def _usable(folders: Sequence[VideoFolder], now: datetime) -> tuple[list[VideoFolder], list[str]]:
    settled = now - timedelta(seconds=SETTLE_SECONDS.number(least=0))
    usable, ignored = [], []
    for folder in folders:
        if not is_video_key(folder.name):
            ignored.append(
                f"The folder {folder.name!r} under {INPUT_PREFIX} is ignored: its name must consist of letters, "
                f"digits, '.', '_' and '-', begin with a letter or digit, and have 128 characters at most."
            )
        elif folder.overfull:
            ignored.append(f"{input_prefix(folder.name)} is ignored: it holds more than {len(folder.files)} files.")
        elif folder.newest <= settled:
            usable.append(folder)
    return usable, ignored


def _latest_versions(instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Sequence[str]) -> Mapping[str, str]:
    """For each key that has been materialized: the version of the input folder that its latest one was made of."""
    if not keys:
        return {}
    latest = instance.event_log_storage.get_latest_storage_id_by_partition(
        asset, dg.DagsterEventType.ASSET_MATERIALIZATION, set(keys)
    )
    versions: dict[str, str] = {}
    for start in range(0, len(latest), 20):
        ids = list(latest.values())[start : start + 20]
        fetched = instance.fetch_materializations(dg.AssetRecordsFilter(asset, storage_ids=ids), limit=len(ids))
        for record in fetched.records:
            materialization = record.asset_materialization
            if materialization is not None and materialization.partition is not None:
                version = materialization.metadata.get(INPUT_VERSION)
                versions[materialization.partition] = str(version.value) if version is not None else ""
    return versions


def _in_flight(instance: dg.DagsterInstance, keys: Sequence[str]) -> set[str]:
    """Those of `keys` for which a run that selects frames is queued or working."""
    if not keys:
        return set()
    runs = instance.get_runs(dg.RunsFilter(statuses=_LIVE, tags={"dagster/partition": list(keys)}))
    return {
        run.tags["dagster/partition"]
        for run in runs
        if run.job_name in _SELECTING or lightly_frames.key in (run.asset_selection or set())
    }


def _uploaded(bucket: VideoBucket, folder: VideoFolder) -> dg.AssetMaterialization:
    """The record that somebody else put this video there."""
    return dg.AssetMaterialization(
        s3_video_object.key,
        partition=folder.name,
        metadata={
            "dagster/uri": dg.MetadataValue.path(bucket.uri(input_prefix(folder.name))),
            "files": len(folder.files),
            "bytes": folder.size,
            "uploaded_by": "somebody else",
            INPUT_VERSION: folder.version,
        },
        tags={"dagster/data_version": folder.version},
    )
