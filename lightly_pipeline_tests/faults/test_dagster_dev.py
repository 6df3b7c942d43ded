"""The same five points under `dagster dev`: Terminate in the UI, a killed run worker, and all of it killed at once."""

import json
import os
import signal
import socket
import urllib.error
import urllib.request

import psutil
import pytest

from lightly_pipeline_tests.faults.case import MARK
from lightly_pipeline_tests.faults.points import POINTS, WORK, standing_at

pytestmark = pytest.mark.timeout(600)
_LAUNCH = """
mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
_TERMINATE = """
mutation($run: String!) { terminateRun(runId: $run) { __typename ... on TerminateRunFailure { message } } }"""
_REEXECUTE = """
mutation($params: ReexecutionParams!) {
  launchPipelineReexecution(reexecutionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""


class Dev:
    """`dagster dev` on a port of its own: web server, daemon and code server; started again after a kill."""

    def __init__(self, world):
        self.world = world
        self._process = None
        self._mark = ""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def up(self, case):
        """Have it running."""
        if self._process is None:
            self._mark = case.dev_mark
            with (self.world.home.parent / "dev.log").open("a") as log:
                self._process = self.world.start(
                    *("dagster", "dev", "-m", "lightly_pipeline", "-h", "127.0.0.1", "-p", str(self.port)),
                    stdout=log,
                    env={**self.world.environment, MARK: case.dev_mark},
                )
            case.until("the web server answers", lambda: self._ask("{ version }"), timeout=180, pause=0.5)
            case.until("the code is loaded", self._location, timeout=120, pause=0.5)
        return self

    @property
    def is_up(self):
        return self._process is not None

    def launch(self, case):
        """Launch the case's run, as the UI does; its id."""
        params = {
            "selector": {
                "repositoryLocationName": self._location(),
                "repositoryName": "__repository__",
                "jobName": "select_frames",
            },
            "runConfigData": case.config,
            "mode": "default",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": case.key}]},
        }
        answer = self._ask(_LAUNCH, params=params)["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def terminate(self, run_id):
        """Press Terminate."""
        answer = self._ask(_TERMINATE, run=run_id)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def reexecute(self, run_id):
        """Press Re-execute (from failure); the new run's id."""
        params = {"parentRunId": run_id, "strategy": "FROM_FAILURE"}
        answer = self._ask(_REEXECUTE, params=params)["launchPipelineReexecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def kill(self):
        """SIGKILL to every process of it, run workers and steps included."""
        for process in self.processes():
            process.kill()
        self._process.wait()
        self._process = None

    def processes(self):
        """All that belongs to it, also what has been orphaned."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self):
        """End it as Ctrl-C does, and what does not end by that."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGINT)
            psutil.wait_procs(self.processes(), timeout=20)
            self.kill()

    def _location(self):
        answer = self._ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name } } } } }")
        nodes = (answer or {}).get("repositoriesOrError", {}).get("nodes", [])
        return nodes[0]["location"]["name"] if nodes else None

    def _ask(self, query, **variables):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        except OSError:
            # It does not listen yet.
            return None


@pytest.fixture(scope="module")
def opened(world):
    dev = Dev(world)
    yield dev
    dev.close()


@pytest.fixture
def dev(opened, case):
    yield opened.up(case)
    if case.processes() and opened.is_up:
        opened.terminate(case.run().run_id)
        case.until("a run that a failed case left is ended", lambda: not case.processes())


def ended(case, status):
    case.until(f"the run is {status}", lambda: case.run().status.value == status, timeout=120, pause=0.3)


def cells(*quick):
    return [pytest.param(point, id=point, marks=() if point in quick else pytest.mark.long) for point in POINTS]


@pytest.mark.parametrize("point", cells())
def test_terminate_in_the_ui_leaves_no_instance_running(case, dev, point):
    with standing_at(case, point, lost=point != "releasing") as stand:
        run_id = dev.launch(case)
        stand.reached()
        dev.terminate(run_id)
        if point == "releasing":
            stand.pass_on()
        ended(case, "CANCELED")
        stand.pass_on()
    case.at_rest(work=WORK[point], begun=0 if point in POINTS[:3] else 1, run="CANCELED")


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_a_step_whose_run_worker_was_killed_works_on_and_gives_the_instance_back(case, dev, point):
    """Dagster marks the run as failed while the orphaned step works on."""
    with standing_at(case, point, lost=False) as stand:
        dev.launch(case)
        stand.reached()
        case.step_process().parent().kill()
        case.go()
        stand.pass_on()
    case.until("the orphan has done its work", lambda: case.ledger("end"))
    case.until("the instance is stopped", case.all_down)
    ended(case, "FAILURE")
    case.at_rest(work="once", begun=1, run="FAILURE")


@pytest.mark.long
def test_a_run_that_is_executed_again_follows_the_command_of_the_killed_one(case, dev):
    """Re-execute in the UI, while the job of the killed step still runs: nothing is sent a second time."""
    # Long enough for the daemon's sensor, which would otherwise end what the dead run has left.
    case.runner["lease_seconds"] = 240
    with standing_at(case, "running", lost=False) as stand:
        run_id = dev.launch(case)
        stand.reached()
        case.step_process().kill()
        ended(case, "FAILURE")
        dev.reexecute(run_id)
        case.until(
            "the new run follows the command",
            lambda: any("still under way" in event for event in case.events()),
            timeout=90,
        )
        case.go()
        ended(case, "SUCCESS")
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.parametrize("point", cells())
def test_dagster_dev_stops_what_it_left_when_all_of_it_was_killed(case, dev, point):
    """Started again, the daemon's sensor finds the instance that no living run holds."""
    with standing_at(case, point, lost=True) as stand:
        dev.launch(case)
        stand.reached()
        dev.kill()
        stand.pass_on()
    case.until("the dead lease is over", lambda: not case.live_leases(), timeout=case.runner["lease_seconds"] + 5)
    dev.up(case)
    case.until("the daemon's sensor has cleared up", case.cleared_up, timeout=120, pause=0.5)
    case.at_rest(work=WORK[point], begun=0 if point in POINTS[:3] else 1)
