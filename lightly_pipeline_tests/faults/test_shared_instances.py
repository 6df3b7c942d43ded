"""Jobs beside others on an instance that stays up: what one leaves behind, and one too many."""

import os
import signal

import pytest

from lightly_pipeline_tests.faults.conftest import Neighbour

pytestmark = pytest.mark.long

# Stands for docker on the instance: a daemon owns the containers, which outlive the process group that ran them.
DOCKER = """#!/bin/bash
containers=$(dirname -- "$0")
case "$1" in
run) setsid bash -c 'echo $$ >"$0"; exec -a "$1" sleep 600' "$containers/$3.pid" "$4" <&- >/dev/null 2>&1 & ;;
kill) kill -KILL "$(cat "$containers/$2.pid")" ;;
esac
"""


def test_the_container_of_a_cancelled_job_does_not_go_on_beside_the_others(case, neighbour):
    """Row 9: CancelCommand kills the command's process group, and the docker daemon's container is not in it."""
    [instance_id] = case.states()
    neighbour.arrive()
    docker = case.world.sandbox._opened().machines[instance_id].folder / "sbin" / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    case.plan({"container": True, "wait": True})
    with case.typed() as process:
        case.until("the container runs", lambda: len(case.jobs()) > 1)
        os.killpg(process.pid, signal.SIGINT)
        case.until("the command ends", lambda: process.poll() is not None)
    case.until("the container is ended", lambda: not case.jobs(), timeout=10)
    docker.unlink()
    case.at_rest(work="none", begun=1, run="FAILURE", held_by=neighbour.holds)


def test_a_sixth_job_waits_with_the_reason_until_one_of_five_has_left(case, run_worker):
    """Row 28: SSM's agent runs five commands, and the sixth's delivery timeout would pass in its queue."""
    case.runner["max_jobs_per_instance"] = 5
    neighbours = [Neighbour(case, number, max_jobs=5) for number in range(5)]
    try:
        for neighbour in neighbours:
            neighbour.arrive()
        run_worker.begin(case)
        case.until("the run says why it waits", lambda: any("works for neighbour" in said for said in case.events()))
        assert not case.ledger("begin")
        neighbours.pop().leave()
        run_worker.end(case, well=True)
    finally:
        for neighbour in neighbours:
            neighbour.leave()
    case.at_rest(work="once", begun=1, run="SUCCESS")
