"""The DAGSTER_HOME that demo, dev server and command line share, so that each shows what the others did."""

from pathlib import Path

_DAGSTER_YAML = """\
# Made by `lightly-pipeline sandbox`; yours to change. Delete it to have it made again.
telemetry:
  enabled: false
nux:
  # No sign-up window over the first page.
  enabled: false
concurrency:
  pools:
    # The pool `ec2` holds the selections that may wait for or use instances at the same time. Pools hold across
    # processes with the granularity `op` alone.
    granularity: op
    default_limit: 4
run_monitoring:
  enabled: true
  # A run whose host died would stay "started" for ever, and keep its place in the pool.
  max_runtime_seconds: 86400
  free_slots_after_run_end_seconds: 60
retention:
  sensor:
    purge_after_days: {skipped: 1, failure: 30, success: -1}
"""


def dagster_home(state: Path) -> Path:
    """The folder for DAGSTER_HOME under the sandbox's `state` folder, made with its dagster.yaml where missing."""
    home = (state / "dagster").resolve()
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if not config.exists():
        arriving = config.with_suffix(".arriving")
        arriving.write_text(_DAGSTER_YAML)
        arriving.replace(config)
    return home
