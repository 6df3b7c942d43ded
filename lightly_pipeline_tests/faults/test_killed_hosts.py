"""SIGKILL of all of Dagster at once, at each point of a run: nothing but the instance itself is left to stop it."""

from dataclasses import replace

import psutil
import pytest

from lightly_pipeline.sandbox import SandboxTimings
from lightly_pipeline_tests.faults.points import POINTS, standing_at

GRACE, INTERVAL = 8, 1


@pytest.fixture(scope="module")
def timings():
    """The instance's own watchdog looks every second and switches off after eight without a job."""
    return replace(SandboxTimings.fast(), watchdog=INTERVAL, idle_grace=GRACE)


def cells(*quick):
    return [pytest.param(point, id=point, marks=() if point in quick else pytest.mark.long) for point in POINTS]


@pytest.mark.parametrize("point", cells("running"))
def test_the_watchdog_stops_the_instance_when_all_of_dagster_was_killed(case, run_worker, point):
    """A job that runs is done first."""
    with standing_at(case, point, lost=True) as stand:
        run_worker.begin(case)
        stand.reached()
        for process in (*psutil.Process(run_worker.process.pid).children(recursive=True), run_worker.process):
            process.kill()
        run_worker.process_died()
        case.go()
        stand.pass_on()
    done = point in ("running", "releasing")
    if done:
        case.until("the job ends", lambda: case.ledger("end"))
    case.until("the watchdog stops the instance", case.all_down, GRACE + INTERVAL + 30)
    case.recover(case.runner["lease_seconds"])
    case.at_rest(work="once" if done else "none", begun=1 if done else 0)
