"""Many processes share few instances and are killed at random: nothing is lost, nobody's instance is stopped."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SEED = 20261122


@pytest.fixture(scope="module")
def instances():
    return 3


class Crowd:
    """The processes, and what their jobs wrote down."""

    def __init__(self, case, *, processes, jobs, pool, max_jobs, seconds, skews=(0,)):
        self.case, self.processes, self.jobs = case, processes, jobs
        self.folder = case.folder / case.key
        (self.folder / "done").mkdir(parents=True)
        self.plan = self.folder / "plan.json"
        self.plan.write_text(
            json.dumps(
                {
                    "bucket": case.bucket,
                    "folder": str(self.folder),
                    "instances": ",".join(case.world.sandbox.instance_ids[:pool]),
                    "jobs": jobs,
                    "max_jobs": max_jobs,
                    "script": str(case.folder / "one_of_many.sh"),
                    "seconds": seconds,
                    "skews": skews,
                }
            )
        )
        self.running = {}
        self.kills = 0

    def start(self, index):
        log = (self.folder / f"log-{index}").open("a")
        self.running[index] = subprocess.Popen(
            [sys.executable, "-m", "lightly_pipeline_tests.faults.many", str(self.plan), str(index)],
            env=self.case.world.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()

    def ledger(self):
        path = self.folder / "ledger"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, *, kills, within):
        """Start all, kill at random and start again what was killed, until all have ended well."""
        chance = random.Random(SEED)
        deadline = time.monotonic() + within
        total = self.processes * self.jobs
        # The next kill comes at a random instant after so many jobs are done.
        after = sorted(chance.sample(range(total * 9 // 10), kills))
        try:
            for index in range(self.processes):
                self.start(index)
            while any(process.poll() is None for process in self.running.values()):
                assert time.monotonic() < deadline, self.said()
                ended = [index for index, process in self.running.items() if process.poll()]
                assert not ended, self.said()
                time.sleep(0.1)
                if after and len(list((self.folder / "done").iterdir())) >= after[0]:
                    after.pop(0)
                    time.sleep(chance.uniform(0, 1.5))
                    alive = [index for index, process in self.running.items() if process.poll() is None]
                    if alive:
                        self.kill(chance.choice(alive))
        finally:
            for process in self.running.values():
                process.kill()
                process.wait()

    def kill(self, index):
        process = self.running[index]
        process.kill()
        if process.wait() == -9:
            self.kills += 1
            self.start(index)

    def said(self):
        logs = [f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(self.folder.glob("log-*"))]
        return "\n".join([*logs, str(Counter(line[0] for line in self.ledger())), self.case.situation()])

    def check(self):
        """All jobs done, each once, and each that was begun came to its end: nobody stopped its instance."""
        total = self.processes * self.jobs
        lines = self.ledger()
        counts = Counter(line[0] for line in lines)
        assert counts["work"] == len({name for event, name, _ in lines if event == "work"}) == total, self.said()
        unfinished = {(name, command) for event, name, command in lines if event == "begin"} - {
            (name, command) for event, name, command in lines if event == "end"
        }
        assert not unfinished, f"{unfinished}\n{self.said()}"
        self.case.recover(20)
        self.case.at_rest(work="none", begun=0)
        starts = self.case.starts() - self.case.starts_before
        self.case.tell(
            f"{total} jobs, 0 lost, 0 stopped under; {self.kills} kills; {starts} starts; "
            f"{counts['begin'] - total} begun again after their end; stopped"
        )
        return starts


def test_four_processes_share_an_instance_and_three_are_killed(case):
    crowd = Crowd(case, processes=4, jobs=4, pool=1, max_jobs=3, seconds=0.3)
    crowd.run(kills=3, within=200)
    assert crowd.check() <= 1 + crowd.kills


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("pool", "max_jobs"), [(1, 5), (3, 3)], ids=["one instance", "pool of three"])
def test_eight_processes_do_two_hundred_jobs_under_random_kills(case, pool, max_jobs):
    crowd = Crowd(case, processes=8, jobs=25, pool=pool, max_jobs=max_jobs, seconds=0.3)
    crowd.run(kills=16, within=800)
    starts = crowd.check()
    if pool == 1:
        # Somebody always waits or works, the dead excepted: one start, and one for each time all were dead at once.
        assert starts <= 1 + crowd.kills


@pytest.mark.long
def test_hosts_whose_clocks_are_minutes_and_an_hour_apart_share_an_instance(case):
    """Times in a lease are S3's: whose clock is ahead does not see another's lease as expired."""
    crowd = Crowd(case, processes=3, jobs=3, pool=1, max_jobs=2, seconds=0.3, skews=(-420, 600, 3600))
    crowd.run(kills=0, within=200)
    crowd.check()
