"""One of several processes that share instances: runs its jobs one after the other through a plain runner.

`python -m lightly_pipeline_tests.faults.many PLAN.json INDEX`. What a Dagster run keeps in run tags, the instance that
it was last seen on, is kept in a file here, so that a process that is started again after a kill finds its command.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


class Skewed:
    """A host whose clock is wrong: everything in this process that asks for the time of day is told another."""

    def __init__(self, seconds: float) -> None:
        self._real, self._seconds = time.time, seconds

    def __call__(self) -> float:
        """Seconds since 1970, wrongly."""
        return self._real() + self._seconds


def main() -> None:
    """Run the jobs of this process that its journal does not have yet."""
    plan: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    index = int(sys.argv[2])
    if skew := plan["skews"][index % len(plan["skews"])]:
        time.time = Skewed(skew)
    from lightly_pipeline.runner import (
        Clients,
        Clock,
        Deadlines,
        InstanceRunner,
        Job,
        LeaseSettings,
        RunnerSettings,
        Watcher,
    )

    folder = Path(plan["folder"])
    journal, hint = folder / f"journal-{index}", folder / f"hint-{index}"

    class Remembers(Watcher):
        """Writes down the instance before anything is sent to it, as run tags do."""

        def chosen(self, instance_id: str) -> None:
            hint.write_text(instance_id)

    runner = InstanceRunner.open(
        Clients.from_session(),
        instances=plan["instances"],
        bucket=plan["bucket"],
        settings=RunnerSettings(
            lease=LeaseSettings(max_jobs=plan["max_jobs"], ttl=15, renew_every=3, waiting_ttl=15, door=5),
            deadlines=Deadlines(start=60, agent=60),
        ),
        # Waits are looked at twice as often as in earnest.
        clock=Clock(sleep=lambda seconds: time.sleep(seconds / 2)),
    )
    done = set(journal.read_text().split()) if journal.exists() else set()
    for number in range(plan["jobs"]):
        name = f"{index}-{number}"
        if name in done:
            continue
        job = Job(
            holder=f"many/{index}/{number}",
            argv=["bash", plan["script"], str(folder), name, str(plan["seconds"])],
            timeout=600,
            instance_hint=hint.read_text() if hint.exists() else None,
        )
        runner.run(job, Remembers())
        with journal.open("a") as file:
            file.write(f"{name}\n")


if __name__ == "__main__":
    main()
