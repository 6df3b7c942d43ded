"""SIGKILL of the step's process, or of the run worker above it, at each point of a run.

A dead step's instance is stopped by the sensor once its lease is over; an orphaned step stops its own.
"""

import pytest

from lightly_pipeline_tests.faults.points import POINTS, WORK, standing_at

QUICK_CELLS = {"running"}
CELLS = [pytest.param(point, id=point, marks=() if point in QUICK_CELLS else pytest.mark.long) for point in POINTS]


@pytest.mark.parametrize("point", CELLS)
def test_the_sensor_stops_what_a_killed_step_left_behind(case, run_worker, point):
    with standing_at(case, point, lost=True) as stand:
        run_worker.begin(case)
        stand.reached()
        case.step_process().kill()
        stand.pass_on()
        run_worker.end(case, well=False)
    # Its stated time: the lease (or the closed door) runs out, then the next tick.
    case.recover(case.runner["lease_seconds"])
    case.at_rest(work=WORK[point], begun=0 if point in POINTS[:3] else 1, run="FAILURE")


@pytest.mark.long
def test_a_job_outlives_its_step_and_its_work_is_not_done_twice(case, run_worker):
    """Whoever runs the partition again after the crash gets the work of the orphan."""
    with standing_at(case, "running", lost=True) as stand:
        run_worker.begin(case)
        stand.reached()
        case.step_process().kill()
        run_worker.end(case, well=False)
    case.go()
    run_worker.succeeds(case)
    case.recover(case.runner["lease_seconds"])
    case.at_rest(work="once", begun=(1, 2), run="SUCCESS")


@pytest.mark.long
def test_a_command_that_was_sent_when_its_step_was_killed_ends_with_the_instance(case, run_worker):
    """Killed between SendCommand's effect and its answer: no process knows the command's id."""
    case.plan({"wait": True})
    with case.faults.hold("ssm:SendCommand", answer=True) as held:
        run_worker.begin(case)
        held.wait(120)
        case.until("the job runs", lambda: case.ledger("begin"))
        case.step_process().kill()
        held.let_go()
        run_worker.end(case, well=False)
    case.recover(case.runner["lease_seconds"])
    case.at_rest(work="none", begun=1, run="FAILURE")


@pytest.mark.parametrize("point", [pytest.param(point, id=point, marks=pytest.mark.long) for point in POINTS])
def test_a_step_whose_run_worker_was_killed_ends_its_work_and_gives_the_instance_back(case, point):
    """Dagster leaves the step behind as an orphan that works on."""
    with standing_at(case, point, lost=False) as stand, case.typed() as process:
        stand.reached()
        case.step_process()
        process.kill()
        process.wait()
        case.go()
        stand.pass_on()
        case.until("the orphan has ended", lambda: not case.processes())
    case.at_rest(work="once", begun=1)
