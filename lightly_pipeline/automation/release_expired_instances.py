"""The sensor that stops instances which nobody holds any more. Dagster concept: sensors.

The second of three ways in which an instance is stopped: a run that was killed could not give its lease back,
and when that lease has expired the sensor does what the run's own end would have done. It starts no run, but ends those
that died with their host (`lost_runs.py`).
"""

import dagster as dg

from lightly_pipeline.automation.lost_runs import end_lost_runs
from lightly_pipeline.resources.runner import RunnerResource
from lightly_pipeline.runner import RunnerError
from lightly_pipeline.settings import MissingSetting


@dg.sensor(
    name="release_expired_instances",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Stops instances of the pool whose last lease has expired, and ends runs that died with their host.",
)
def release_expired_instances(
    context: dg.SensorEvaluationContext, runner: RunnerResource
) -> dg.SkipReason | dg.SensorResult:
    """Stop every instance without a live lease, as the last holder would have."""
    try:
        opened = runner.open()
        told = [*opened.release_expired().values(), *end_lost_runs(context.instance, opened)]
    except MissingSetting as error:
        return dg.SkipReason(str(error))
    except RunnerError as error:
        raise dg.Failure(str(error)) from error
    for sentence in told:
        context.log.warning(sentence)
    return dg.SkipReason(" ".join(told) or "No instance runs without a lease.")
