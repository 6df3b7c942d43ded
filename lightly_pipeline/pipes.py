"""PipesSSMClient: the Dagster Pipes client over an EC2 instance and SSM Run Command.

dagster-aws has Pipes clients for ECS, EMR, Glue and Lambda; this is the one for a plain instance. What the
worker reports (log lines, progress, its materialization and check results) comes through S3 while it runs;
what it prints comes through SSM into the step's compute logs. Starting, leasing and stopping the instance is
`runner/`'s work. Dagster concept: Pipes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from dagster._annotations import public
from dagster._core.definitions.resource_annotation import TreatAsResourceParam
from dagster._core.pipes.client import PipesClientCompletedInvocation
from dagster._core.pipes.context import PipesMessageHandler, PipesSession
from dagster_pipes import PIPES_PROTOCOL_VERSION_FIELD, PipesExtras, PipesParams

from lightly_pipeline.runner import Attempt, CommandError, Finished, InstanceRunner, Job, RunnerError, Watcher
from lightly_pipeline.runner.aws import code_of, is_passing
from lightly_pipeline.runner.command import Sent, Stream
from lightly_pipeline.runner.logs import LiveOutput

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Context = dg.OpExecutionContext | dg.AssetExecutionContext

# Written before the wait for the command begins: how a restarted run, or one that replaces it, finds the
# command.
INSTANCE_TAG = "lightly/instance_id"
COMMAND_TAG = "lightly/ssm_command_id"
HOLDER_TAG = "lightly/holder"
_PARTITION_TAG = "dagster/partition"

_DEFAULT_TIMEOUT = 12 * 3600
# An observation is an event for good: progress is shown live, but not more often than this, in seconds.
_OBSERVE_EVERY = 5.0
# How long a run may take from its beginning to its step, downloading its video for one.
_ON_ITS_WAY = timedelta(minutes=10)


class PipesS3RunReader(dg.PipesMessageReader):
    """Reads the messages of one command from one S3 prefix, once a second, until the command has ended.

    Made for one run of one command: dagster-aws's reader keeps a counter, and loses every message when it is
    used twice. S3 is consistent, so once the command has ended all of its messages are there, and reading
    ends at the first that is missing, without waiting.
    """

    # One command writes here, and Dagster warns of its own preview property otherwise.
    expected_writer_count = 1

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        prefix: str,
        *,
        on_message: Any = None,
        interval: float = 1.0,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix.rstrip("/")
        self._on_message = on_message
        self._interval = interval
        self._next = 1
        self.refused: str | None = None

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        """Read in a thread while the block runs, and to the end when it is left."""
        ended = Event()
        thread = Thread(target=self._read, args=(handler, ended), name="pipes-messages", daemon=True)
        thread.start()
        try:
            yield {"bucket": self._bucket, "key_prefix": self._prefix}
        finally:
            ended.set()
            thread.join(timeout=60)

    def no_messages_debug_text(self) -> str:
        """What Dagster logs when nothing came."""
        return (
            f"Looked for messages in s3://{self._bucket}/{self._prefix}/. The command must open Dagster Pipes with "
            f"PipesS3MessageWriter, and its instance must be allowed to write there."
        )

    def _read(self, handler: PipesMessageHandler, ended: Event) -> None:
        try:
            failures = 0
            while True:
                last = ended.is_set()
                try:
                    self._drain(handler)
                    failures = 0
                    if last:
                        return
                except (ClientError, BotoCoreError) as error:
                    failures += 1
                    if not is_passing(error) or (last and failures >= 10):
                        raise
                    # The event is set by now, and would not wait.
                    time.sleep(self._interval if last else 0.0)
                ended.wait(self._interval)
        except Exception:
            handler.report_pipes_framework_exception(type(self).__name__, sys.exc_info())  # type: ignore[arg-type]

    def _drain(self, handler: PipesMessageHandler) -> None:
        while (chunk := self._chunk()) is not None:
            self._next += 1
            for line in chunk.splitlines():
                self._handle(handler, line)

    def _chunk(self) -> str | None:
        key = f"{self._prefix}/{self._next}.json"
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except (ClientError, BotoCoreError) as error:
            if code_of(error) in {"AccessDenied", "403"}:
                # Without s3:ListBucket S3 says "denied" of objects that are not there, too.
                self.refused = (
                    f"Not allowed to read s3://{self._bucket}/{key}: the worker's messages need "
                    f"s3:GetObject on the bucket's .lightly/ and s3:ListBucket on the bucket."
                )
                return None
            if code_of(error) in {"NoSuchKey", "404"}:
                return None
            raise
        return str(body.decode("utf-8", "replace"))

    def _handle(self, handler: PipesMessageHandler, line: str) -> None:
        try:
            message = json.loads(line)
        except json.JSONDecodeError:
            return
        if not isinstance(message, dict) or PIPES_PROTOCOL_VERSION_FIELD not in message:
            return
        if self._on_message is None or not self._on_message(message):
            handler.handle_message(message)  # type: ignore[arg-type]


class PipesSSMClient(dg.PipesClient, TreatAsResourceParam):
    """Runs a program on an instance of a runner's pool and reports its results.

    Args:
        runner: starts, leases and stops the instance, and sends the command.
        queue_linger_seconds: seconds for which the instance stays up for a next run, when runs of the same
        asset     are queued or on their way; 0 stops it even then.
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
            contain;     none may be a secret, as SSM's history shows them.
            timeout_seconds: 5 to 172800; the command is killed after that.
            environment: variables for the command; no secrets either.
            extras: passed to the worker through Pipes.

        Raises:
            dagster.Failure: the command failed, reported no materialization, or found no instance; its
            metadata     has instance, command and exit code, `allow_retries` says whether another try may
            help.
        """
        watcher = _PipesWatcher(context, self._runner, extras, self._queue_linger)
        job = _job(context, command, timeout_seconds, environment or {})
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
        self._tag({INSTANCE_TAG: instance_id, HOLDER_TAG: _holder(self._context)})

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
            context_injector=dg.PipesEnvContextInjector(),
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
        return self._queue_linger if self._queue_linger > 0 and _more_is_coming(self._context) else 0.0

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


def _holder(context: Context) -> str:
    """The name under which this try of this step holds leases."""
    step = context.get_step_execution_context().step.key
    return f"{context.run.run_id}/{step}/{context.retry_number}"


def _job(context: Context, command: Sequence[str], timeout: int, environment: Mapping[str, str]) -> Job:
    """The job, with what earlier tries of the same work left in run tags.

    Of this run, started again after a crash, or of the run that this one replaces, once that is over.
    """
    holder = _holder(context)
    earlier = context.instance.get_run_by_id(context.run.run_id)
    if earlier is not None and not _left_by(earlier, earlier.run_id) and earlier.parent_run_id:
        parent = context.instance.get_run_by_id(earlier.parent_run_id)
        same = parent is not None and parent.tags.get(_PARTITION_TAG) == earlier.tags.get(_PARTITION_TAG)
        earlier = parent if parent is not None and parent.is_finished and same else None
    # A run that was launched "again, with the same tags" carries another's: only a run's own say anything.
    known = earlier is not None and _left_by(earlier, earlier.run_id)
    tags = earlier.tags if earlier is not None and known else {}
    before = tags.get(HOLDER_TAG)
    return Job(
        holder=holder,
        argv=list(command),
        timeout=timeout,
        environment=environment,
        adopt=[before] if before and before != holder else [],
        instance_hint=tags.get(INSTANCE_TAG),
    )


def _left_by(run: dg.DagsterRun, run_id: str) -> bool:
    """Whether the run's tags name a holder of that very run."""
    return run.tags.get(HOLDER_TAG, "").startswith(f"{run_id}/")


def _more_is_coming(context: Context) -> bool:
    """Whether another run that materializes the same asset is queued or on its way.

    A queued run will come, however long it has waited. One that began a while ago holds or awaits an instance by now,
    or is dead: a host that died leaves runs "started" for ever.
    """
    wanted = set(context.selected_asset_keys) if context.has_assets_def else set()
    status = dg.DagsterRunStatus
    begun = dg.RunsFilter(
        statuses=[status.NOT_STARTED, status.STARTING, status.STARTED],
        updated_after=datetime.now(timezone.utc) - _ON_ITS_WAY,
    )
    recent = [
        *context.instance.get_runs(dg.RunsFilter(statuses=[status.QUEUED]), limit=100),
        *context.instance.get_runs(begun, limit=100),
    ]
    for run in recent:
        if run.run_id == context.run.run_id:
            continue
        same_job = not run.asset_selection and run.job_name == context.job_name
        if same_job or wanted & set(run.asset_selection or ()):
            return True
    return False


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
