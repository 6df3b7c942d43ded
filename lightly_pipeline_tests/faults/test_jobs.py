"""Jobs that end badly or not at all, and instances that are lost under them."""

import pytest


def test_a_job_that_exits_3_fails_the_run_with_its_last_lines(case, run_worker):
    case.plan({"exit": 3})
    said = run_worker.fails(case)
    assert "exit code 3" in said
    assert "the job cannot go on" in said
    case.at_rest(work="none", begun=1, run="FAILURE")


def test_a_job_that_the_kernel_killed_is_told_from_one_that_timed_out(case, run_worker):
    """Row 10: SSM reports exit code 137 as TimedOut."""
    case.plan({"kill": True})
    assert "memory" in run_worker.fails(case)
    case.at_rest(work="none", begun=1, run="FAILURE")


@pytest.mark.long
def test_exit_code_194_does_not_reboot_the_instance_and_run_again(case, run_worker):
    """Row 11."""
    case.plan({"exit": 194})
    assert "194" in run_worker.fails(case)
    case.at_rest(work="none", begun=1, run="FAILURE")


@pytest.mark.long
def test_a_job_that_takes_too_long_is_killed_although_it_ignores_sigterm(case, run_worker):
    """Row 6."""
    case.plan({"wait": True, "ignore": ["SIGTERM", "SIGINT", "SIGHUP"]})
    case.runner["command_timeout_seconds"] = 5
    assert "within its 5 s" in run_worker.fails(case)
    case.at_rest(work="none", begun=1, run="FAILURE")


@pytest.mark.long
def test_ten_megabytes_of_output_arrive_whole(case, run_worker):
    """Row 8: SSM itself keeps 24,000 characters."""
    case.plan({"bytes": 10_000_000})
    run_worker.succeeds(case)
    case.at_rest(work="once", begun=1, run="SUCCESS")
    logs = list((case.world.home / "storage" / case.run().run_id).rglob("*.out"))
    assert sum(file.read_text().count("x" * 99 + "\n") for file in logs) == 100_000


@pytest.mark.long
def test_a_job_that_reports_nothing_is_no_success(case, run_worker):
    """Its exit code is 0 and its work is done; nothing says so, and nothing that was stored is lost."""
    case.plan({"silent": True})
    assert "reported no materialization" in run_worker.fails(case)
    case.at_rest(work="once", begun=1, run="FAILURE")


def test_a_job_whose_instance_is_stopped_is_sent_again(case, run_worker):
    """Row 13: a person, a spot interruption, another tool."""
    case.plan({"wait": True}, {})
    run_worker.begin(case)
    case.stop_under_the_job()
    run_worker.end(case, well=True)
    case.at_rest(work="once", begun=2, run="SUCCESS")


@pytest.mark.long
def test_a_job_whose_instance_is_stopped_again_and_again_is_given_up(case, run_worker):
    case.plan({"wait": True})
    run_worker.begin(case)
    for time in (1, 2, 3):
        case.stop_under_the_job(time)
    run_worker.end(case, well=False)
    assert "under the command" in case.failure()
    case.at_rest(work="none", begun=3, run="FAILURE")


@pytest.mark.long
def test_an_agent_that_is_silent_for_a_while_is_waited_for(case, run_worker):
    """Row 14: the job goes on meanwhile, and its result is not lost."""
    case.plan({"wait": True})
    run_worker.begin(case)
    case.until("the job runs", lambda: case.ledger("begin"))
    case.faults.silence_agent()
    case.go()
    case.until("the job has ended", lambda: case.ledger("end"))
    case.faults.clear()
    run_worker.end(case, well=True)
    case.at_rest(work="once", begun=1, run="SUCCESS")


@pytest.mark.long
def test_an_agent_that_falls_silent_for_good_costs_its_instance_and_the_job_is_sent_again(case, run_worker):
    """Row 7: the new boot's agent answers again."""
    case.plan({"wait": True}, {})
    case.runner["command_timeout_seconds"] = 5
    run_worker.begin(case)
    case.until("the job runs", lambda: case.ledger("begin"))
    case.faults.silence_agent()
    case.until("the instance is given up", case.some("stopping"), timeout=30)
    case.faults.clear()
    run_worker.end(case, well=True)
    case.at_rest(work="once", begun=2, run="SUCCESS")


@pytest.mark.long
def test_a_job_that_ran_before_is_not_done_twice(case, run_worker):
    run_worker.succeeds(case)
    run_worker.succeeds(case)
    case.at_rest(work="once", begun=2, run="SUCCESS")
