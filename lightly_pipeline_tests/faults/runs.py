"""Runs of lightly_frames in processes: a long-lived run worker that takes orders, and the job that its steps find.

`python -m lightly_pipeline_tests.faults.runs` is one Dagster process: it reads one order per line from its standard
input, runs the job with a process for each step, and answers with one line. Importing Dagster takes two seconds, and
the steps are forked from a server that has done so already: a run takes a tenth of what the command line takes.
"""

import json
import os
import sys

import dagster as dg

from lightly_pipeline.definitions import defs

FORKED_STEPS = {
    "multiprocess": {"start_method": {"forkserver": {"preload_modules": ["lightly_pipeline_tests.faults.runs"]}}}
}


def selection_job() -> dg.JobDefinition:
    """The job `select_frames`, for step processes to find it again."""
    return defs.resolve_job_def("select_frames")


def main() -> None:
    """Carry out orders until standard input ends."""
    # Whatever Dagster or the job prints must not be mistaken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with dg.DagsterInstance.get() as instance:
        for line in sys.stdin:
            order = json.loads(line)
            result = dg.execute_job(
                dg.reconstructable(selection_job),
                instance=instance,
                run_config={**order["config"], "execution": {"config": FORKED_STEPS}},
                tags={"dagster/partition": order["key"]},
            )
            answers.write(json.dumps({"run_id": result.run_id, "success": result.success}) + "\n")


if __name__ == "__main__":
    # Steps are found by module name, and this one's name is __main__ here.
    from lightly_pipeline_tests.faults import runs

    runs.main()
