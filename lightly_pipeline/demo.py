"""`lightly-pipeline demo`: the whole pipeline on one video after the other, told as it happens.

It launches real Dagster runs of the job `lightly_pipeline` on the instance in DAGSTER_HOME, prints what their event
log says, and copies the results out of the bucket. It knows nothing of the sandbox: that is only where it usually runs.
"""

import json
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dagster as dg

from lightly_pipeline.definitions import defs
from lightly_pipeline.pexels import PexelsVideo
from lightly_pipeline.resources.pexels import PexelsResource
from lightly_pipeline.resources.s3 import BucketResource
from lightly_pipeline.videos import manifest_key, output_prefix, pexels_key, register_videos

_DEMO_TAG = "lightly_pipeline/demo"
_POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Outcome:
    """What came of one video: the folder with its results, or the sentence that says why there is none."""

    key: str
    title: str
    seconds: float
    folder: Path | None = None
    counts: dict[str, Any] | None = None
    failure: str | None = None


def pipeline_job() -> dg.JobDefinition:
    """The job `lightly_pipeline`, for step processes to find it again."""
    return defs.resolve_job_def("lightly_pipeline")


def offered_videos(pexels: PexelsResource) -> Iterator[PexelsVideo]:
    """All popular videos, page by page."""
    client = pexels.open().client
    page = 1
    while True:
        answer = client.popular(page=page, per_page=80)
        yield from answer.videos
        if not answer.has_next:
            return
        page += 1


def choose(instance: dg.DagsterInstance, offered: Sequence[PexelsVideo], count: int) -> list[PexelsVideo]:
    """The first `count` videos whose frames have not been selected yet; from the start when all have been."""
    done = instance.get_materialized_partitions(dg.AssetKey("lightly_frames"))
    fresh = [video for video in offered if pexels_key(video.id) not in done]
    return (fresh or list(offered))[:count]


def run_one(instance: dg.DagsterInstance, video: PexelsVideo, output: Path) -> Outcome:
    """Run the pipeline for one video, printing its progress, and copy the results to `output/<key>/`."""
    key, started = pexels_key(video.id), time.monotonic()
    register_videos(instance, [key])
    mark = uuid.uuid4().hex
    story = _Story(instance, mark)
    with story:
        result = dg.execute_job(
            dg.reconstructable(pipeline_job),
            instance=instance,
            tags={"dagster/partition": key, _DEMO_TAG: mark},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    seconds = time.monotonic() - started
    if not result.success:
        return Outcome(key, video.url, seconds, failure=story.failure or "The run failed: see it in the UI.")
    folder = copy_results(key, output)
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    return Outcome(key, video.url, seconds, folder=folder, counts=counts)


def copy_results(key: str, output: Path) -> Path:
    """Copy what was selected from `key` out of the bucket to `output/<key>`; the folder appears when it is whole."""
    bucket = BucketResource().open()
    folder, arriving = output / key, output / f".{key}.arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    for file in bucket.list(output_prefix(key)):
        target = (arriving / file.key.removeprefix(output_prefix(key))).resolve()
        if not target.is_relative_to(arriving.resolve()):
            raise click.ClickException(
                f"{bucket.uri(file.key)} would be written outside of {folder}: remove it."
            )
        bucket.download(file.key, target)
    if not (arriving / "manifest.json").exists():
        raise click.ClickException(f"{bucket.uri(manifest_key(key))} is missing: run the selection again.")
    shutil.rmtree(folder, ignore_errors=True)
    arriving.rename(folder)
    return folder


class _Story:
    """Prints a run's events while it runs; remembers the sentence that it failed with."""

    def __init__(self, instance: dg.DagsterInstance, mark: str) -> None:
        self.failure: str | None = None
        self._instance = instance
        self._mark = mark
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="story", daemon=True)

    def __enter__(self) -> "_Story":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        run_id: str | None = None
        cursor: str | None = None
        while True:
            last = self._ended.wait(_POLL_SECONDS)
            if run_id is None:
                runs = self._instance.get_run_records(dg.RunsFilter(tags={_DEMO_TAG: self._mark}), limit=1)
                run_id = runs[0].dagster_run.run_id if runs else None
            while run_id is not None:
                page = self._instance.get_records_for_run(run_id, cursor)
                for record in page.records:
                    self._tell(record.event_log_entry)
                cursor = page.cursor
                if not page.has_more:
                    break
            if last:
                return

    def _tell(self, entry: dg.EventLogEntry) -> None:
        event = entry.dagster_event
        step = f"  {entry.step_key or '':<16}"
        if event is None:
            if int(entry.level) >= logging.INFO and entry.step_key:
                click.echo(f"{step} {entry.user_message}")
        elif event.is_step_start:
            click.echo(f"{step} started")
        elif event.is_asset_observation:
            progress = {
                name: value.value
                for name, value in event.asset_observation_data.asset_observation.metadata.items()
            }
            if "done" in progress:
                click.echo(
                    f"{step} {progress.get('stage', '')}: {progress['done']} of {progress.get('total') or '?'}"
                )
        elif event.is_step_materialization:
            click.echo(f"{step} materialized")
        elif event.is_step_failure:
            error = event.step_failure_data.user_failure_data
            cause = event.step_failure_data.error
            self.failure = (error.description if error else None) or (
                cause.message.strip() if cause else None
            )
            click.echo(f"{step} failed: {self.failure}")
