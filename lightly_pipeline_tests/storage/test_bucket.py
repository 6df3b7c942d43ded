"""The bucket: idempotent uploads, honest errors, bounded listings, against the sandbox's S3 over HTTP."""

import hashlib
import os

import boto3
import pytest

from lightly_pipeline.storage import StorageError, VideoBucket, read_folder, read_folders


def is_media(key: str) -> bool:
    return key.endswith(".mp4")


@pytest.fixture
def bucket(sandbox, sandbox_environment):
    client = boto3.client("s3")
    name = f"storage-{os.urandom(6).hex()}"
    client.create_bucket(Bucket=name)
    return VideoBucket(client, name)


def write(path, content):
    path.write_bytes(content)
    return {"path": path, "sha256": hashlib.sha256(content).hexdigest()}


def test_a_file_is_stored_once_and_found_again(bucket, tmp_path):
    file = write(tmp_path / "a.mp4", b"video")
    first = bucket.store(**file, key="input_dir/k/a.mp4", metadata={"creator": "Zoë Ünal, 100 % “real”"})
    second = bucket.store(**file, key="input_dir/k/a.mp4", metadata={})
    assert (first.uploaded, second.uploaded) == (True, False)
    assert second.object.sha256 == file["sha256"]
    assert second.object.metadata["creator"] == "Zoë Ünal, 100 % “real”"


def test_other_content_under_the_same_key_is_a_new_version(bucket, tmp_path):
    bucket.store(**write(tmp_path / "a.mp4", b"one"), key="k", metadata={})
    changed = bucket.store(**write(tmp_path / "a.mp4", b"two"), key="k", metadata={})
    assert changed.uploaded
    assert bucket.read("k") == b"two"


def test_what_a_killed_upload_left_behind_is_removed_by_the_next(bucket, tmp_path):
    left = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="k")
    bucket.client.upload_part(Bucket=bucket.name, Key="k", UploadId=left["UploadId"], PartNumber=1, Body=b"half")
    other = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="k2")
    bucket.store(**write(tmp_path / "a.mp4", b"whole"), key="k", metadata={})
    unfinished = bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])
    assert [upload["UploadId"] for upload in unfinished] == [other["UploadId"]]


def test_a_large_file_travels_in_parts_and_arrives_whole(bucket, tmp_path):
    content = os.urandom(20 * 1024 * 1024)
    upload = bucket.store(**write(tmp_path / "a.mp4", content), key="k", metadata={})
    assert upload.object.size == len(content)
    bucket.download("k", tmp_path / "back" / "a.mp4")
    assert (tmp_path / "back" / "a.mp4").read_bytes() == content
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["a.mp4"]


def test_a_missing_bucket_is_told_from_a_missing_object(bucket):
    assert bucket.find("nothing") is None
    assert bucket.read("nothing") is None
    missing = VideoBucket(bucket.client, "no-such-bucket-here")
    for look in (missing.find, missing.read):
        with pytest.raises(StorageError, match=r"no-such-bucket-here does not exist .* set LIGHTLY_BUCKET"):
            look("nothing")


def test_a_bucket_that_forbids_says_what_the_role_needs(bucket, sandbox, tmp_path):
    sandbox.faults.inject("s3:PutObject", "AccessDenied", times=1)
    with pytest.raises(StorageError, match=r"refuses these credentials .* s3:PutObject"):
        bucket.store(**write(tmp_path / "a.mp4", b"x"), key="k", metadata={})
    assert bucket.find("k") is None


def test_the_right_that_only_the_clearing_up_needs_is_named_too(bucket, sandbox, tmp_path):
    sandbox.faults.inject("s3:ListMultipartUploads", "AccessDenied", times=1)
    with pytest.raises(StorageError, match="s3:ListBucketMultipartUploads"):
        bucket.store(**write(tmp_path / "a.mp4", b"x"), key="k", metadata={})


@pytest.mark.parametrize(
    ("look", "operation", "fault"),
    [
        ("read", "s3:GetObject", {"code": "ExpiredToken", "status": 400}),
        ("find", "s3:HeadObject", {"code": "BadRequest", "status": 400}),
    ],
)
def test_credentials_that_have_expired_are_to_be_renewed(bucket, sandbox, look, operation, fault):
    sandbox.faults.inject(operation, **fault, times=None)
    with pytest.raises(StorageError, match="renew them"):
        getattr(bucket, look)("k")


def test_a_file_over_the_limit_is_not_read_into_memory(bucket, tmp_path):
    bucket.store(**write(tmp_path / "a.mp4", b"12345"), key="k", metadata={})
    with pytest.raises(StorageError, match="has 5 bytes"):
        bucket.read("k", limit=4)


def put(bucket, *keys):
    for key in keys:
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=key.encode())


def test_a_folder_is_its_media_files_and_its_version_is_their_content(bucket):
    put(bucket, "input_dir/a/1.mp4", "input_dir/a/sub/2.mp4", "input_dir/a/notes.txt", "input_dir/ab/3.mp4")
    bucket.client.put_object(Bucket=bucket.name, Key="input_dir/a/", Body=b"")
    folder = read_folder(bucket, "input_dir/a/", is_media)
    assert (folder.name, [file.key for file in folder.files]) == (
        "a",
        ["input_dir/a/1.mp4", "input_dir/a/sub/2.mp4"],
    )
    put(bucket, "input_dir/a/other.txt")
    assert read_folder(bucket, "input_dir/a/", is_media).version == folder.version
    bucket.client.put_object(Bucket=bucket.name, Key="input_dir/a/1.mp4", Body=b"changed")
    assert read_folder(bucket, "input_dir/a/", is_media).version != folder.version


def test_pages_of_folders_meet_without_gap_overlap_or_cut(bucket):
    put(bucket, "input_dir/loose.mp4", *(f"input_dir/f{n}/{m}.mp4" for n in range(7) for m in range(3)))
    seen, after, pages = [], "", 0
    while True:
        page = read_folders(bucket, "input_dir/", is_media, after=after, objects=4)
        seen += [(folder.name, len(folder.files)) for folder in page.folders]
        pages, after = pages + 1, page.after
        if not after:
            break
    assert seen == [(f"f{n}", 3) for n in range(7)]
    assert pages >= 3
