"""What stands in front of moto's application.

A log of all calls, injected faults, one lock around conditional writes (moto checks a condition and writes afterwards,
which is a compare-and-swap only if nobody comes in between), GetObject in pieces, errors instead of tracebacks, the
control endpoint, and a door that is closed to web pages: this server runs commands, and a page in somebody's browser
could otherwise send it some.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request, Response

from lightly_pipeline.sandbox.aws import control, protocol
from lightly_pipeline.sandbox.aws.faults import Answer
from lightly_pipeline.sandbox.aws.objects import answer_get
from lightly_pipeline.sandbox.aws.protocol import Identity

if TYPE_CHECKING:
    from lightly_pipeline.sandbox.aws.cloud import Cloud

logger = logging.getLogger(__name__)

_HOSTS = ("127.0.0.1", "localhost")
# Nobody hears it: a call is lost on its way only where its caller is gone.
_LOST = Answer("RequestTimeout", "The request was lost on its way to the sandbox.", 408)
_WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Dispatcher(DomainDispatcherApplication):  # type: ignore[misc]
    """moto's, which looks through its folders on disk at each request: a fifth of the time of a small one."""

    def __init__(self) -> None:
        super().__init__(create_backend_app)
        self.get_backend_for_host = functools.lru_cache(maxsize=256)(super().get_backend_for_host)


class Front:
    """The WSGI application of one cloud."""

    def __init__(self, cloud: "Cloud") -> None:
        self._cloud = cloud
        self._moto: _WsgiApp = _Dispatcher()
        self._conditional = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request, as WSGI wants it."""
        refusal = _refusal(environ)
        if refusal is not None:
            protocol.discard_body(environ)
            return Response(refusal, 403)(environ, start_response)
        if environ.get("PATH_INFO", "").startswith(control.PREFIX):
            return control.control(self._cloud, Request(environ))(environ, start_response)
        identity = protocol.identify(environ)
        if identity.service == "s3" and environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            answer = self._answer(environ, start_response, identity)
            # Before the client hears of it.
            self._cloud.stored(identity.operation, protocol.bucket_and_key(environ))
            return answer
        return self._answer(environ, start_response, identity)

    def _answer(
        self, environ: dict[str, Any], start_response: Callable[..., Any], identity: Identity
    ) -> Iterable[bytes]:
        """Carry a call out, or not, as the faults say; and write it down."""
        status = 0

        def remember(status_line: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal status
            status = int(status_line.split(" ", 1)[0])
            return start_response(status_line, headers, exc_info)

        with self._cloud.calls.under_way_now(identity.name):
            delay = self._cloud.faults.take_delay(identity.name, identity.text)
            if delay > 0:
                time.sleep(delay)
            held = self._cloud.faults.held(identity.name, identity.text, answer=False)
            if held is not None and not held.passes():
                protocol.discard_body(environ)
                return protocol.error(environ, identity.service, _LOST)(environ, start_response)
            fault = self._cloud.faults.take(identity.name, identity.text)
            try:
                if fault is None:
                    answer = self._serve(environ, identity, remember)
                    held = self._cloud.faults.held(identity.name, identity.text, answer=True)
                    if held is not None:
                        held.passes()
                    return answer
                if fault.lost:
                    _drain(self._serve(environ, identity, lambda *_: lambda _data: None))
                else:
                    protocol.discard_body(environ)
                return protocol.error(environ, identity.service, fault)(environ, remember)
            finally:
                resource = identity.text if identity.service == "s3" else ""
                self._cloud.calls.record(identity.caller, identity.name, resource, status)

    def _serve(
        self, environ: dict[str, Any], identity: Identity, start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        try:
            if environ["REQUEST_METHOD"] not in ("GET", "HEAD") and (
                "HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ
            ):
                with self._conditional:
                    return self._moto(environ, start_response)
            if identity.name == "s3:GetObject":
                place = protocol.bucket_and_key(environ)
                response = answer_get(self._moto, environ, lambda: self._cloud.find_object(*place))
                if response is not None:
                    return response(environ, start_response)
            return self._moto(environ, start_response)
        except HTTPException as error:
            return error(environ, start_response)
        except NotImplementedError as error:
            answer = Answer("NotImplemented", f"The sandbox does not know this: {error}", 501)
        except Exception as error:
            logger.exception("moto failed at %s %s", identity.name, environ.get("PATH_INFO"))
            answer = Answer("InternalError", f"The sandbox failed: {error!r}", 500)
        return protocol.error(environ, identity.service, answer)(environ, start_response)


def _refusal(environ: dict[str, Any]) -> str | None:
    """Why a request is not for us: a web page sent it, or it came by a name that is not this machine's own."""
    if "HTTP_ORIGIN" in environ:
        return "The sandbox does not answer web pages."
    host = environ.get("HTTP_HOST", "").rpartition(":")[0] or environ.get("HTTP_HOST", "")
    # `bucket.localhost` is S3's other style of addresses.
    if host and host not in _HOSTS and not host.endswith(".localhost"):
        return f"The sandbox answers at {' and '.join(_HOSTS)}, not at {host}."
    return None


def _drain(body: Iterable[bytes]) -> None:
    for _ in body:
        pass
    close = getattr(body, "close", None)
    if close is not None:
        close()
