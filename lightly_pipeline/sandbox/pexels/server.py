"""The stand-in's two servers, API and file host, each on a port of its own as on Pexels, in threads."""

import collections
import contextlib
import html
import logging
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from lightly_pipeline.sandbox.pexels.api import Api
from lightly_pipeline.sandbox.pexels.faults import Faults, Where
from lightly_pipeline.sandbox.pexels.files import FileHost
from lightly_pipeline.sandbox.pexels.library import Library

_log = logging.getLogger(__name__)

# Agents that Pexels turns away, with a page instead of a JSON document; so is a request without any.
_BLOCKED_AGENTS = re.compile(r"$|python-requests/|python-urllib|python-urllib3/|curl/|go-http-client/", re.I)
_BLOCKED_PAGE = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Access denied</body></html>"
_PAGE = re.compile(r"/video/(?:[a-z0-9-]+-)?(?P<id>\d+)/?")


class PortTaken(OSError):
    """A port that was asked for is in use; the message names it and the way out."""


@dataclass(frozen=True)
class SeenRequest:
    """A request as it arrived, for tests to look at."""

    where: Where
    method: str
    path: str
    headers: dict[str, str]


class PexelsStandIn:
    """Pexels on this machine: `with PexelsStandIn(folder) as pexels: … pexels.root …`.

    `videos` is a folder whose videos are offered; without one, the sandbox's footage is, rendered into and
    cached in `cache`. Ports are chosen freely unless given. Raises NoVideos, NotADirectoryError and
    PortTaken.
    """

    def __init__(
        self,
        videos: Path | None = None,
        *,
        cache: Path,
        api_key: str = "sandbox",
        host: str = "127.0.0.1",
        port: int = 0,
        file_port: int = 0,
    ):
        self.api_key = api_key
        self.faults = Faults()
        self.requests: collections.deque[SeenRequest] = collections.deque(maxlen=10_000)
        self.library = Library.of_footage(cache) if videos is None else Library.of_folder(videos, cache)
        self._host, self._port, self._file_port = host, port, file_port
        self._closing = threading.Event()
        self._running: list[tuple[BaseWSGIServer, threading.Thread]] = []

    @property
    def root(self) -> str:
        """What stands for https://api.pexels.com."""
        return f"http://{self._host}:{self._port}"

    @property
    def file_hosts(self) -> str:
        """What stands for the hosts of Pexels' files: `host:port`, as in the setting PEXELS_FILE_HOSTS."""
        return f"{self._host}:{self._file_port}"

    def start(self) -> None:
        """Listen; on return both servers answer."""
        with contextlib.ExitStack() as sockets:
            api_socket = sockets.enter_context(_listen(self._host, self._port))
            file_socket = sockets.enter_context(_listen(self._host, self._file_port))
            self._port, self._file_port = api_socket.getsockname()[1], file_socket.getsockname()[1]
            api = Api(self.library, self.api_key, f"http://{self.file_hosts}")
            files = FileHost(self.library, self._closing)
            self._closing.clear()
            self._serve(api_socket, _Site("api", self, api=api))
            self._serve(file_socket, _Site("files", self, files=files))

    def stop(self) -> None:
        """Close both ports; answers under way break off. Harmless when it does not run."""
        self._closing.set()
        for server, thread in self._running:
            server.shutdown()
            thread.join()
            server.server_close()
        self._running.clear()

    def __enter__(self) -> "PexelsStandIn":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self, listening: socket.socket, site: "_Site") -> None:
        server = make_server(
            self._host,
            listening.getsockname()[1],
            Request.application(site),
            threaded=True,
            request_handler=_Handler,
            fd=listening.fileno(),
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name=f"pexels-{site.where}", daemon=True)
        thread.start()
        self._running.append((server, thread))


class _Site:
    """One of the two hosts: what both do first, and then its own answer."""

    def __init__(self, where: Where, standin: PexelsStandIn, *, api: Api | None = None, files: FileHost | None = None):
        self.where: Where = where
        self._standin, self._api, self._files = standin, api, files

    def __call__(self, request: Request) -> Response:
        headers = dict(request.headers.items())
        self._standin.requests.append(SeenRequest(self.where, request.method, request.full_path, headers))
        if _BLOCKED_AGENTS.match(request.headers.get("User-Agent", "")):
            return Response(_BLOCKED_PAGE, 403, content_type="text/html; charset=utf-8")
        page = _PAGE.fullmatch(request.path)
        if self._api is not None and page and int(page["id"]) in self._standin.library:
            return self._video_page(int(page["id"]))
        fault = self._standin.faults.take(self.where)
        if fault.drop:
            connection: socket.socket = request.environ["werkzeug.socket"]
            connection.shutdown(socket.SHUT_RDWR)
        if fault.status is not None:
            return Response(fault.body, fault.status, dict(fault.headers))
        if self._api is not None:
            return self._api.answer(request)
        assert self._files is not None  # noqa: S101 - a site is one or the other
        return self._files.answer(request, fault)

    def _video_page(self, video_id: int) -> Response:
        offer = self._standin.library.offer(video_id)
        text = f"{html.escape(offer.title)}, by {html.escape(offer.creator)} (the sandbox's stand-in for Pexels)"
        return Response(f"<!DOCTYPE html><title>{text}</title><p>{text}</p>", content_type="text/html")


class _Handler(WSGIRequestHandler):
    """Logs to this package's logger instead of the terminal."""

    def log(self, type: str, message: str, *args: Any) -> None:
        _log.debug(message, *args)

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        _log.debug("A client went away: %s", error)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise PortTaken(
            error.errno,
            f"Port {port} of {host} cannot be listened on ({error.strerror}): "
            f"end the program that uses it, or choose another port.",
        ) from error
