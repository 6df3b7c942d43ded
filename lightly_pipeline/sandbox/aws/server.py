"""The HTTP server: one port of this machine, on which all of the embedded AWS answers."""

import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import make_server

from lightly_pipeline.sandbox.aws.front import Front
from lightly_pipeline.sandbox.errors import SandboxError

if TYPE_CHECKING:
    from lightly_pipeline.sandbox.aws.cloud import Cloud

logger = logging.getLogger(__name__)

_HOST = "127.0.0.1"


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
        self._application = Front(cloud)
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
            kwargs={"poll_interval": 0.1},
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
