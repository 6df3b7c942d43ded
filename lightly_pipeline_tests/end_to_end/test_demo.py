"""`lightly-pipeline demo` and `sandbox`, as `make` and a user call them, in a state folder of their own."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lightly_pipeline.sandbox import footage
from lightly_pipeline_tests.clips import FOOTAGE_CACHE
from lightly_pipeline_tests.world import BIN


@pytest.fixture(scope="module")
def rendered():
    """The sandbox's own clips, rendered once for all tests."""
    return {clip.name: clip for clip in footage.footage(FOOTAGE_CACHE)}


@pytest.fixture
def here(tmp_path, rendered):
    """An empty folder, where the sandbox finds the footage rendered already."""
    (tmp_path / ".sandbox").mkdir()
    (tmp_path / ".sandbox" / "footage").symlink_to(FOOTAGE_CACHE)
    return tmp_path


def environment(**more):
    ours = ("AWS_", "PEXELS_", "LIGHTLY_", "DAGSTER_HOME")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **more}


def run(here, *arguments, **more):
    return subprocess.run(
        [str(BIN / "lightly-pipeline"), *arguments],
        cwd=here,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=240,
    )


def start(here, *arguments):
    return subprocess.Popen(
        [str(BIN / "lightly-pipeline"), *arguments],
        cwd=here,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_demo_selects_every_shot_and_no_duplicate_and_the_next_takes_another_video(here, rendered):
    first = run(here, "demo")
    assert first.returncode == 0, first.stdout + first.stderr
    [folder] = (here / "demo_output").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    pictures = sorted((folder / "data" / "sampled").iterdir())
    assert len(pictures) == manifest["counts"]["selected"] > 0
    for name in ("contact_sheet.jpg", "report.html", "filenames/sampled_filenames.txt"):
        assert (folder / name).stat().st_size > 0
    assert f"demo_output/{folder.name}/" in first.stdout

    [clip] = [clip for clip in rendered.values() if folder.name == f"pexels-{clip.id}"]
    truth = footage.ground_truth(clip)
    picked = [int(picture.stem.split("-")[-2]) for picture in pictures]
    scenes = {shot.scene for shot in truth.shots}
    seen = {shot.scene for shot in truth.shots for index in picked if shot.span.start <= index < shot.span.end}
    assert seen == scenes, "every shot is represented"
    assert not truth.exact_duplicates() & set(picked), "no exact duplicate is selected"

    second = run(here, "demo")
    assert second.returncode == 0, second.stdout + second.stderr
    assert len(list((here / "demo_output").iterdir())) == 2


def test_the_demo_uses_what_is_readable_in_a_folder_and_has_a_sentence_for_the_rest(here, rendered):
    real = os.environ.get("LIGHTLY_TEST_VIDEOS")
    clips = [*Path(real).glob("*.mp4")] if real else [next(iter(rendered.values())).files[-1]]
    videos = here / "my videos; $(touch pwned)"
    (videos / "more").mkdir(parents=True)
    shutil.copy(min(clips, key=lambda clip: clip.stat().st_size), videos / "more" / "good 'one'.mp4")
    (videos / "text.mp4").write_text("not a video")
    (videos / "empty.mp4").touch()
    done = run(here, "demo", "--videos", str(videos))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("✓ pexels-") == 1
    assert done.stdout.count("✗ pexels-") == 2
    assert not list(here.rglob("pwned"))
    assert "(good-one)" in done.stdout
    failures = [line for line in done.stdout.splitlines() if line.startswith("✗")]
    assert all("Traceback" not in line and line.rstrip().endswith(".") for line in failures), failures


@pytest.mark.long
@pytest.mark.skipif("LIGHTLY_TEST_VIDEOS" not in os.environ, reason="LIGHTLY_TEST_VIDEOS names no folder of real clips")
def test_the_demo_works_on_real_clips(here):
    videos = Path(os.environ["LIGHTLY_TEST_VIDEOS"])
    done = run(here, "demo", "--videos", str(videos))
    assert done.returncode == 0, done.stdout + done.stderr
    readable = [path for path in videos.glob("*.*") if path.suffix in {".mp4", ".webm"}]
    broken = list((videos / "corrupt").glob("*.mp4"))
    told = [line for line in done.stdout.splitlines() if line.startswith(("✓ pexels-", "✗ pexels-"))]
    assert len(told) == len(readable) + len(broken)
    assert sum(line.startswith("✓") for line in told) >= len(readable)
    assert all("is not a video that can be decoded" in line for line in told if line.startswith("✗")), told


def test_the_sandbox_runs_a_command_in_its_environment_and_passes_its_exit_code_on(here):
    done = run(here, "sandbox", "--", "sh", "-c", "echo bucket=$LIGHTLY_BUCKET; exit 7")
    assert (done.returncode, done.stdout) == (7, "bucket=lightly-sandbox\n")


def test_nothing_that_the_user_has_set_for_aws_leads_out_of_the_sandbox(here):
    """A profile made boto3 give up, and the endpoint of a single service went before that of the sandbox."""
    users = {
        "AWS_PROFILE": "work",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "1",
    }
    done = run(here, "sandbox", "--", "aws", "s3", "ls", **users)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "lightly-sandbox"


def test_ctrl_c_reaches_the_command_which_ends_in_its_own_time_and_way(here):
    """The sandbox is there until then, also if it is the command's first moment: what it clears up finds its bucket."""
    clear_up = "trap 'aws s3 ls && exit 3' INT; echo up; while :; do sleep 0.2; done"
    with start(here, "sandbox", "--", "sh", "-c", clear_up) as shell:
        assert shell.stdout.readline() == "up\n"
        os.killpg(shell.pid, signal.SIGINT)
        told = shell.stdout.read()
    assert (shell.returncode, told.split()[-1]) == (3, "lightly-sandbox")
    assert not _processes_of(here)


def test_a_command_that_does_not_exist_is_named(here):
    done = run(here, "sandbox", "--", "no-such-command")
    assert done.returncode == 1
    assert done.stderr == "Error: no-such-command could not be started: No such file or directory.\n"


def test_what_one_sandbox_stored_is_there_in_the_next_until_it_is_reset(here):
    put = "aws s3 cp --quiet - s3://$LIGHTLY_BUCKET/input_dir/kept/note.txt"
    assert run(here, "sandbox", "--", "sh", "-c", f"echo kept | {put}").returncode == 0
    get = ("sandbox", "--", "sh", "-c", "aws s3 cp --quiet s3://$LIGHTLY_BUCKET/input_dir/kept/note.txt -")
    assert run(here, *get).stdout == "kept\n"
    assert run(here, "sandbox", "--reset").returncode == 0
    assert run(here, *get).returncode != 0


def test_a_second_shell_joins_the_sandbox_that_is_open_and_leaves_it_open(here):
    with start(here, "sandbox") as serving:
        try:
            line = ""
            while "AWS_ENDPOINT_URL" not in line:
                line = serving.stdout.readline()
                assert line, "the sandbox ended early"
            joined = run(here, "sandbox", "--", "sh", "-c", "echo export AWS_ENDPOINT_URL=$AWS_ENDPOINT_URL")
            assert joined.stdout == line
            other = run(here, "sandbox", "--videos", str(here), "--", "true")
            assert other.returncode == 1
            assert "offers its own footage" in other.stderr
            assert serving.poll() is None
        finally:
            os.killpg(serving.pid, signal.SIGINT)
        assert serving.wait(timeout=30) == 0


def test_two_shells_that_open_the_sandbox_at_once_share_it_also_after_one_was_killed(here):
    """What the killed one had told of itself was believed until its successor had started."""
    gone = {"pid": 1, "environment": {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "videos": None}
    (here / ".sandbox" / "serving.json").write_text(json.dumps(gone))
    until_both_are_there = "for _ in $(seq 300); do [ $(ls here.* | wc -l) = 2 ] && exit; sleep 0.1; done; exit 1"
    command = ("sandbox", "--", "sh", "-c", f"echo $AWS_ENDPOINT_URL; touch here.$$; {until_both_are_there}")
    with start(here, *command) as one, start(here, *command) as other:
        told = [shell.communicate(timeout=60)[0] for shell in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), told
    assert told[0] == told[1] != "http://127.0.0.1:9\n"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_an_interrupted_demo_leaves_no_process_and_a_stopped_instance(here, number):
    """Ctrl-C in the terminal that runs `make demo`, in the middle of the selection, and again while it gives up."""
    with start(here, "demo") as demo:
        for line in demo.stdout:
            if "Command " in line and " runs on " in line:
                break
        else:
            raise AssertionError("the selection never started")
        if number == signal.SIGINT:
            os.killpg(demo.pid, number)
            assert any("Interrupted" in line for line in demo.stdout)
            os.killpg(demo.pid, number)
        else:
            demo.send_signal(number)
        demo.stdout.read()
        assert demo.wait(timeout=120) != 0
    deadline = time.monotonic() + 20
    while left := _processes_of(here):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    states = run(
        here, "sandbox", "--", "aws", "ec2", "describe-instances", "--query", "Reservations[].Instances[].State.Name"
    )
    assert json.loads(states.stdout) == ["stopped"]
    lease = run(
        here,
        "sandbox",
        "--",
        "sh",
        "-c",
        "aws s3 cp --quiet --recursive s3://$LIGHTLY_BUCKET/.lightly/instances/ leases",
    )
    assert lease.returncode == 0
    for record in (here / "leases").glob("*.json"):
        assert not json.loads(record.read_text())["leases"]


def _processes_of(here):
    """Command lines of processes that work in or for the folder `here`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(here) in (entry / "environ").read_text(errors="replace") and int(entry.name) != os.getpid():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
