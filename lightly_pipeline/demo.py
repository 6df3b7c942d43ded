"""`lightly-pipeline demo`: the whole pipeline on one video after the other, told as it happens.

It launches real Dagster runs of the job `lightly_pipeline` on the instance in DAGSTER_HOME, prints what their event
log says, and copies the results out of the bucket. It knows nothing of the sandbox: that is only where it usually runs.
"""

import contextlib
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import click
import dagster as dg

from lightly_pipeline.pexels import PexelsVideo
from lightly_pipeline.resources.pexels import PexelsResource
from lightly_pipeline.resources.s3 import BucketResource
from lightly_pipeline.videos import manifest_key, output_prefix, pexels_key

_DEMO_TAG = "lightly_pipeline/demo"
_POLL_SECONDS = 0.3
DAGSTER_JOB_EXECUTE = (
    *(sys.executable, "-m", "dagster", "job", "execute"),
    *("-m", "lightly_pipeline", "-j", "lightly_pipeline"),
)


@dataclass(frozen=True)
class Outcome:
    """What came of one video: the folder with its results, or the sentence that says why there is none."""

    key: str
    title: str
    seconds: float
    folder: Path | None = None
    counts: dict[str, Any] | None = None
    failure: str | None = None


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
    story = _Story(instance)
    log = Path(instance.root_directory) / f"demo-{key}.log"
    code = _follow(_launch(key, story.mark, log), story)
    seconds = time.monotonic() - started
    if code != 0:
        return Outcome(key, title(video), seconds, failure=story.failure or f"The run failed: see {log}, or the UI.")
    log.unlink()
    folder = copy_results(key, output)
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    return Outcome(key, title(video), seconds, folder=folder, counts=counts)


def title(video: PexelsVideo) -> str:
    """What a video is called in the address of its page: of a user's own, its file's name without signs."""
    return PurePosixPath(urlsplit(video.url).path).name.removesuffix(f"-{video.id}")


def _launch(key: str, mark: str, log: Path) -> subprocess.Popen[bytes]:
    """Start the run as Dagster's own command would; what it prints goes to a file, as the event log says it better."""
    tags = json.dumps({"dagster/partition": key, _DEMO_TAG: mark})
    command = [*DAGSTER_JOB_EXECUTE, "--tags", tags]
    with log.open("wb") as printed:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT)


def _follow(run: "subprocess.Popen[bytes]", story: "_Story") -> int:
    """Tell the story until the run's process has ended; its exit code."""
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = run.wait(_POLL_SECONDS)
                story.go_on()
                return code
            story.go_on()
    except KeyboardInterrupt:
        # Ctrl-C reached the run as well: it is giving its instance back, which a second one must not cut short.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        click.echo("  Interrupted: waiting until the instance is given back.", err=True)
        run.wait()
        raise
    except BaseException:
        run.terminate()
        run.wait()
        raise


def copy_results(key: str, output: Path) -> Path:
    """Copy what was selected from `key` out of the bucket to `output/<key>`; the folder appears when it is whole."""
    bucket = BucketResource().open()
    folder, arriving = output / key, output / f".{key}.arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    for file in bucket.list(output_prefix(key)):
        target = (arriving / file.key.removeprefix(output_prefix(key))).resolve()
        if not target.is_relative_to(arriving.resolve()):
            raise click.ClickException(f"{bucket.uri(file.key)} would be written outside of {folder}: remove it.")
        bucket.download(file.key, target)
    if not (arriving / "manifest.json").exists():
        raise click.ClickException(f"{bucket.uri(manifest_key(key))} is missing: run the selection again.")
    # Out of the way in one step, so that there is never half of the one and half of the other.
    leaving = output / f".{key}.leaving"
    shutil.rmtree(leaving, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(leaving)
    arriving.rename(folder)
    shutil.rmtree(leaving, ignore_errors=True)
    return folder


class _Story:
    """Prints a run's events as they come; remembers the sentence that it failed with."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.mark = uuid.uuid4().hex
        self.failure: str | None = None
        self._instance = instance
        self._run_id: str | None = None
        self._cursor: str | None = None

    def go_on(self) -> None:
        """Print what has happened since the last time."""
        if self._run_id is None:
            runs = self._instance.get_run_records(dg.RunsFilter(tags={_DEMO_TAG: self.mark}), limit=1)
            self._run_id = runs[0].dagster_run.run_id if runs else None
        while self._run_id is not None:
            page = self._instance.get_records_for_run(self._run_id, self._cursor)
            for record in page.records:
                self._tell(record.event_log_entry)
            self._cursor = page.cursor
            if not page.has_more:
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
            seen = event.asset_observation_data.asset_observation.metadata
            progress = {name: value.value for name, value in seen.items()}
            if "done" in progress:
                click.echo(f"{step} {progress.get('stage')}: {progress['done']} of {progress.get('total') or '?'}")
        elif event.is_step_materialization:
            click.echo(f"{step} materialized")
        elif event.is_step_failure:
            self.failure = _sentence(event.step_failure_data)
            click.echo(f"{step} failed")


def _sentence(failure: Any) -> str:
    """What a step failed with: the description of its dg.Failure, or else the innermost error's message."""
    if failure.user_failure_data and failure.user_failure_data.description:
        return str(failure.user_failure_data.description)
    error = failure.error
    while error.cause:
        error = error.cause
    return str(error.message).strip()
