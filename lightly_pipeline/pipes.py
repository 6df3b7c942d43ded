"""PipesSSMClient: the Dagster Pipes client over an EC2 instance and SSM Run Command.

dagster-aws has Pipes clients for ECS, EMR, Glue and Lambda; this is the one for a plain instance. What the
worker reports (log lines, progress, its materialization and check results) comes through S3 while it runs;
what it prints comes through SSM into the step's compute logs. Starting, leasing and stopping the instance is
`runner/`'s work. Dagster concept: Pipes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster._annotations import public
from dagster._core.definitions.resource_annotation import TreatAsResourceParam
from dagster._core.pipes.client import PipesClientCompletedInvocation
from dagster._core.pipes.context import PipesSession
from dagster_pipes import PipesExtras

from lightly_pipeline.pipes_messages import PipesS3RunContextInjector, PipesS3RunReader
from lightly_pipeline.pipes_runs import (
    COMMAND_TAG,
    HOLDER_TAG,
    INSTANCE_TAG,
    Context,
    holder_of,
    job_of,
    more_is_coming,
)
from lightly_pipeline.runner import Attempt, CommandError, Finished, InstanceRunner, RunnerError, Watcher
from lightly_pipeline.runner.command import Sent, Stream
from lightly_pipeline.runner.logs import LiveOutput

_DEFAULT_TIMEOUT = 12 * 3600
# An observation is an event for good: progress is shown live, but not more often than this, in seconds.
_OBSERVE_EVERY = 5.0


class PipesSSMClient(dg.PipesClient, TreatAsResourceParam):
    """Runs a program on an instance of a runner's pool and reports its results.

    Args:
        runner: starts, leases and stops the instance, and sends the command.
        queue_linger_seconds: seconds for which the instance stays up for a next run, when runs of the same asset
            are queued or on their way; 0 stops it even then.
    """

    def __init__(self, runner: InstanceRunner, *, queue_linger_seconds: float = 120.0) -> None:
        self._runner = runner
        self._queue_linger = queue_linger_seconds

    @public
    def run(  # type: ignore[override]
        self,
        *,
        context: Context,
        command: Sequence[str],
        timeout_seconds: int = _DEFAULT_TIMEOUT,
        environment: Mapping[str, str] | None = None,
        extras: PipesExtras | None = None,
    ) -> PipesClientCompletedInvocation:
        """Run `command` to its end on a leased instance; the instance is given back in every outcome.

        Args:
            context: the context of the asset or op.
            command: the program on the instance and its arguments. They reach it as they are, whatever they
                contain; none may be a secret, as SSM's history shows them. The program opens Pipes with
                PipesS3ContextLoader and PipesS3MessageWriter.
            timeout_seconds: 5 to 172800; the command is killed after that.
            environment: variables for the command; no secrets either.
            extras: passed to the worker through Pipes.

        Raises:
            dagster.Failure: the command failed, reported no materialization, or found no instance; its metadata
                has instance, command and exit code, `allow_retries` says whether another try may help.
        """
        watcher = _PipesWatcher(context, self._runner, extras, self._queue_linger)
        job = job_of(context, command, timeout_seconds, environment or {})
        try:
            finished = self._runner.run(job, watcher)
        except RunnerError as error:
            exit_code = error.exit_code if isinstance(error, CommandError) else None
            raise dg.Failure(
                str(error),
                metadata={
                    **watcher.metadata(),
                    "error": type(error).__name__,
                    **({"exit_code": exit_code} if exit_code is not None else {}),
                },
                allow_retries=error.transient,
            ) from error
        return PipesClientCompletedInvocation(
            watcher.reported(), metadata={**watcher.metadata(), **_measures(finished, self._runner)}
        )


class _PipesWatcher(Watcher):
    """The Dagster side of one job: a Pipes session for each attempt, run tags, logs, live progress."""

    def __init__(
        self, context: Context, runner: InstanceRunner, extras: PipesExtras | None, queue_linger: float
    ) -> None:
        super().__init__()
        self._context = context
        self._runner = runner
        self._clients = runner.commands.clients
        self._extras = extras
        self._queue_linger = queue_linger
        self._session: PipesSession | None = None
        self._reader: PipesS3RunReader | None = None
        self._live: LiveOutput | None = None
        self._observed = 0.0
        self._stage = ""
        self._instance_id: str | None = None
        self._sent: Sent | None = None
        self._prefix = ""

    def said(self, sentence: str) -> None:
        self._context.log.info(sentence)

    def chosen(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._tag({INSTANCE_TAG: instance_id, HOLDER_TAG: holder_of(self._context)})

    @contextmanager
    def attempt(self, attempt: Attempt) -> Iterator[Mapping[str, str]]:
        self._prefix = attempt.prefix
        self._reader = PipesS3RunReader(
            self._clients.s3,
            self._runner.store.bucket,
            f"{attempt.prefix}messages",
            on_message=self._on_message,
        )
        with dg.open_pipes_session(
            context=self._context,  # type: ignore[arg-type]
            context_injector=PipesS3RunContextInjector(
                self._clients.s3, self._runner.store.bucket, f"{attempt.prefix}context.json"
            ),
            message_reader=self._reader,
            extras=self._extras,
        ) as session:
            self._session = session
            yield session.get_bootstrap_env_vars()

    def sent(self, sent: Sent) -> None:
        self._sent = sent
        self._tag({COMMAND_TAG: sent.id})
        link = self._links()["command"].value
        self._context.log.info(f"Command {sent.id} runs on {sent.instance_id}: {link}")
        group = self._runner.commands.settings.log_group
        if group:
            self._live = LiveOutput(self._clients.logs(), group, sent, _print, monotonic=self._runner.clock.monotonic)

    def tick(self, sent: Sent) -> None:
        if self._live is not None:
            self._live.look()

    def linger(self) -> float:
        return self._queue_linger if self._queue_linger > 0 and more_is_coming(self._context) else 0.0

    def output(self, stream: Stream, text: Iterable[str]) -> None:
        target = sys.stdout if stream == "stdout" else sys.stderr
        for piece in self._live.rest(stream, text) if self._live is not None else text:
            target.write(piece)
        target.flush()

    def reported(self) -> PipesSession:
        """The session with the worker's results; Failure where it reported no materialization."""
        session = self._session
        results = session.get_reported_results() if session is not None else []
        if session is None or not any(isinstance(result, dg.MaterializeResult) for result in results):
            refused = self._reader.refused if self._reader is not None else None
            raise dg.Failure(
                refused
                or "The command ended well but reported no materialization through Dagster Pipes, so nothing "
                "says that it did its work: look at its output in the step's logs.",
                metadata=self.metadata(),
                allow_retries=False,
            )
        return session

    def metadata(self) -> dict[str, Any]:
        """What is known of instance and command, for the materialization or for the failure."""
        known: dict[str, Any] = {}
        if self._instance_id is not None:
            known["instance_id"] = self._instance_id
        if self._sent is not None:
            known["command_id"] = self._sent.id
            known["command_output"] = f"s3://{self._runner.store.bucket}/{self._prefix}output/"
        return {**known, **self._links()}

    def _links(self) -> dict[str, dg.UrlMetadataValue]:
        region = self._clients.region
        console = f"https://{region}.console.aws.amazon.com"
        links = {}
        if self._instance_id is not None:
            address = f"{console}/ec2/home?region={region}#InstanceDetails:instanceId={self._instance_id}"
            links["instance"] = dg.MetadataValue.url(address)
        if self._sent is not None:
            place = f"{self._sent.id}/{self._sent.instance_id}"
            address = f"{console}/systems-manager/run-command/{place}?region={region}"
            links["command"] = dg.MetadataValue.url(address)
        return links

    def _tag(self, tags: dict[str, str]) -> None:
        self._context.instance.add_run_tags(self._context.run.run_id, tags)

    def _on_message(self, message: dict[str, Any]) -> bool:
        """Look at a message before Dagster does, in the reader's thread; True if it is dealt with."""
        if message.get("method") == "closed":
            # The worker is done: ask SSM now, not at the next turn.
            self.woken.set()
        payload = (message.get("params") or {}).get("payload")
        if message.get("method") != "report_custom_message" or not isinstance(payload, dict):
            return False
        if payload.get("event") != "progress":
            return False
        stage, now = str(payload.get("stage", "")), time.monotonic()
        if stage != self._stage or now - self._observed >= _OBSERVE_EVERY:
            self._stage, self._observed = stage, now
            self._observe({name: value for name, value in payload.items() if name != "event"})
        return True

    def _observe(self, progress: Mapping[str, Any]) -> None:
        context = self._context
        known = {name: value for name, value in progress.items() if isinstance(value, str | int | float)}
        for key in context.selected_asset_keys if context.has_assets_def else ():
            partition = context.partition_key if context.has_partition_key else None
            context.log_event(dg.AssetObservation(asset_key=key, partition=partition, metadata=known))


def _measures(finished: Finished, runner: InstanceRunner) -> dict[str, Any]:
    """Numbers that Dagster can plot over the runs."""
    measures: dict[str, Any] = {
        "command_seconds": round(finished.command_seconds, 1),
        "instance_billed_seconds": round(finished.billed_seconds, 1),
        "instance_starts": finished.starts,
        "instance_attempts": finished.attempts,
    }
    price = runner.settings.price
    if finished.cost is not None and price is not None:
        measures["instance_cost_usd"] = round(finished.cost, 6)
        measures["instance_price_usd_per_hour"] = price.per_hour
        if price.source:
            measures["instance_price_source"] = price.source
    return measures


def _print(stream: Stream, line: str) -> None:
    print(line, file=sys.stdout if stream == "stdout" else sys.stderr, flush=True)
