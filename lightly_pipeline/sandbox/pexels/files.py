"""The file host that the stand-in shows: files and ranges of them, with validators, and faults on demand."""

import gzip
import re
import threading
from collections.abc import Iterable, Iterator

from werkzeug.utils import send_file
from werkzeug.wrappers import Request, Response

from lightly_pipeline.sandbox.pexels.faults import Fault
from lightly_pipeline.sandbox.pexels.library import Library

_LINK = re.compile(r"/video-files/(?P<id>\d+)/\d+-[a-z]+_\d+_\d+_\d+fps-(?P<rendition>\d+)\.mp4")
_CHUNK = 64 * 1024


class FileHost:
    """Serves a library's files; `closing` is set when the stand-in stops and ends what is slow."""

    def __init__(self, library: Library, closing: threading.Event):
        self._library = library
        self._closing = closing

    def answer(self, request: Request, fault: Fault) -> Response:
        """The answer to one request whose user agent is not blocked."""
        link = _LINK.fullmatch(request.path)
        try:
            path = self._library.file(int(link["id"]), int(link["rendition"])) if link else None
        except (KeyError, IndexError):
            path = None
        if path is None or not path.is_file():
            return Response("Not Found", 404)
        environ = dict(request.environ)
        if fault.no_range:
            environ.pop("HTTP_RANGE", None)
        response = send_file(path, environ, mimetype="video/mp4", conditional=True, etag=fault.etag or True)
        if fault.no_range:
            response.headers.pop("Accept-Ranges", None)
        if fault.gzip:
            response.direct_passthrough = False
            response.set_data(gzip.compress(response.get_data()))
            response.headers["Content-Encoding"] = "gzip"
        if fault.no_length:
            response.headers.pop("Content-Length", None)
        if fault.add_length:
            response.headers["Content-Length"] = str((response.content_length or 0) + fault.add_length)
        if fault.break_off_after is not None or fault.bytes_per_second is not None:
            response.response = self._hampered(response.iter_encoded(), fault)
            response.direct_passthrough = True
        return response

    def _hampered(self, body: Iterable[bytes], fault: Fault) -> Iterator[bytes]:
        left = fault.break_off_after
        for block in body:
            for begin in range(0, len(block), _CHUNK):
                piece = block[begin : begin + _CHUNK]
                if left is not None:
                    piece = piece[:left]
                    left -= len(piece)
                if piece:
                    yield piece
                if left == 0 or (
                    # Waits as a slow line would, but not longer than the server lives.
                    fault.bytes_per_second and self._closing.wait(len(piece) / fault.bytes_per_second)
                ):
                    return
