"""The hosts from which files may be downloaded.

Links come from an API's answer, and redirects from whoever is behind the link: neither may lead the download into
somebody's private network or to another site.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from lightly_pipeline.pexels.errors import ForbiddenHost


@dataclass(frozen=True)
class AllowedHosts:
    """`videos.pexels.com` allows https to that host, `*.vimeocdn.com` to any host below it.

    `127.0.0.1:8080` allows http and https to that host on that port.
    """

    patterns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str | Iterable[str]) -> "AllowedHosts":
        """From a comma-separated list, or from its parts."""
        parts = text.split(",") if isinstance(text, str) else text
        return cls(tuple(part.strip().lower() for part in parts if part.strip()))

    def require(self, url: str) -> None:
        """Raise ForbiddenHost unless `url` leads to one of the hosts."""
        # The parser that requests uses for the connection, so that both see the same host.
        try:
            parsed = parse_url(url)
        except LocationParseError:
            parsed = Url()
        if not self._allows(parsed):
            raise ForbiddenHost(
                f"A video's link leads to {parsed.scheme}://{parsed.netloc or '?'}, which is not among the hosts that "
                f"files may come from ({', '.join(self.patterns)}): if it is Pexels', add it to PEXELS_FILE_HOSTS."
            )

    def _allows(self, url: Url) -> bool:
        host = (url.host or "").lower().rstrip(".")
        if not host or url.auth or url.scheme not in ("http", "https"):
            return False
        for pattern in self.patterns:
            name, colon, port = pattern.rpartition(":")
            if colon and port.isdigit():
                if host == name and (url.port or (443 if url.scheme == "https" else 80)) == int(port):
                    return True
            elif url.scheme == "https" and url.port in (None, 443):
                below = pattern.removeprefix("*")
                if host == pattern or (pattern.startswith("*.") and host.endswith(below) and host != below[1:]):
                    return True
        return False
