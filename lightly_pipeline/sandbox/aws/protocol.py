"""What a request to AWS says about itself, and how AWS writes an error: the protocols, without their services."""

import json
import re
import urllib.parse
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape

from moto.core.routing import get_service_router
from moto.moto_server.werkzeug_app import BackendRequest
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from lightly_pipeline.sandbox.aws.faults import Answer

_CREDENTIAL = re.compile(r"Credential=([^/]+)/[^/]+/([^/]+)/([^/]+)/aws4_request")
# Beyond this no request of these protocols goes; S3's bodies are not looked at.
_BODY_LIMIT = 8 * 1024 * 1024


@dataclass(frozen=True)
class Identity:
    """Which call a request is.

    `caller` is "user" or "instance", by the credentials. `text` is where the call names its resources: the path of an
    S3 call, else the body.
    """

    caller: str
    service: str
    operation: str
    text: str

    @property
    def name(self) -> str:
        """`service:Operation`."""
        return f"{self.service}:{self.operation}"


def identify(environ: dict[str, Any]) -> Identity:
    """Which call this is; the body, if it was read, can be read again."""
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    if not authorization:
        # A presigned URL carries it in the query.
        query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""))
        authorization = f"Credential={(query.get('X-Amz-Credential') or [''])[0]}"
    found = _CREDENTIAL.search(authorization)
    service = found.group(3) if found else "s3"
    caller = "instance" if found and found.group(1).startswith("ASIA") else "user"
    if service == "s3":
        return Identity(caller, service, _s3_operation(environ), "/".join(bucket_and_key(environ)))
    text = _body(environ)
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target:
        return Identity(caller, service, target.rpartition(".")[2], text)
    form = urllib.parse.parse_qs(text)
    return Identity(caller, service, (form.get("Action") or ["Unknown"])[0], text)


def bucket_and_key(environ: dict[str, Any]) -> tuple[str, str]:
    """The bucket and the key in the path of an S3 request."""
    # WSGI's paths are bytes that are written as Latin-1.
    path = environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace")
    bucket, _, key = path.lstrip("/").partition("/")
    return bucket, key


def discard_body(environ: dict[str, Any]) -> None:
    """Read what a client is still sending: it would take an early end for a broken connection."""
    left = int(environ.get("CONTENT_LENGTH") or 0)
    while left > 0 and (data := environ["wsgi.input"].read(min(left, 1024 * 1024))):
        left -= len(data)


def error(environ: dict[str, Any], service: str, answer: Answer) -> Response:
    """An error as the service's protocol writes it."""
    code, message = escape(answer.code), escape(answer.message)
    if environ.get("HTTP_X_AMZ_TARGET"):
        body = json.dumps({"__type": answer.code, "message": answer.message})
        return Response(body, answer.status, content_type="application/x-amz-json-1.1")
    if service == "s3":
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    elif service == "ec2":
        inner = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        body = f"<?xml version='1.0'?><Response><Errors>{inner}</Errors><RequestID>sandbox</RequestID></Response>"
    else:
        inner = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        body = f"<?xml version='1.0'?><ErrorResponse>{inner}<RequestId>sandbox</RequestId></ErrorResponse>"
    return Response("" if environ["REQUEST_METHOD"] == "HEAD" else body, answer.status, content_type="text/xml")


def _s3_operation(environ: dict[str, Any]) -> str:
    try:
        operation, _ = get_service_router("s3").match(BackendRequest(environ))
    except (HTTPException, NotImplementedError, LookupError):
        return "Unknown"
    return str(operation.name)


def _body(environ: dict[str, Any]) -> str:
    body = environ["wsgi.input"].read(min(int(environ.get("CONTENT_LENGTH") or 0), _BODY_LIMIT))
    environ["wsgi.input"] = BytesIO(body)
    return str(body.decode(errors="replace"))
