"""PipesSSMClient against the sandbox: real Dagster runs, real commands, what the event log then says."""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import dagster as dg
import pytest
from click.testing import CliRunner

from lightly_pipeline.automation.release_expired_instances import release_expired_instances
from lightly_pipeline.cli_instances import instances
from lightly_pipeline.pipes import PipesSSMClient
from lightly_pipeline.pipes_runs import COMMAND_TAG, HOLDER_TAG, INSTANCE_TAG
from lightly_pipeline.resources.runner import RunnerResource
from lightly_pipeline.runner.record import Lease, Record

_WORKER = """
import json, sys, time
from io import StringIO
import boto3
from dagster_pipes import (
    PipesS3ContextLoader, PipesS3MessageWriter, PipesS3MessageWriterChannel, open_dagster_pipes
)

class Channel(PipesS3MessageWriterChannel):
    # The last chunk leaves when the session closes, not some seconds later.
    def _upload_loop(self, is_session_closed):
        while not is_session_closed.wait(0.3) or not self._buffer.empty():
            if messages := self.flush_messages():
                self.upload_messages_chunk(StringIO("\\n".join(map(json.dumps, messages))), self._counter)
                self._counter += 1

class Writer(PipesS3MessageWriter):
    def make_channel(self, params):
        return Channel(client=s3, bucket=params["bucket"], key_prefix=params["key_prefix"], interval=1)

print("printed by the worker:", sys.argv[1:])
print("and to stderr", file=sys.stderr)
s3 = boto3.client("s3")
writer = PipesS3MessageWriter if "dagster's own writer" in sys.argv else Writer
with open_dagster_pipes(context_loader=PipesS3ContextLoader(s3), message_writer=writer(s3, interval=1)) as pipes:
    pipes.log.info("logged by the worker")
    for stage in ("scan", "select"):
        pipes.report_custom_message({"event": "progress", "stage": stage, "done": 1, "total": 2})
    pipes.report_custom_message({"event": "something else"})
    if "crash" in sys.argv:
        raise SystemExit(3)
    if "nothing" not in sys.argv:
        pipes.report_asset_materialization(metadata={"frames": 3}, data_version="v1")
        pipes.report_asset_check("good", passed=True)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    path = tmp_path / "a worker.py"
    path.write_text(textwrap.dedent(_WORKER))
    return path


class _Case:
    """One asset over the sandbox's instance, and runs of it."""

    def __init__(self, worker: Path, log_group: str | None = None) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.invocations: list[Any] = []
        self._worker = worker

        @dg.asset(
            partitions_def=dg.StaticPartitionsDefinition(["a", "b"]),
            check_specs=[dg.AssetCheckSpec("good", asset="thing")],
        )
        def thing(context: dg.AssetExecutionContext, runner: RunnerResource):  # type: ignore[no-untyped-def]
            arguments = context.run.tags.get("arguments", "").split("|")
            client = PipesSSMClient(runner.open(), queue_linger_seconds=0)
            invocation = client.run(
                context=context,
                command=[sys.executable, str(self._worker), context.partition_key, *arguments],
                timeout_seconds=60,
            )
            self.invocations.append(invocation)
            return invocation.get_materialize_result(implicit_materialization=False)

        self.thing = thing
        self.runner = RunnerResource(price_per_hour_usd=0.6, price_source="a page", log_group=log_group)

    def run(self, partition: str = "a", *arguments: str) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [self.thing],
            resources={"runner": self.runner},
            partition_key=partition,
            instance=self.instance,
            tags={"arguments": "|".join(arguments)},
            raise_on_error=False,
        )

    def events(self, run: dg.ExecuteInProcessResult, kind: str) -> list[Any]:
        entries = self.instance.all_logs(run.run_id)
        return [e.dagster_event for e in entries if e.dagster_event and e.dagster_event.event_type_value == kind]

    def logged(self, run: dg.ExecuteInProcessResult) -> str:
        return "\n".join(entry.user_message for entry in self.instance.all_logs(run.run_id))


def _at_rest(environment: dict[str, str]) -> None:
    runner = RunnerResource().open()
    for status in runner.status():
        assert status.seen.state in ("stopping", "stopped")
        assert not status.record.leases
        assert status.record.door is None
    assert environment["LIGHTLY_INSTANCES"]


def test_what_the_worker_reports_is_in_the_event_log_and_on_the_materialization(
    sandbox_environment: dict[str, str], worker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = _Case(worker)
    odd = "two words;$(touch hacked)'\"{{ssm:token}}"
    run = case.run("a", odd)
    assert run.success
    (materialization,) = run.asset_materializations_for_node("thing")
    said = {name: value.value for name, value in materialization.metadata.items()}
    assert said["frames"] == 3
    assert said["instance_id"] == sandbox_environment["LIGHTLY_INSTANCES"].split(",")[0]
    assert said["instance_starts"] == 1
    assert said["instance_billed_seconds"] >= 60
    assert said["instance_cost_usd"] == pytest.approx(said["instance_billed_seconds"] * 0.6 / 3600, abs=1e-5)
    assert said["instance_price_source"] == "a page"
    assert said["command_id"] in said["command"]
    assert materialization.tags["dagster/data_version"] == "v1"
    assert [check.passed for check in run.get_asset_check_evaluations()] == [True]
    observations = case.events(run, "ASSET_OBSERVATION")
    stages = [event.asset_observation_data.asset_observation.metadata["stage"].value for event in observations]
    assert stages == ["scan", "select"]
    assert {event.asset_observation_data.asset_observation.partition for event in observations} == {"a"}
    assert "logged by the worker" in case.logged(run)
    assert list(case.invocations[0].get_custom_messages()) == [{"event": "something else"}]
    tags = case.instance.get_run_by_id(run.run_id).tags
    assert tags[INSTANCE_TAG] == said["instance_id"]
    assert tags[COMMAND_TAG] == said["command_id"]
    assert tags[HOLDER_TAG] == f"{run.run_id}/thing/0"
    place = urlsplit(said["command_output"])
    context = {"Bucket": place.netloc, "Key": place.path.strip("/").removesuffix("output") + "context.json"}
    clients = RunnerResource().open().commands.clients
    assert json.load(clients.s3.get_object(**context)["Body"])["run_id"] == run.run_id
    printed = capfd.readouterr()
    assert f"printed by the worker: {['a', odd]}" in printed.out
    assert "and to stderr" in printed.err
    _at_rest(sandbox_environment)


def test_two_partitions_in_one_process_both_get_their_messages(
    sandbox_environment: dict[str, str], worker: Path
) -> None:
    """A message reader that is used twice loses every message of the second step, and nothing says so."""
    case = _Case(worker)
    for partition, argument in (("a", ""), ("b", "dagster's own writer")):
        run = case.run(partition, argument)
        assert run.success
        assert run.asset_materializations_for_node("thing")[0].metadata["frames"].value == 3
    _at_rest(sandbox_environment)


def test_a_worker_that_reports_nothing_has_not_succeeded(sandbox_environment: dict[str, str], worker: Path) -> None:
    run = _Case(worker).run("a", "nothing")
    assert not run.success
    failure = run.failure_data_for_node("thing")
    assert failure is not None
    assert "reported no materialization" in failure.user_failure_data.description
    _at_rest(sandbox_environment)


def test_a_worker_that_fails_is_a_failure_with_its_exit_code_and_last_lines(
    sandbox_environment: dict[str, str], worker: Path
) -> None:
    run = _Case(worker).run("a", "crash")
    assert not run.success
    failure = run.failure_data_for_node("thing").user_failure_data
    assert "exit code 3" in failure.description
    assert "and to stderr" in failure.description
    assert failure.metadata["exit_code"].value == 3
    assert failure.metadata["instance_id"].value in sandbox_environment["LIGHTLY_INSTANCES"]
    _at_rest(sandbox_environment)


def test_output_that_cloudwatch_has_shown_is_not_shown_again(
    sandbox_environment: dict[str, str], worker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    boto3.client("logs").create_log_group(logGroupName="/lightly/commands")
    slow = worker.with_name("slow.py")
    slow.write_text(worker.read_text().replace("with open", "sys.stdout.flush(); time.sleep(2.5)\nwith open"))
    assert _Case(slow, log_group="/lightly/commands").run().success
    assert capfd.readouterr().out.count("printed by the worker") == 1
    _at_rest(sandbox_environment)


def test_a_bucket_that_cannot_be_read_is_named_and_no_instance_is_started(
    sandbox_environment: dict[str, str], sandbox: Any, worker: Path
) -> None:
    case = _Case(worker)
    case.runner = RunnerResource(bucket="somebody-elses")
    run = case.run()
    assert not run.success
    description = run.failure_data_for_node("thing").user_failure_data.description
    assert "s3://somebody-elses/.lightly/instances/" in description
    _at_rest(sandbox_environment)


def test_the_instances_command_shows_who_holds_what_and_ends_it(sandbox_environment: dict[str, str]) -> None:
    from lightly_pipeline.runner import Job, Watcher
    from lightly_pipeline.runner.interrupts import InterruptGate

    shell = CliRunner()
    runner = RunnerResource().open()
    hold = runner._hold(Job("dead/step/0", ["x"], 60), Watcher(), InterruptGate())
    instance_id = hold.acquire().id
    shown = shell.invoke(instances, [])
    assert shown.exit_code == 0, shown.output
    assert instance_id in shown.output
    assert "dead/step/0 (job since" in shown.output
    refused = shell.invoke(instances, ["--stop", instance_id], input="n\n")
    assert refused.exit_code == 1
    assert "works for dead/step/0" in refused.output
    ended = shell.invoke(instances, ["--release", "dead/step/0"])
    assert "Released dead/step/0" in ended.output
    assert shell.invoke(instances, ["--release", "nobody"]).exit_code == 1
    _at_rest(sandbox_environment)


def test_the_sensor_stops_what_a_dead_holder_has_left_running(sandbox_environment: dict[str, str]) -> None:
    runner = RunnerResource().open()
    instance_id = sandbox_environment["LIGHTLY_INSTANCES"].split(",")[0]
    runner.instances.start(instance_id)
    dead = Record({"dead/step/0": Lease("job", since=1.0, expires=2.0)})
    boto3.client("s3").put_object(
        Bucket=sandbox_environment["LIGHTLY_BUCKET"], Key=runner.store.key(instance_id), Body=dead.to_json().encode()
    )

    def tick() -> str:
        with (
            dg.DagsterInstance.ephemeral() as instance,
            dg.build_sensor_context(instance, resources={"runner": RunnerResource()}) as context,
        ):
            answer = release_expired_instances(context)
        assert isinstance(answer, dg.SkipReason)
        return answer.skip_message or ""

    assert "its last lease (dead/step/0) has expired" in tick()
    assert tick() == "No instance runs without a lease."
    _at_rest(sandbox_environment)


def test_tags_that_were_copied_from_another_run_say_nothing_about_this_one(
    sandbox_environment: dict[str, str], worker: Path
) -> None:
    """Launching a run "again" for another partition copies its tags: it must not follow the other one's command."""
    case = _Case(worker)
    run = dg.materialize(
        [case.thing],
        resources={"runner": case.runner},
        partition_key="b",
        instance=case.instance,
        tags={HOLDER_TAG: "somebody/thing/0", INSTANCE_TAG: "i-0123456789abcdef0", COMMAND_TAG: "a-command"},
    )
    assert run.success
    assert case.instance.get_run_by_id(run.run_id).tags[HOLDER_TAG] == f"{run.run_id}/thing/0"
    _at_rest(sandbox_environment)
