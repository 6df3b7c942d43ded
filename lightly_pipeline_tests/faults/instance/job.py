"""A job on the instance that does as a test tells it, and keeps a ledger of what it did.

`job.py FOLDER INPUT OUTPUT [key=value …]`: the plan is FOLDER/<key>.json, the ledger FOLDER/<key>.ledger. Its work is
to write one object and, last, the manifest; it is not done again where the manifest is there. It speaks Dagster Pipes
as the worker does. A plan is a list with an entry for each time the job is begun (the last one for all further times):

    exit: end with this code instead of working      kill: SIGKILL itself, as the kernel does without memory
    bytes: print so many                             silent: work, but report nothing
    ignore: names of signals that are ignored        wait: work once FOLDER/<key>.go exists
    seconds: take so long (no end without `wait`: give a number that no test waits for)
    container: have docker run a container that is named after the command, as Lightly's closed worker has
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit


def main() -> None:
    """Do one begin of the job."""
    folder, key = Path(sys.argv[1]), sys.argv[3].rstrip("/").rpartition("/")[2]
    ledger = folder / f"{key}.ledger"
    begun = len([line for line in _lines(ledger) if line.startswith("begin ")])
    plans = json.loads((folder / f"{key}.json").read_text())
    plan = plans[min(begun, len(plans) - 1)]
    for name in plan.get("ignore", ()):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    _note(ledger, "begin")
    if "exit" in plan:
        print("the job cannot go on", file=sys.stderr, flush=True)
        sys.exit(plan["exit"])
    if plan.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if "bytes" in plan:
        line = "x" * 99 + "\n"
        for _ in range(plan["bytes"] // len(line)):
            sys.stdout.write(line)
    if plan.get("container"):
        name = f"lightly-{os.environ['SSM_COMMAND_ID']}"
        subprocess.run(["docker", "run", "--name", name, f"container of {key}"], check=True)
    while plan.get("wait") and not (folder / f"{key}.go").exists():
        time.sleep(0.02)
    time.sleep(plan.get("seconds", 0))
    _work(ledger, sys.argv[3], report=not plan.get("silent"))
    _note(ledger, "end")


def _work(ledger: Path, output: str, *, report: bool) -> None:
    import boto3
    from botocore.exceptions import ClientError

    s3 = boto3.client("s3")
    place = urlsplit(output)
    manifest = {"Bucket": place.netloc, "Key": f"{place.path.strip('/')}/manifest.json"}
    with ExitStack() as stack:
        context = stack.enter_context(_pipes(s3)) if report and "DAGSTER_PIPES_CONTEXT" in os.environ else None
        try:
            s3.head_object(**manifest)
        except ClientError:
            frames = os.environ.get("SSM_COMMAND_ID", "").encode()
            s3.put_object(Bucket=place.netloc, Key=f"{place.path.strip('/')}/frames.txt", Body=frames)
            files = [{"path": "frames.txt", "bytes": len(frames)}]
            s3.put_object(**manifest, Body=json.dumps({"files": files}).encode())
            _note(ledger, "work")
        if context is not None:
            context.report_asset_materialization(metadata={"frames": 1}, data_version="1")
            for check in ("budget_kept", "no_exact_duplicates", "min_distance_kept"):
                context.report_asset_check(check, passed=True)


def _pipes(s3):
    import dagster_pipes as dp

    class Channel(dp.PipesS3MessageWriterChannel):
        """The last chunk leaves when the session closes, not at the next full second."""

        def _upload_loop(self, is_session_closed):
            while not is_session_closed.wait(self._interval) or not self._buffer.empty():
                if messages := self.flush_messages():
                    lines = "\n".join(map(json.dumps, messages))
                    self.upload_messages_chunk(StringIO(lines), self._counter)
                    self._counter += 1

    class Writer(dp.PipesS3MessageWriter):
        def make_channel(self, params):
            return Channel(
                client=s3, bucket=params["bucket"], key_prefix=params.get("key_prefix"), interval=self.interval
            )

    return dp.open_dagster_pipes(context_loader=dp.PipesS3ContextLoader(s3), message_writer=Writer(s3, interval=1))


def _lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


def _note(ledger: Path, event: str) -> None:
    # One write of one line in append mode: lines of two jobs at once never mix.
    line = (
        f"{event} {os.environ.get('SSM_COMMAND_ID', '-')} {os.environ.get('AWS_SSM_INSTANCE_ID', '-')} {time.time()}\n"
    )
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line.encode())
    os.close(descriptor)


if __name__ == "__main__":
    main()
