"""Clocks that disagree by minutes between the host of a run and the host that releases what has expired."""

import time

import pytest

from lightly_pipeline_tests.faults.points import standing_at


def released_elsewhere(case, minutes, *, times):
    """What a host whose clock is so many minutes ahead has released."""
    module = "lightly_pipeline_tests.faults.elsewhere"
    done = case.world.run("python", "-m", module, str(60 * minutes), str(times))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("minutes", [10, -10])
def test_a_host_whose_clock_is_wrong_leaves_a_live_lease_alone(case, run_worker, minutes):
    with standing_at(case, "running", lost=False) as stand:
        run_worker.begin(case)
        stand.reached()
        assert released_elsewhere(case, minutes, times=3) == ""
        [(instance_id, record)] = case.records().items()
        [holder] = record.leases
        case.at_rest(work="none", begun=1, run="STARTED", held_by={instance_id: holder}, ended=False)
        case.go()
        run_worker.end(case, well=True)
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.long
@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_host_whose_clock_is_wrong_stops_a_dead_runs_instance_in_time(case, run_worker, minutes):
    with standing_at(case, "running", lost=False) as stand:
        run_worker.begin(case)
        stand.reached()
        case.step_process().kill()
        killed = time.monotonic()
        run_worker.end(case, well=False)
    assert "its last lease" in released_elsewhere(case, minutes, times=2 * (case.runner["lease_seconds"] + 10))
    # Not before the lease is over, which was renewed some seconds ago at the most.
    assert time.monotonic() - killed > case.runner["lease_seconds"] / 2
    case.at_rest(work="none", begun=1, run="FAILURE")
