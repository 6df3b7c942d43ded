"""The real worker and the real upload, cut off in the middle and done again: nothing dangles, nothing is done twice."""

import json
import os
import signal
import struct

import pytest

from lightly_pipeline.pexels import PexelsClient
from lightly_pipeline.sandbox import Sandbox
from lightly_pipeline.videos import pexels_key
from lightly_pipeline_tests.clips import FOOTAGE_CACHE, rendered

pytestmark = pytest.mark.long
PADDING = 20 * 1024 * 1024


def clip():
    return rendered("drift")[0].files[-1].read_bytes()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, timings):
    """Its Pexels offers one clip, which a box of padding makes so long that it is uploaded in several parts."""
    videos = tmp_path_factory.mktemp("videos")
    padding = struct.pack(">I4s", PADDING + 8, b"free") + os.urandom(PADDING)
    (videos / "clip.mp4").write_bytes(clip() + padding)
    state = tmp_path_factory.mktemp("sandbox")
    with Sandbox(state, videos, timings=timings, footage=FOOTAGE_CACHE, port=0) as opened:
        yield opened


def test_what_a_killed_upload_left_is_removed_by_the_next(case):
    """The parts of an upload that nobody ends are billed, and seen by no listing."""
    sandbox, s3 = case.world.sandbox, case.world.client("s3")
    client = PexelsClient(sandbox.environment["PEXELS_API_KEY"], root=sandbox.pexels_root)
    [video] = client.popular().videos
    case.key = pexels_key(video.id)
    collect = "pexels_video,s3_video_object"
    with case.faults.hold("s3:UploadPart") as held, case.typed(collect) as process:
        held.wait(120)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        held.let_go(drop=True)
    assert s3.list_multipart_uploads(Bucket=case.bucket)["Uploads"]
    assert not s3.list_objects_v2(Bucket=case.bucket, Prefix=f"input_dir/{case.key}/")["KeyCount"]
    with case.typed(collect) as process:
        case.until("the second run ends", lambda: process.poll() is not None, timeout=120)
    [stored] = s3.list_objects_v2(Bucket=case.bucket, Prefix=f"input_dir/{case.key}/")["Contents"]
    assert stored["Size"] == len(clip()) + 8 + PADDING
    case.at_rest(work=None, run="SUCCESS")


@pytest.mark.parametrize("strike", ["the instance is stopped", "the step is killed"])
def test_the_real_selection_survives_a_strike_in_the_middle(case, strike):
    """run.sh and lightly-worker; what the manifest says is compared with the bucket by the asset's own check."""
    s3 = case.world.client("s3")
    s3.put_object(Bucket=case.bucket, Key=f"input_dir/{case.key}/clip.mp4", Body=clip())
    script = {"LIGHTLY_RUN_SCRIPT": str(case.world.sandbox.run_script)}
    if strike == "the instance is stopped":
        case.faults.stop_under_command(1.0)
        with case.typed(**script) as process:
            case.until("the run ends", lambda: process.poll() is not None, timeout=180)
    else:
        with case.typed(**script) as process:
            case.until("the worker works", case.jobs)
            case.step_process().kill()
            case.until("the run ends", lambda: process.poll() is not None)
        case.recover(case.runner["lease_seconds"])
        with case.typed(**script) as process:
            case.until("the second run ends", lambda: process.poll() is not None, timeout=180)
    manifest = json.loads(case.world.bucket.read(f"output_dir/{case.key}/manifest.json"))
    assert manifest["counts"]["selected"] > 0
    case.at_rest(work=None, run="SUCCESS")
    case.tell(f"stopped; done once, {manifest['counts']['selected']} frames as the manifest says; run SUCCESS")
