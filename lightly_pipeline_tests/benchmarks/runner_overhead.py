"""What the runner adds to the bill, next to the tutorial's way of doing the same, in the same sandbox.

`python -m lightly_pipeline_tests.benchmarks.runner_overhead [--videos 20] [--tutorial-videos 3] [--idle 90]`

Both ways run the same queue of jobs, one after the other, on one instance of a sandbox in another process, with the
sandbox's default delays (2 s pending, 2 s until the agent is online, 2 s stopping). The tutorial's way is run for real,
with its own sleeps and polls, but for fewer videos, as every one of them is a start of its own and costs it as much.

Billed overhead of a job = the seconds for which the instance could have worked (agent online until the stop was
accepted, over all starts), less those in which jobs ran, divided by the jobs. Then: the CPU and the AWS calls of a
runner that waits for a long command, messages included; and the calls a second of 32 instances that start at the same
instant, on a clock of its own with EC2's real delays (20 s pending, 30 s until the agent is online).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import boto3

from lightly_pipeline.sandbox.aws.calls import calls_of

PENDING = AGENT = 2.0
JOB_SECONDS = 1.0
# EC2's bucket for each describe action holds 100 calls and is refilled with so many a second; SSM publishes no limit.
LIMIT = 20
TARGETS = {"overhead": 2.0, "starts": 1, "cpu": 1.0}


def calls() -> list[dict]:
    """Every AWS call that the sandbox has seen from here, with its time and operation."""
    return [call for call in calls_of(os.environ["AWS_ENDPOINT_URL"])["recent"] if call["caller"] == "user"]


def job(log: Path) -> list[str]:
    """A job that works for a second and writes down when it began and ended."""
    return ["bash", "-c", f'date +%s.%N >>"$0"; sleep {JOB_SECONDS}; date +%s.%N >>"$0"', str(log)]


def our_way(count: int, log: Path) -> None:
    """A queue of runs: each sees that more are queued, and leaves the instance up for them."""
    from lightly_pipeline.resources.runner import RunnerResource
    from lightly_pipeline.runner import Job, Watcher

    class Queue(Watcher):
        left = count

        def linger(self) -> float:
            return 120.0 if self.left > 1 else 0.0

    runner, queue = RunnerResource().open(), Queue()
    for number in range(count):
        queue.left = count - number
        runner.run(Job(f"bench-{number}/lightly_frames/0", job(log), 60), queue)


def tutorial_way(count: int, log: Path) -> None:
    """Start, sleep 10 s, send, sleep 10 s, poll every 5 s, stop: once per video, with boto3's waiters between."""
    import shlex

    ec2, ssm = boto3.client("ec2"), boto3.client("ssm")
    instance = os.environ["LIGHTLY_INSTANCES"].split(",")[0]
    for _ in range(count):
        ec2.start_instances(InstanceIds=[instance])
        ec2.get_waiter("instance_running").wait(InstanceIds=[instance])
        time.sleep(10)
        command = ssm.send_command(
            InstanceIds=[instance],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": [shlex.join(job(log))], "executionTimeout": ["172800"]},
        )["Command"]["CommandId"]
        time.sleep(10)
        while True:
            answer = ssm.get_command_invocation(CommandId=command, InstanceId=instance)
            if answer["Status"] not in ("Pending", "InProgress"):
                break
            time.sleep(5)
        ec2.stop_instances(InstanceIds=[instance])
        ec2.get_waiter("instance_stopped").wait(InstanceIds=[instance])


def figures(log: Path, since: float) -> tuple[float, int]:
    """Billed overhead per job in seconds, and the number of starts."""
    times = [float(line) for line in log.read_text().split()]
    worked = sum(end - begin for begin, end in zip(times[::2], times[1::2], strict=True))
    ours = [call for call in calls() if call["time"] >= since and call["status"] < 300]
    starts = [call["time"] for call in ours if call["operation"] == "ec2:StartInstances"]
    stops = [call["time"] for call in ours if call["operation"] == "ec2:StopInstances"]
    assert len(starts) == len(stops) > 0, (starts, stops)
    usable = sum(stop - start - PENDING - AGENT for start, stop in zip(starts, stops, strict=True))
    return (usable - worked) / (len(times) // 2), len(starts)


def idle(seconds: int) -> tuple[float, Counter, Counter]:
    """CPU percent of one core while a command runs, and calls in the first minute and per minute after it."""
    from lightly_pipeline.pipes_messages import PipesS3RunReader
    from lightly_pipeline.resources.runner import RunnerResource
    from lightly_pipeline.runner import Job, Watcher

    class Watched(Watcher):
        def sent(self, sent) -> None:
            self.began, self.cpu = time.time(), time.process_time()

        def output(self, stream, text) -> None:
            if stream == "stdout":
                self.ended, self.cpu = time.time(), time.process_time() - self.cpu

    class Nothing:
        def handle_message(self, message) -> None:
            raise AssertionError(message)

    runner, watched = RunnerResource().open(), Watched()
    reader = PipesS3RunReader(runner.commands.clients.s3, runner.store.bucket, ".lightly/runs/bench-idle")
    with reader.read_messages(Nothing()):
        runner.run(Job("bench-idle/lightly_frames/0", ["sleep", str(seconds)], 600), watched)
    waiting = [call for call in calls() if watched.began + 1 < call["time"] < watched.ended - 1]
    early = Counter(call["operation"] for call in waiting if call["time"] < watched.began + 60)
    late = Counter(call["operation"] for call in waiting if call["time"] >= watched.began + 60)
    rest = max(1e-9, (watched.ended - watched.began - 61) / 60)
    per_minute = Counter({name: round(count / rest, 1) for name, count in late.items()})
    return 100 * watched.cpu / (watched.ended - watched.began), early, per_minute


def together(instances: int) -> dict[str, float]:
    """Most calls a second of each action, over ten seconds, while so many instances start and work at the same time."""
    from lightly_pipeline.runner import Job, RunnerSettings
    from lightly_pipeline_tests.runner.virtual_cloud import VirtualCloud, VirtualProcess, run_together

    cloud = VirtualCloud(instances)
    cloud.job_seconds = 180
    begun = cloud.now

    def process(number: int) -> VirtualProcess:
        job = Job(f"run{number}/lightly_frames/0", ["work"], 3600)
        return VirtualProcess(cloud, RunnerSettings(), lambda runner: runner.run(job))

    run_together([process(number) for number in range(instances)], cloud)
    calls = Counter((name, int((moment - begun) // 10)) for moment, name, _ in cloud.calls)
    most: dict[str, float] = {}
    for (name, _), count in calls.items():
        most[name] = max(most.get(name, 0.0), count / 10)
    return most


def inside(given: argparse.Namespace) -> int:
    """Everything that is measured, in a process beside the sandbox's."""
    rows = []
    for name, way, count in (
        ("tutorial's", tutorial_way, given.tutorial_videos),
        ("lightly_pipeline", our_way, given.videos),
    ):
        log, since = Path(tempfile.mkdtemp()) / "jobs", time.time()
        way(count, log)
        rows.append((name, count, time.time() - since, *figures(log, since)))
    cpu, early, late = idle(given.idle)
    print(f"\n{'way':<18}{'videos':>8}{'wall s':>9}{'starts':>8}{'overhead s/job':>16}{'starts for 20':>15}")
    for name, count, wall, overhead, starts in rows:
        print(f"{name:<18}{count:>8}{wall:>9.1f}{starts:>8}{overhead:>16.2f}{20 * starts // count or 1:>15}")
    print(f"\nwaiting for a command: {cpu:.2f} % of a core")
    print("AWS calls in the first minute:", ", ".join(f"{name} {count}" for name, count in sorted(early.items())))
    print("AWS calls per minute after it:", ", ".join(f"{name} {count}" for name, count in sorted(late.items())))
    most = together(32)
    polled = ("DescribeInstances", "DescribeInstanceInformation", "GetCommandInvocation", "StartInstances")
    print(
        "\n32 instances that start at once, most calls a second:",
        ", ".join(f"{name} {most[name]:.0f}" for name in polled),
        f"(EC2 allows {LIMIT} describe calls)",
    )
    _, _, _, overhead, starts = rows[1]
    missed = [
        sentence
        for wrong, sentence in (
            (overhead > TARGETS["overhead"], f"{overhead:.2f} s of overhead per job instead of 2 at most"),
            (starts > TARGETS["starts"], f"{starts} starts instead of one"),
            (cpu > TARGETS["cpu"], f"{cpu:.2f} % of a core instead of 1 at most"),
            (max(most[name] for name in polled) > LIMIT, f"more than {LIMIT} calls a second to one action"),
        )
        if wrong
    ]
    for sentence in missed:
        print("missed:", sentence)
    return 1 if missed else 0


def main(arguments=None) -> int:
    """Print the table; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--tutorial-videos", type=int, default=3)
    parser.add_argument("--idle", type=int, default=90, help="seconds of the command that is waited for")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.inside:
        return inside(given)
    with tempfile.TemporaryDirectory() as state:
        command = [
            *[str(Path(sys.executable).with_name("lightly-pipeline")), "sandbox", "--state", state, "--"],
            *[sys.executable, "-m", "lightly_pipeline_tests.benchmarks.runner_overhead", "--inside"],
            *["--videos", str(given.videos), "--tutorial-videos", str(given.tutorial_videos)],
            *["--idle", str(given.idle)],
        ]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
