"""Another host, whose clock is wrong, does what the sensor does: it releases what has expired.

`python -m lightly_pipeline_tests.faults.elsewhere SKEW TIMES`: as often, every half second, until there was something
to release; prints what was released.
"""

import sys
import time

from lightly_pipeline_tests.faults.many import Skewed


def main() -> None:
    """Release what this host takes for expired."""
    time.time = Skewed(float(sys.argv[1]))
    import boto3

    from lightly_pipeline.runner import Clients, InstanceRunner
    from lightly_pipeline.settings import BUCKET, INSTANCES

    # A runner of its own each time, as every tick of the sensor opens one.
    for _ in range(int(sys.argv[2])):
        clients = Clients.from_session(boto3.Session())
        runner = InstanceRunner.open(clients, instances=INSTANCES.value(), bucket=BUCKET.value())
        if told := runner.release_expired():
            print(*told.values())
            return
        time.sleep(0.5)


if __name__ == "__main__":
    main()
