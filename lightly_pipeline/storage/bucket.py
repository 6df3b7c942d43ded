"""The bucket as the pipeline uses it: idempotent uploads, look-ups and listings over a boto3 S3 client.

What lies where is `videos.py`'s; Dagster is not known here. Every upload is safe to repeat and to kill: the object
appears whole or not at all, and parts that an earlier, killed upload of the same object left behind are removed.
"""

import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MIB = 1024 * 1024
# 8 MiB × 4 threads: about 110 MB at peak, and S3's limit of 10,000 parts is reached at 80 GB.
_TRANSFER = TransferConfig(multipart_threshold=8 * _MIB, multipart_chunksize=8 * _MIB, max_concurrency=4)
_ABSENT = {"404", "NoSuchKey", "NotFound"}


class StorageError(Exception):
    """The bucket could not do what was asked; the message names the bucket or object and the remedy."""


@dataclass(frozen=True)
class StoredObject:
    """An object in the bucket. `metadata` is empty where it comes from a listing."""

    key: str
    size: int
    etag: str
    last_modified: datetime
    metadata: Mapping[str, str]

    @property
    def sha256(self) -> str | None:
        """The content's SHA-256 in hex, where the uploader left it."""
        return self.metadata.get("sha256")


@dataclass(frozen=True)
class Upload:
    """What `store` did: the object as it is now, and whether bytes had to travel for it."""

    object: StoredObject
    uploaded: bool


class VideoBucket:
    """One bucket through one boto3 S3 client."""

    def __init__(self, client: "S3Client", name: str) -> None:
        self.client = client
        self.name = name

    def uri(self, key: str = "") -> str:
        """The `s3://` address of `key`."""
        return f"s3://{self.name}/{key}"

    def store(self, path: Path, key: str, *, sha256: str, metadata: Mapping[str, str]) -> Upload:
        """Put the file at `path` under `key`, unless an object of this SHA-256 is there.

        `metadata` values may hold any text; they are percent-encoded, as S3 takes ASCII only. Raises StorageError
        where the bucket refuses, or holds another size afterwards.
        """
        present = self.find(key)
        size = path.stat().st_size
        if present is not None and present.sha256 == sha256 and present.size == size:
            return Upload(present, uploaded=False)
        encoded = {name: urllib.parse.quote(value, safe=" :/@+,;=()!'?&#~") for name, value in metadata.items()}
        self._upload(path, key, {**encoded, "sha256": sha256})
        stored = self.find(key)
        if stored is None or stored.size != size:
            found = "nothing" if stored is None else f"{stored.size} bytes"
            raise StorageError(
                f"{self.uri(key)} holds {found} after {size} bytes were uploaded: another writer may use the same "
                f"key; run the step again."
            )
        return Upload(stored, uploaded=True)

    def find(self, key: str) -> StoredObject | None:
        """The object under `key`, or None."""
        try:
            head = self.client.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            # HEAD has no body, so that a missing bucket and a missing object look alike.
            if error.response["Error"]["Code"] in _ABSENT:
                self._require_bucket()
                return None
            raise self._sentence(error, f"read {key}") from error
        except BotoCoreError as error:
            raise self._sentence(error, f"read {key}") from error
        metadata = {name: urllib.parse.unquote(value) for name, value in head["Metadata"].items()}
        return StoredObject(key, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"], metadata)

    def read(self, key: str, *, limit: int = 64 * _MIB) -> bytes | None:
        """The content of a small object, or None where there is none; StorageError beyond `limit` bytes."""
        try:
            answer = self.client.get_object(Bucket=self.name, Key=key)
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in _ABSENT:
                return None
            raise self._sentence(error, f"read {key}") from error
        with answer["Body"] as body:
            if answer["ContentLength"] > limit:
                raise StorageError(f"{self.uri(key)} has {answer['ContentLength']} bytes; at most {limit} are read.")
            return body.read()

    def list(self, prefix: str, *, after: str = "") -> Iterator[StoredObject]:
        """The objects under `prefix` behind the key `after`, by key; asked for by the 1,000, as they are needed."""
        asked: dict[str, Any] = {"Bucket": self.name, "Prefix": prefix}
        if after:
            asked["StartAfter"] = after
        try:
            for page in self.client.get_paginator("list_objects_v2").paginate(**asked):
                for item in page.get("Contents", []):
                    yield StoredObject(item["Key"], item["Size"], item["ETag"].strip('"'), item["LastModified"], {})
        except (ClientError, BotoCoreError) as error:
            raise self._sentence(error, f"list {prefix}") from error

    def download(self, key: str, path: Path) -> None:
        """Copy the object to `path`; a file appears only when it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        try:
            self.client.download_file(self.name, key, str(partial), Config=_TRANSFER)
            partial.replace(path)
        except (ClientError, BotoCoreError) as error:
            raise self._sentence(error, f"read {key}") from error
        finally:
            partial.unlink(missing_ok=True)

    def _upload(self, path: Path, key: str, metadata: Mapping[str, str], *, attempts: int = 3) -> None:
        self._abort_unfinished_uploads(key)
        try:
            with path.open("rb") as file:
                self.client.upload_fileobj(
                    file, self.name, key, ExtraArgs={"Metadata": dict(metadata)}, Config=_TRANSFER
                )
        except (ClientError, BotoCoreError, S3UploadFailedError) as error:
            # Another process that uploads the same key took our parts for those of a killed upload.
            if "NoSuchUpload" in str(error) and attempts > 1:
                self._upload(path, key, metadata, attempts=attempts - 1)
            else:
                raise self._sentence(error, f"write {key}") from error

    def _abort_unfinished_uploads(self, key: str) -> None:
        """Remove the parts that killed uploads of `key` left; they are billed and never shown otherwise."""
        try:
            for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=key):
                for upload in page.get("Uploads", []):
                    if upload["Key"] == key:
                        self.client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload["UploadId"])
        except (ClientError, BotoCoreError) as error:
            raise self._sentence(error, f"list unfinished uploads of {key}") from error

    def _require_bucket(self) -> None:
        try:
            self.client.head_bucket(Bucket=self.name)
        except (ClientError, BotoCoreError) as error:
            raise self._sentence(error, "be reached") from error

    def _sentence(self, error: Exception, purpose: str) -> StorageError:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
        if code in {"NoSuchBucket", "404"}:
            return StorageError(
                f"Bucket {self.name} does not exist (could not {purpose}): create it, or set LIGHTLY_BUCKET to yours."
            )
        if code in {"AccessDenied", "403", "Forbidden", "AllAccessDisabled"}:
            return StorageError(
                f"Bucket {self.name} refuses these credentials (could not {purpose}): allow the role s3:ListBucket, "
                f"s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject and s3:AbortMultipartUpload on it."
            )
        if code in {"400", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}:
            # HEAD has no body: of an expired token it says 400 alone.
            return StorageError(
                f"S3 does not accept the credentials for bucket {self.name} (could not {purpose}, {code}): renew them, "
                f"and check AWS_PROFILE and AWS_REGION."
            )
        if code in {"NoCredentialsError", "PartialCredentialsError"}:
            return StorageError(
                f"No AWS credentials were found (could not {purpose} in bucket {self.name}): configure them for "
                f"boto3, or run inside the sandbox with `lightly-pipeline sandbox -- COMMAND`."
            )
        return StorageError(f"Bucket {self.name} could not {purpose}: {error}")
