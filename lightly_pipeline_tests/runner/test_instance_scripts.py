"""run.sh, watchdog.sh and the closed engine, as processes: what an instance runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

DEPLOY = Path(__file__).parents[2] / "deploy" / "ec2"

_DOCKER = """#!/bin/bash
# Stands for docker and for Lightly's image behind it: writes down how it was called, and the image's output tree.
printf '%s\\n' "$@" >"$DOCKER_LOG"
for argument in "$@"; do case "$argument" in *:/home/output_dir) out=${argument%%:*} ;; esac; done
for argument in "$@"; do case "$argument" in *:/home/input_dir:ro) in=${argument%%:*} ;; esac; done
echo "token=$LIGHTLY_TOKEN config printed by Hydra"
find "$in" -type f | wc -l
mkdir -p "$out/run/filenames" "$out/run/data/sampled"
seq -f 'clip-%g-mp4.png' 0 8 >"$out/run/filenames/removed_filenames.txt"
echo clip-9-mp4.png >"$out/run/filenames/sampled_filenames.txt"
echo picture >"$out/run/data/sampled/clip-9-mp4.png"
exit "${DOCKER_EXIT:-0}"
"""


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def _until(look: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def _locked(lock: Path) -> bool:
    return subprocess.run(["flock", "-n", "-x", str(lock), "true"], check=False).returncode != 0


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "LIGHTLY_BUSY_LOCK": str(tmp_path / "busy"),
        "LIGHTLY_WATCHDOG_STATE": str(tmp_path / "state"),
        "LIGHTLY_SHUTDOWN": f"touch {tmp_path / 'off'}",
        "LIGHTLY_IDLE_GRACE_SECONDS": "2",
    }


def test_run_sh_hands_every_argument_to_the_worker_as_it_is(place: dict[str, str], tmp_path: Path) -> None:
    worker = _script(tmp_path / "worker", '#!/bin/bash\nprintf "%s\\0" "$@"\nexit 7\n')
    arguments = ["in put", "s3://b/$(touch hacked)/", 'a=\';echo "x"', "two\nlines={{ssm:secret}}"]
    ran = subprocess.run(
        [DEPLOY / "run.sh", *arguments], env={**place, "LIGHTLY_WORKER": str(worker)}, capture_output=True, check=False
    )
    assert ran.stdout.decode().split("\0")[:-1] == arguments
    assert ran.returncode == 7
    assert not list(tmp_path.glob("**/hacked"))


def test_run_sh_holds_the_lock_while_the_worker_runs_and_even_sigkill_gives_it_back(
    place: dict[str, str], tmp_path: Path
) -> None:
    worker = _script(tmp_path / "worker", "#!/bin/bash\nexec sleep 60\n")
    process = subprocess.Popen([DEPLOY / "run.sh", "in", "out"], env={**place, "LIGHTLY_WORKER": str(worker)})
    _until(lambda: _locked(tmp_path / "busy"))
    process.kill()
    process.wait()
    assert not _locked(tmp_path / "busy")


def test_run_sh_becomes_the_worker_so_that_a_signal_reaches_it(place: dict[str, str], tmp_path: Path) -> None:
    text = f"#!{sys.executable}\nimport signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
    worker = _script(tmp_path / "worker", f"{text}open({str(tmp_path / 'up')!r}, 'w').close()\nsignal.pause()\n")
    process = subprocess.Popen([DEPLOY / "run.sh", "in", "out"], env={**place, "LIGHTLY_WORKER": str(worker)})
    _until((tmp_path / "up").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 9


@pytest.mark.parametrize(
    ("change", "arguments", "code", "sentence"),
    [
        ({}, ["in"], 64, "usage: run.sh INPUT OUTPUT"),
        ({"LIGHTLY_WORKER": "no-such-worker"}, ["in", "out"], 69, "is not installed on this instance"),
        ({"ENGINE": "other"}, ["in", "out"], 64, "use open or lightly"),
        ({"LIGHTLY_BUSY_LOCK": "/nowhere/busy"}, ["in", "out"], 73, "cannot open the busy lock"),
    ],
)
def test_run_sh_says_in_a_sentence_what_is_missing(
    place: dict[str, str], change: dict[str, str], arguments: list[str], code: int, sentence: str
) -> None:
    ran = subprocess.run([DEPLOY / "run.sh", *arguments], env={**place, **change}, capture_output=True, check=False)
    assert ran.returncode == code
    assert sentence in ran.stderr.decode()


def test_the_watchdog_switches_an_idle_instance_off_and_leaves_a_busy_one(
    place: dict[str, str], tmp_path: Path
) -> None:
    off, busy = tmp_path / "off", tmp_path / "busy"
    job = subprocess.Popen(["flock", "-s", str(busy), "sleep", "60"], start_new_session=True)
    _until(lambda: _locked(busy))
    watchdog = subprocess.Popen([DEPLOY / "watchdog.sh", "--every", "0.2"], env=place, start_new_session=True)
    try:
        time.sleep(4)
        assert not off.exists()
        os.killpg(job.pid, signal.SIGKILL)
        ended = time.monotonic()
        _until(off.exists)
        # The watchdog counts in whole seconds: of its two, one may be the rest of a second already begun.
        assert time.monotonic() - ended >= 0.7
    finally:
        os.killpg(watchdog.pid, signal.SIGKILL)
        watchdog.wait()
        job.wait()


def test_the_watchdog_counts_idle_time_from_the_last_job_not_from_the_boot(
    place: dict[str, str], tmp_path: Path
) -> None:
    def look() -> None:
        subprocess.run([DEPLOY / "watchdog.sh"], env=place, check=True)

    look()
    with subprocess.Popen(["flock", "-s", str(tmp_path / "busy"), "cat"], stdin=subprocess.PIPE) as job:
        _until(lambda: _locked(tmp_path / "busy"))
        time.sleep(2.2)
        look()
        assert job.stdin is not None
        job.stdin.close()
    look()
    assert not (tmp_path / "off").exists()
    time.sleep(3)
    look()
    assert (tmp_path / "off").exists()


def test_the_watchdog_switches_off_an_instance_that_hangs_in_a_job_for_ever(
    place: dict[str, str], tmp_path: Path
) -> None:
    with subprocess.Popen(["flock", "-s", str(tmp_path / "busy"), "cat"], stdin=subprocess.PIPE) as job:
        _until(lambda: _locked(tmp_path / "busy"))
        change = {"LIGHTLY_MAX_UPTIME_SECONDS": "1", "LIGHTLY_IDLE_GRACE_SECONDS": "600"}
        for _ in range(2):
            subprocess.run([DEPLOY / "watchdog.sh"], env={**place, **change}, check=True)
            time.sleep(1.2)
        subprocess.run([DEPLOY / "watchdog.sh"], env={**place, **change}, check=True)
        assert job.stdin is not None
        job.stdin.close()
    assert (tmp_path / "off").exists()


class TestClosedEngine:
    """ENGINE=lightly with a program in docker's place: what reaches docker, and what reaches the bucket."""

    @pytest.fixture
    def run(
        self, place: dict[str, str], tmp_path: Path, sandbox_environment: dict[str, str]
    ) -> Callable[..., subprocess.CompletedProcess[str]]:
        programs = tmp_path / "bin"
        programs.mkdir()
        _script(programs / "docker", _DOCKER)
        boto3.client("ssm").put_parameter(Name="/lightly/token", Value="s3cret", Type="SecureString", Overwrite=True)

        def run(*arguments: str, **change: str) -> subprocess.CompletedProcess[str]:
            environment = {
                **place,
                **sandbox_environment,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "ENGINE": "lightly",
                "LIGHTLY_PYTHON": sys.executable,
                "LIGHTLY_SCRATCH": str(tmp_path / "scratch"),
                "DOCKER_LOG": str(tmp_path / "docker.log"),
                "SSM_COMMAND_ID": "command-1",
                **change,
            }
            return subprocess.run(
                [DEPLOY / "run.sh", *arguments], env=environment, capture_output=True, text=True, check=False
            )

        return run

    def test_the_image_gets_the_tutorials_options_and_the_token_stays_out_of_sight(
        self, run: Callable[..., subprocess.CompletedProcess[str]], sandbox_environment: dict[str, str], tmp_path: Path
    ) -> None:
        bucket, s3 = sandbox_environment["LIGHTLY_BUCKET"], boto3.client("s3")
        s3.put_object(Bucket=bucket, Key="input_dir/a key/clip 1.mp4", Body=b"video")
        target = f"s3://{bucket}/output_dir/a key/"
        ran = run(
            f"s3://{bucket}/input_dir/a key/", target, "stopping_condition.n_samples=0.2", "datapool.uri=s3://x/pool"
        )
        assert ran.returncode == 0, ran.stderr
        called = (tmp_path / "docker.log").read_text().splitlines()
        assert called[called.index("--name") + 1] == "lightly-command-1"
        assert {"--init", "--rm", "enable_corruptness_check=True", "stopping_condition.n_samples=0.2"} <= set(called)
        assert not [argument for argument in called if argument.startswith("datapool.uri") or "s3cret" in argument]
        assert "s3cret" not in ran.stdout + ran.stderr
        assert "token=[token]" in ran.stdout
        manifest = json.loads(s3.get_object(Bucket=bucket, Key="output_dir/a key/manifest.json")["Body"].read())
        stored = s3.list_objects_v2(Bucket=bucket, Prefix="output_dir/a key/")["Contents"]
        assert {f"output_dir/a key/{file['path']}" for file in manifest["files"]} == {
            entry["Key"] for entry in stored if not entry["Key"].endswith("manifest.json")
        }
        assert manifest["counts"]["selected"] == 1
        assert manifest["counts"]["frames"] == 10
        assert not list((tmp_path / "scratch").iterdir())
        (tmp_path / "docker.log").unlink()
        again = run(
            f"s3://{bucket}/input_dir/a key/", target, "stopping_condition.n_samples=0.2", "datapool.uri=s3://x/pool"
        )
        assert again.returncode == 0, again.stderr
        assert not (tmp_path / "docker.log").exists()

    def test_a_container_that_fails_leaves_no_manifest(
        self, run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        source, target = tmp_path / "in", tmp_path / "out"
        source.mkdir()
        shutil.copy(__file__, source / "clip.mp4")
        ran = run(str(source), str(target), DOCKER_EXIT="137")
        assert ran.returncode == 137
        assert "memory runs out" in ran.stderr
        assert not target.exists()
