"""Ctrl-C and SIGTERM on the command line, at each point of a run: the run's own end stops the instance, at once."""

import os
import signal
import time

import pytest

from lightly_pipeline_tests.faults.points import POINTS, WORK, standing_at

# Dagster forwards what reaches the process group, so that the step hears even a single Ctrl-C twice.
BETWEEN_TWO = 0.012


def ctrl_c(process):
    os.killpg(process.pid, signal.SIGINT)


def ctrl_c_twice(process):
    ctrl_c(process)
    time.sleep(BETWEEN_TWO)
    ctrl_c(process)


def sigterm(process):
    process.send_signal(signal.SIGTERM)


# Each cell costs a start of Dagster: `make test` takes the one in which everything can go wrong at once:
# EC2 refuses to stop what is still pending, and the second interrupt arrives meanwhile.
QUICK_CELLS = {(ctrl_c_twice, "pending")}
CELLS = [
    pytest.param(strike, point, id=f"{strike.__name__}-{point}", marks=() if quick else pytest.mark.long)
    for strike in (ctrl_c, ctrl_c_twice, sigterm)
    for point in POINTS
    for quick in [(strike, point) in QUICK_CELLS]
]


@pytest.mark.parametrize(("strike", "point"), CELLS)
def test_an_interrupt_leaves_no_instance_running(case, strike, point):
    # Nothing is lost on its way where the clean-up itself waits for the answer.
    with standing_at(case, point, lost=point != "releasing") as stand, case.typed() as process:
        stand.reached()
        strike(process)
        if point != "releasing":
            case.until("the command ends", lambda: process.poll() is not None)
        stand.pass_on()
        case.until("the command ends", lambda: process.poll() is not None)
    case.at_rest(work=WORK[point], begun=0 if point in POINTS[:3] else 1, run="FAILURE")


@pytest.mark.long
def test_a_start_that_arrives_after_the_clean_up_is_made_good_by_the_sensor(case):
    """The call was under way when Ctrl-C came, and EC2 hears the start after the stop."""
    with standing_at(case, "before start", lost=False) as stand, case.typed() as process:
        stand.reached()
        ctrl_c(process)
        case.until("the command ends", lambda: process.poll() is not None)
        stand.pass_on()
        case.until("the instance runs", case.some("running"))
    case.recover(case.runner["door_seconds"])
    case.at_rest(work="none", begun=0, run="FAILURE")


@pytest.mark.long
@pytest.mark.usefixtures("lists_lag")
def test_a_command_whose_answer_an_interrupt_cut_off_is_ended_on_a_shared_instance(case, neighbour):
    """The instance goes on for another job: the command that nobody knows the id of must not go on with it."""
    case.plan({"wait": True})
    neighbour.arrive()
    with case.faults.hold("ssm:SendCommand", answer=True) as held, case.typed() as process:
        held.wait(120)
        case.until("the job runs", lambda: case.ledger("begin"))
        ctrl_c(process)
        case.until("the command ends", lambda: process.poll() is not None)
        held.let_go()
    case.until("the job is ended", lambda: not case.jobs(), timeout=10)
    case.at_rest(work="none", begun=1, run="FAILURE", held_by=neighbour.holds)
