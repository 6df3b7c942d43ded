"""The HTTP server: moto's application on a port of this machine, and what stands in front of it.

In front: a log of all calls, injected faults, one lock around conditional writes (moto checks a condition and writes
afterwards, which is a compare-and-swap only if nobody comes in between), errors instead of tracebacks, and the control
endpoint `/_sandbox/…` (no bucket can have that name) for tests in other processes and for what runs on an instance.
"""

import json
import logging
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from moto.core.routing import get_service_router
from moto.moto_server.werkzeug_app import (
    BackendRequest,
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from lightly_pipeline.sandbox.aws.faults import Answer
from lightly_pipeline.sandbox.aws.objects import answer_get
from lightly_pipeline.sandbox.errors import SandboxError

if TYPE_CHECKING:
    from lightly_pipeline.sandbox.aws.cloud import Cloud

logger = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_CREDENTIAL = re.compile(r"Credential=([^/]+)/[^/]+/([^/]+)/([^/]+)/aws4_request")
_FORM_LIMIT = 8 * 1024 * 1024
_WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Handler(MotoRequestHandler):  # type: ignore[misc]
    """Without a line on the terminal for each request."""

    def log(self, type: str, message: str, *args: Any) -> None:
        logger.debug(message, *args)


class Server:
    """Serves one cloud from its construction on (the port is bound at once) until `stop`."""

    def __init__(self, cloud: "Cloud", *, port: int | None, default_port: int) -> None:
        self._cloud = cloud
        self._socket = _bind(port, default_port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{_HOST}:{self.port}"
        self._application = _Front(cloud)
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._server = make_server(
            _HOST,
            self.port,
            self._application,
            threaded=True,
            request_handler=_Handler,
            fd=self._socket.fileno(),
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="sandbox server",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop to answer and free the port."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None
        self._socket.close()


def _bind(port: int | None, default_port: int) -> socket.socket:
    """A listening socket on `port`; without one on the default port if that is free, else on any."""
    if port is not None:
        try:
            return _listen(port)
        except OSError as error:
            raise SandboxError(
                f"The sandbox cannot listen on port {port} ({error.strerror}): end what uses it, or choose another "
                f"port, or none."
            ) from error
    try:
        return _listen(default_port)
    except OSError:
        return _listen(0)


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((_HOST, port))
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    return listening


class _Front:
    """The WSGI application: control, faults, log, then moto."""

    def __init__(self, cloud: "Cloud") -> None:
        self._cloud = cloud
        self._moto: _WsgiApp = DomainDispatcherApplication(create_backend_app)
        self._conditional = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path.startswith("/_sandbox/"):
            return _control(self._cloud, Request(environ))(environ, start_response)
        caller, service, operation = _identify(environ)
        if service == "s3" and environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            with self._cloud.writes.one():
                answer = self._answer(environ, start_response, caller, service, operation)
            self._cloud.stored(operation, _bucket_and_key(environ))
            return answer
        return self._answer(environ, start_response, caller, service, operation)

    def _answer(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        caller: str,
        service: str,
        operation: str,
    ) -> Iterable[bytes]:
        name = f"{service}:{operation}"
        answer = self._cloud.faults.take(name)
        status = 0

        def remember(status_line: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal status
            status = int(status_line.split(" ", 1)[0])
            return start_response(status_line, headers, exc_info)

        try:
            if answer is not None and answer.lost:
                _drain(self._serve(environ, operation, lambda *_: lambda _data: None))
            if answer is not None:
                return _error(environ, service, answer)(environ, remember)
            return self._serve(environ, operation, remember)
        finally:
            resource = "/".join(_bucket_and_key(environ)) if service == "s3" else ""
            self._cloud.calls.record(caller, name, resource, status)

    def _serve(self, environ: dict[str, Any], operation: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
        conditional = environ["REQUEST_METHOD"] not in ("GET", "HEAD") and (
            "HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ
        )
        try:
            if conditional:
                with self._conditional:
                    return self._moto(environ, start_response)
            if operation == "GetObject":
                place = _bucket_and_key(environ)
                response = answer_get(self._moto, environ, lambda: self._cloud.find_object(*place))
                if response is not None:
                    return response(environ, start_response)
            return self._moto(environ, start_response)
        except HTTPException as error:
            return error(environ, start_response)
        except NotImplementedError as error:
            answer = Answer("NotImplemented", f"The sandbox does not know this: {error}", 501)
        except Exception as error:
            logger.exception("moto failed at %s %s", environ["REQUEST_METHOD"], environ.get("PATH_INFO"))
            answer = Answer("InternalError", f"The sandbox failed: {error!r}", 500)
        return _error(environ, _identify(environ)[1], answer)(environ, start_response)


def _bucket_and_key(environ: dict[str, Any]) -> tuple[str, str]:
    # WSGI's paths are bytes that are written as Latin-1.
    path = environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace")
    bucket, _, key = path.lstrip("/").partition("/")
    return bucket, key


def _drain(body: Iterable[bytes]) -> None:
    for _ in body:
        pass
    close = getattr(body, "close", None)
    if close is not None:
        close()


def _identify(environ: dict[str, Any]) -> tuple[str, str, str]:
    """Who calls ("user" or "instance"), the service's name, and the operation."""
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    if not authorization:
        # A presigned URL carries it in the query.
        query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""))
        credential = (query.get("X-Amz-Credential") or [""])[0]
        authorization = f"Credential={credential}" if credential else ""
    found = _CREDENTIAL.search(authorization)
    service = found.group(3) if found else "s3"
    caller = "instance" if found and found.group(1).startswith("ASIA") else "user"
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target:
        return caller, service, target.rpartition(".")[2]
    if service == "s3":
        return caller, service, _s3_operation(environ)
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        length = min(int(environ.get("CONTENT_LENGTH") or 0), _FORM_LIMIT)
        body = environ["wsgi.input"].read(length)
        environ["wsgi.input"] = BytesIO(body)
        form = urllib.parse.parse_qs(body.decode(errors="replace"))
        return caller, service, (form.get("Action") or ["Unknown"])[0]
    return caller, service, "Unknown"


def _s3_operation(environ: dict[str, Any]) -> str:
    try:
        operation, _ = get_service_router("s3").match(BackendRequest(environ))
    except (HTTPException, NotImplementedError, LookupError):
        return "Unknown"
    return str(operation.name)


def _error(environ: dict[str, Any], service: str, answer: Answer) -> Response:
    """An error as the service's protocol writes it."""
    code, message = escape(answer.code), escape(answer.message)
    if environ.get("HTTP_X_AMZ_TARGET"):
        body = json.dumps({"__type": answer.code, "message": answer.message})
        return Response(body, answer.status, content_type="application/x-amz-json-1.1")
    if service == "s3":
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    elif service == "ec2":
        error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        body = f"<?xml version='1.0'?><Response><Errors>{error}</Errors><RequestID>sandbox</RequestID></Response>"
    else:
        error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        body = f"<?xml version='1.0'?><ErrorResponse>{error}<RequestId>sandbox</RequestId></ErrorResponse>"
    return Response("" if environ["REQUEST_METHOD"] == "HEAD" else body, answer.status, content_type="text/xml")


def _control(cloud: "Cloud", request: Request) -> Response:
    """The control endpoint: faults, calls, and the power button that an instance's `shutdown` presses."""
    parts = request.path.split("/")[2:]
    try:
        if parts == ["calls"] and request.method == "GET":
            return Response(json.dumps(cloud.calls.as_json()), content_type="application/json")
        if request.method == "POST":
            # A page in somebody's browser cannot send this type to another origin without being asked first.
            if request.mimetype != "application/json":
                return Response("The control endpoint takes application/json.", 415)
            wish = request.get_json()
            if len(parts) == 2 and parts[0] == "faults":
                cloud.faults.carry_out(parts[1], wish)
                return Response("{}", content_type="application/json")
            if len(parts) == 3 and parts[0] == "instances" and parts[2] == "power":
                _press_power_button(cloud, parts[1], wish)
                return Response("{}", content_type="application/json")
    except (ValueError, HTTPException) as error:
        return Response(str(error), 400)
    return Response(f"The sandbox has no {request.method} {request.path}.", 404)


def _press_power_button(cloud: "Cloud", instance_id: str, wish: dict[str, Any]) -> None:
    machine = cloud.machines.get(instance_id)
    if machine is None:
        raise ValueError(f"There is no instance {instance_id}.")
    if wish.get("action") == "cancel":
        machine.cancel_shutdown()
    elif wish.get("action") == "reboot":
        machine.reboot()
    else:
        machine.shut_down_from_inside(float(wish.get("minutes", 0)))
