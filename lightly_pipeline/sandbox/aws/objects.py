"""Large objects without large memory: bytes in files where moto has them in memory.

moto joins the parts of an upload in memory several times over, and reads a whole object for each range of it that is
asked for. Here the parts are joined in a file, and GetObject is answered from the file that the bucket store has made.
"""

import hashlib
import itertools
import mmap
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moto.s3.exceptions import EntityTooSmall, InvalidPart, MalformedXML
from moto.s3.models import FakeKey, FakeMultipart
from moto.s3.utils import compute_checksum
from moto.settings import S3_UPLOAD_PART_MIN_SIZE
from werkzeug.test import run_wsgi_app
from werkzeug.wrappers import Response

from lightly_pipeline.sandbox.aws.grafts import Grafts

_CHUNK = 1024 * 1024
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
# A GET with one of these asks for more than the current bytes.
_SPECIAL = re.compile(
    r"(?:^|&)(?:acl|attributes|legal-hold|partNumber|response-|retention|tagging|torrent|uploadId|versionId)"
)


class FileBytes:
    """An object's bytes in a file, opened only while they are read: stands where moto keeps a temporary file."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self._position = 0

    def seek(self, position: int) -> None:
        """Where the next `read` begins."""
        self._position = position

    def read(self, size: int = -1) -> bytes:
        """Bytes from the position on."""
        with self.path.open("rb") as file:
            file.seek(self.offset + self._position)
            data = file.read(size)
        self._position += len(data)
        return data

    def close(self) -> None:
        """Nothing is open between two reads, and the file is its owner's."""


class _Joined(FileBytes):
    """The joined parts of an upload, in a file of its own that goes with it."""

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


def graft(grafts: Grafts, scratch: Path) -> None:
    """Let moto join uploads in files under `scratch`, and know each ETag at once, until `grafts` is undone."""
    value = FakeKey.value
    numbers = itertools.count()

    def set_value(key: Any, new: Any) -> None:
        if isinstance(new, _Joined):
            key._value_buffer.close()
            key._value_buffer = new
            key.contentsize = new.path.stat().st_size
        else:
            value.fset(key, new)
            if key._etag is None:
                # moto works it out later, from the buffer and without its lock, while others read from it.
                data = new.encode() if isinstance(new, str) else new
                key._etag = hashlib.md5(data, usedforsecurity=False).hexdigest()

    def complete(multipart: Any, body: Iterator[tuple[int, str]]) -> tuple[Any, str, Any]:
        path = scratch / f"joined-{next(numbers)}"
        try:
            return _join(multipart, body, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    grafts.replace(FakeKey, "value", property(value.fget, set_value))
    grafts.replace(FakeMultipart, "complete", complete)


def _join(multipart: Any, body: Iterator[tuple[int, str]], path: Path) -> tuple[_Joined, str, tuple[str, str, int]]:
    """CompleteMultipartUpload's bytes, ETag and checksum (type, value, parts), as FakeMultipart.complete gives them."""
    algorithm = multipart.metadata.get("x-amz-checksum-algorithm") or "CRC64NVME"
    kind = multipart.metadata.get("x-amz-checksum-type")
    if not kind:
        kind = "FULL_OBJECT" if algorithm == "CRC64NVME" else "COMPOSITE"
    digests, checksums, parts, last = bytearray(), bytearray(), 0, None
    with path.open("wb") as file:
        for number, etag in body:
            part = multipart.parts.get(number)
            if part is None or part.etag.strip('"') != etag.strip('"'):
                raise InvalidPart()
            if last is not None and last.contentsize < S3_UPLOAD_PART_MIN_SIZE:
                raise EntityTooSmall()
            data = part.value
            file.write(data)
            digests += bytes.fromhex(part.etag.strip('"'))
            if kind == "COMPOSITE":
                checksums += compute_checksum(data, algorithm, encode_base64=False)
            parts, last = parts + 1, part
    if parts == 0:
        raise MalformedXML
    if kind == "COMPOSITE":
        checksum = compute_checksum(bytes(checksums), algorithm)
    else:
        checksum = _checksum_of_file(path, algorithm)
    counted = parts if kind == "COMPOSITE" else 1
    etag = f"{hashlib.md5(bytes(digests), usedforsecurity=False).hexdigest()}-{parts}"
    return _Joined(path), etag, (kind, checksum.decode(), counted)


def _checksum_of_file(path: Path, algorithm: str) -> bytes:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return bytes(compute_checksum(b"", algorithm))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return bytes(compute_checksum(data, algorithm))  # type: ignore[arg-type]


def answer_get(application: Callable[..., Any], environ: dict[str, Any], find: Callable[[], Any]) -> Response | None:
    """GetObject, whole or a range, read piece by piece; None where moto is to answer itself (errors, special cases).

    `find` looks up moto's key. What the answer says besides the bytes is what moto says to HeadObject.
    """
    if _SPECIAL.search(environ.get("QUERY_STRING", "")):
        return None
    wanted = environ.get("HTTP_RANGE")
    span = _RANGE.fullmatch(wanted) if wanted else None
    if wanted and (span is None or span.group(0) == "bytes=-"):
        return None
    key = find()
    head = {name: value for name, value in environ.items() if name != "HTTP_RANGE"}
    _, status, headers = run_wsgi_app(application, {**head, "REQUEST_METHOD": "HEAD"}, buffered=True)
    if not status.startswith("200"):
        return None
    if key is None or find() is not key:
        # Replaced in between: head and bytes would be of different objects. moto looks it up once.
        return None
    start, stop = _bounds(span, key.size)
    if span is not None and start >= stop:
        return None
    headers["Content-Length"] = str(stop - start)
    headers["Accept-Ranges"] = "bytes"
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{key.size}"
    if span is not None or "-" in headers.get("ETag", ""):
        # Of a part it would be wrong; and moto gives the checksum of checksums of several parts as that of the whole,
        # which boto3 compares with the bytes.
        for name in [name for name, _ in headers if name.lower().startswith("x-amz-checksum-")]:
            del headers[name]
    return Response(_bytes(key, start, stop), 206 if span else 200, headers, direct_passthrough=True)


def _bounds(span: "re.Match[str] | None", size: int) -> tuple[int, int]:
    if span is None:
        return 0, size
    first, last = span.groups()
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


def _bytes(key: Any, start: int, stop: int) -> Iterator[bytes]:
    """The bytes of a key as it is now, whatever becomes of it while they are sent."""
    with key.lock:
        buffer = key._value_buffer
        if not isinstance(buffer, FileBytes):
            # Not saved yet: the newest of what moto holds in memory.
            buffer.seek(start)
            return iter([buffer.read(stop - start)])
        file = buffer.path.open("rb")
    return _pieces(file, buffer.offset + start, stop - start)


def _pieces(file: Any, position: int, size: int) -> Iterator[bytes]:
    with file:
        file.seek(position)
        while size > 0 and (data := file.read(min(_CHUNK, size))):
            size -= len(data)
            yield data
