"""What the embedded S3 keeps from one sandbox to the next, and at what cost."""

import contextlib
import hashlib
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lightly_pipeline.sandbox import Sandbox, SandboxError, SandboxTimings, reset_sandbox
from lightly_pipeline.sandbox.embedded import DEFAULT_PORT
from lightly_pipeline_tests.sandbox.aws_calls import Aws, until

ODD_KEYS = [
    "input_dir/pexels-1/a video, with spaces.mp4",
    "output_dir/ünïcödé/…/frame.png",
    "odd/%20percent/+plus/=equals/&and",
    "odd/quote\"'`$(x);|<>",
    "odd//double//slash",
    "odd/trailing/",
    "odd/../dots",
    "odd/" + "long" * 200,
]


@pytest.fixture
def opened(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def open_sandbox(**options: Any) -> Sandbox:
        return Sandbox(
            tmp_path / "state",
            timings=SandboxTimings.fast(),
            footage=tmp_path_factory.getbasetemp() / "footage",
            port=options.pop("port", 0),
            **options,
        )

    return open_sandbox


def files_of(state: Path) -> list[Path]:
    return sorted((state / "s3" / "buckets").glob("*/*.object"))


def test_objects_with_odd_keys_metadata_and_tags_survive(opened: Any) -> None:
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        for number, key in enumerate(ODD_KEYS):
            aws.s3.put_object(
                Bucket=aws.bucket,
                Key=key,
                Body=f"content {number}".encode(),
                ContentType="video/mp4",
                CacheControl="no-store",
                Metadata={"sha256": f"{number:064x}", "with_underscore": "a b"},
                Tagging="first=1&second=two",
            )
        before = aws.s3.list_objects_v2(Bucket=aws.bucket)["Contents"]
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        assert aws.s3.list_objects_v2(Bucket=aws.bucket)["Contents"] == before
        for number, key in enumerate(ODD_KEYS):
            found = aws.s3.get_object(Bucket=aws.bucket, Key=key)
            assert found["Body"].read() == f"content {number}".encode()
            assert (found["ContentType"], found["CacheControl"]) == ("video/mp4", "no-store")
            assert found["Metadata"] == {"sha256": f"{number:064x}", "with_underscore": "a b"}
            tags = aws.s3.get_object_tagging(Bucket=aws.bucket, Key=key)["TagSet"]
            assert tags == [{"Key": "first", "Value": "1"}, {"Key": "second", "Value": "two"}]


def test_deletions_overwrites_and_new_tags_survive_and_leave_no_file_behind(opened: Any, tmp_path: Path) -> None:
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        for key in ("deleted", "overwritten", "tagged"):
            aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=b"old")
        assert len(files_of(tmp_path / "state")) == 3
        aws.s3.delete_object(Bucket=aws.bucket, Key="deleted")
        aws.s3.put_object(Bucket=aws.bucket, Key="overwritten", Body=b"new")
        aws.s3.put_object_tagging(
            Bucket=aws.bucket, Key="tagged", Tagging={"TagSet": [{"Key": "colour", "Value": "blue"}]}
        )
        assert aws.s3.get_object(Bucket=aws.bucket, Key="overwritten")["Body"].read() == b"new"
    assert len(files_of(tmp_path / "state")) == 2
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        listed = aws.s3.list_objects_v2(Bucket=aws.bucket)["Contents"]
        assert [entry["Key"] for entry in listed] == ["overwritten", "tagged"]
        assert aws.s3.get_object(Bucket=aws.bucket, Key="overwritten")["Body"].read() == b"new"
        assert aws.s3.get_object_tagging(Bucket=aws.bucket, Key="tagged")["TagSet"][0]["Value"] == "blue"


def test_a_conditional_write_still_knows_the_etag_of_before(opened: Any) -> None:
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        etag = aws.s3.put_object(Bucket=aws.bucket, Key="lease", Body=b"{}")["ETag"]
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        with pytest.raises(aws.s3.exceptions.ClientError, match="PreconditionFailed"):
            aws.s3.put_object(Bucket=aws.bucket, Key="lease", Body=b"x", IfNoneMatch="*")
        aws.s3.put_object(Bucket=aws.bucket, Key="lease", Body=b"mine", IfMatch=etag)


def test_other_buckets_come_back_and_deleted_ones_do_not(opened: Any) -> None:
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        for name in ("kept.bucket", "dropped-bucket"):
            aws.s3.create_bucket(Bucket=name)
            aws.s3.put_object(Bucket=name, Key="k", Body=b"v")
        assert len(files_of(sandbox.state_dir)) == 2
        aws.s3.delete_object(Bucket="dropped-bucket", Key="k")
        aws.s3.delete_bucket(Bucket="dropped-bucket")
    with opened() as sandbox:
        names = [bucket["Name"] for bucket in Aws(sandbox.environment).s3.list_buckets()["Buckets"]]
        assert sorted(names) == ["kept.bucket", sandbox.bucket]


def test_a_large_upload_survives_and_is_read_by_ranges(opened: Any, tmp_path: Path) -> None:
    data = os.urandom(30_000_000)
    (tmp_path / "large").write_bytes(data)
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        aws.s3.upload_file(str(tmp_path / "large"), aws.bucket, "large", ExtraArgs={"Metadata": {"sha256": "abc"}})
        etag = aws.s3.head_object(Bucket=aws.bucket, Key="large")["ETag"]
        assert etag.endswith('-4"')
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        head = aws.s3.head_object(Bucket=aws.bucket, Key="large")
        assert (head["ETag"], head["ContentLength"], head["Metadata"]) == (etag, len(data), {"sha256": "abc"})
        aws.s3.download_file(aws.bucket, "large", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == data
        for span, part in (
            ("bytes=5-9", data[5:10]),
            ("bytes=29999990-", data[29_999_990:]),
            ("bytes=-7", data[-7:]),
            ("bytes=29999999-40000000", data[-1:]),
        ):
            answer = aws.s3.get_object(Bucket=aws.bucket, Key="large", Range=span)
            assert answer["Body"].read() == part
            assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
            assert answer["ContentRange"].endswith(f"/{len(data)}")
        with pytest.raises(aws.s3.exceptions.ClientError, match="InvalidRange"):
            aws.s3.get_object(Bucket=aws.bucket, Key="large", Range="bytes=30000000-")


def test_objects_are_on_disk_soon_and_not_in_memory(opened: Any) -> None:
    """A run writes thousands of frames: gigabytes in memory, or more open files than a process may have."""
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        until(lambda: aws.s3.list_buckets()["Buckets"])
        descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        frame = os.urandom(4_000_000)
        for number in range(60):
            aws.s3.put_object(Bucket=aws.bucket, Key=f"frames/{number}", Body=frame)
        assert len(files_of(sandbox.state_dir)) == 60
        # In kilobytes on Linux, in bytes on macOS; 60 frames are 240 MB.
        unit = 1024 if sys.platform == "darwin" else 1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 120_000 * unit
        if descriptors:
            until(lambda: len(os.listdir("/proc/self/fd")) < descriptors + 20)
        assert aws.s3.get_object(Bucket=aws.bucket, Key="frames/7")["Body"].read() == frame


def test_a_store_that_is_too_large_drops_the_oldest_folder_and_says_so(opened: Any) -> None:
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        for folder in ("output_dir/old", "output_dir/new"):
            for number in range(3):
                aws.s3.put_object(Bucket=aws.bucket, Key=f"{folder}/{number}", Body=b"x" * 100_000)
            time.sleep(0.01)
    with opened(max_bytes=400_000) as sandbox:
        listed = Aws(sandbox.environment).s3.list_objects_v2(Bucket=sandbox.bucket)["Contents"]
        assert [entry["Key"] for entry in listed] == [f"output_dir/new/{number}" for number in range(3)]
        assert "3 oldest objects were dropped" in sandbox.notices[0]


def test_broken_and_half_written_files_are_left_out(opened: Any, tmp_path: Path) -> None:
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        for key in ("whole", "cut"):
            aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=key.encode() * 100)
    for path in files_of(tmp_path / "state"):
        if b'"cut"' in path.read_bytes():
            path.write_bytes(path.read_bytes()[:-10])
    (path.parent / "of a crash.arriving").write_bytes(b"{")
    with opened() as sandbox:
        listed = Aws(sandbox.environment).s3.list_objects_v2(Bucket=sandbox.bucket)["Contents"]
        assert [entry["Key"] for entry in listed] == ["whole"]
        assert any("no whole object" in notice for notice in sandbox.notices)
    assert not list(tmp_path.rglob("*.arriving"))


_WRITE_UNTIL_KILLED = """
import sys, time
from pathlib import Path
import boto3
from lightly_pipeline.sandbox import Sandbox, SandboxTimings
with Sandbox(Path(sys.argv[1]), timings=SandboxTimings.fast(), footage=Path(sys.argv[2]), port=0) as sandbox:
    client = boto3.client("s3", endpoint_url=sandbox.endpoint_url, aws_access_key_id="A", aws_secret_access_key="B",
                          region_name="us-east-1")
    for number in range(1_000_000):
        body = str(number).encode() * 1000
        client.put_object(Bucket=sandbox.bucket, Key="same", Body=body, Metadata={"n": str(number)})
        print(number, flush=True)
"""


def test_a_killed_sandbox_has_saved_all_that_it_acknowledged(
    opened: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    footage = tmp_path_factory.getbasetemp() / "footage"
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITE_UNTIL_KILLED, str(tmp_path / "state"), str(footage)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    # Whole lines only: the last one may have been cut off.
    acknowledged += [int(line) for line in process.stdout if line.endswith(b"\n")]
    process.wait()
    with opened() as sandbox:
        found = Aws(sandbox.environment).s3.get_object(Bucket=sandbox.bucket, Key="same")
        number = found["Metadata"]["n"]
        assert int(number) >= acknowledged[-1]
        assert found["Body"].read() == number.encode() * 1000


def test_compare_and_swap_loses_no_update_between_threads(opened: Any) -> None:
    with opened() as sandbox:
        aws = Aws(sandbox.environment)
        aws.s3.put_object(Bucket=aws.bucket, Key="counter", Body=b"0")

        def increment() -> None:
            mine = Aws(sandbox.environment)
            done = 0
            while done < 10:
                seen = mine.s3.get_object(Bucket=mine.bucket, Key="counter")
                value = int(seen["Body"].read())
                try:
                    mine.s3.put_object(
                        Bucket=mine.bucket, Key="counter", Body=str(value + 1).encode(), IfMatch=seen["ETag"]
                    )
                except mine.s3.exceptions.ClientError as error:
                    if error.response["Error"]["Code"] != "PreconditionFailed":
                        raise
                else:
                    done += 1

        threads = [threading.Thread(target=increment) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert aws.s3.get_object(Bucket=aws.bucket, Key="counter")["Body"].read() == b"60"


def test_a_reader_gets_one_version_whole_while_it_is_replaced(opened: Any) -> None:
    """The head of one version with the bytes of the next would pass for a broken download, or another's lease."""
    with opened() as sandbox:
        aws, ended = Aws(sandbox.environment), threading.Event()

        def write(number: int) -> None:
            body = f"{number},".encode() * 1000
            aws.s3.put_object(Bucket=aws.bucket, Key="k", Body=body, Metadata={"n": str(number)})

        def keep_writing() -> None:
            for number in itertools.count(1):
                if ended.is_set():
                    return
                write(number)

        write(0)
        writer = threading.Thread(target=keep_writing)
        writer.start()
        try:
            seen = set()
            for _ in range(150):
                answer = aws.s3.get_object(Bucket=aws.bucket, Key="k", Range="bytes=0-")
                number, body = answer["Metadata"]["n"], answer["Body"].read()
                assert body == f"{number},".encode() * 1000
                assert answer["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'  # noqa: S324 (S3's own)
                seen.add(number)
        finally:
            ended.set()
            writer.join()
        assert len(seen) > 5


def test_instances_are_the_same_in_each_run_and_stopped(opened: Any) -> None:
    with opened(instances=3) as sandbox:
        ids = sandbox.instance_ids
        aws = Aws(sandbox.environment)
        aws.start(ids[1])
        aws.result(aws.send('echo here > "$XDG_CACHE_HOME/mark"', instance=ids[1]), ids[1])
    with opened(instances=3) as sandbox:
        aws = Aws(sandbox.environment)
        assert sandbox.instance_ids == ids
        assert sandbox.environment["LIGHTLY_INSTANCES"] == ",".join(ids)
        assert [aws.state(instance) for instance in ids] == ["stopped"] * 3
        aws.start(ids[1])
        result = aws.result(aws.send('cat "$XDG_CACHE_HOME/mark"', instance=ids[1]), ids[1])
        assert result["StandardOutputContent"] == "here\n"


def test_a_taken_port_is_one_sentence_and_no_port_finds_another(opened: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(SandboxError, match=rf"cannot listen on port {port} \(Address already in use\)"),
            opened(port=port),
        ):
            pass
    with contextlib.ExitStack() as stack:
        # Somebody else's sandbox may hold the default port already, which serves as well.
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", DEFAULT_PORT)))
        with opened(port=None) as sandbox:
            assert not sandbox.endpoint_url.endswith(f":{DEFAULT_PORT}")


def test_a_folder_that_is_in_use_is_refused_and_cannot_be_reset(opened: Any, tmp_path: Path) -> None:
    with opened():
        with pytest.raises(SandboxError, match=f"in use by process {os.getpid()}"), opened():
            pass
        with pytest.raises(SandboxError, match="in use"):
            reset_sandbox(tmp_path / "state")


def test_a_reset_removes_what_is_the_sandboxes_and_nothing_else(opened: Any, tmp_path: Path) -> None:
    with opened() as sandbox:
        Aws(sandbox.environment).s3.put_object(Bucket=sandbox.bucket, Key="k", Body=b"v")
    (tmp_path / "state" / "mine.txt").write_text("mine")
    reset_sandbox(tmp_path / "state")
    assert (tmp_path / "state" / "mine.txt").read_text() == "mine"
    with opened() as sandbox:
        assert Aws(sandbox.environment).s3.list_objects_v2(Bucket=sandbox.bucket)["KeyCount"] == 0
