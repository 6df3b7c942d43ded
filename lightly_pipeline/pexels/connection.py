"""The way to Pexels: a session that it answers, what is repeated, and every kind of refusal as its own error."""

from collections.abc import Iterator
from typing import Any

import requests
import requests.adapters
import requests.auth
import urllib3.exceptions
from urllib3.util.retry import Retry

from lightly_pipeline.pexels.errors import (
    BlockedUserAgent,
    PexelsUnavailable,
    QuotaExceeded,
    RefusedRequest,
    UnknownVideo,
    WrongKey,
)

# Pexels answers the default agents of HTTP libraries with 403, from the API and from its file hosts.
USER_AGENT = "lightly-pipeline/0.1"
LONGEST_WAIT_SECONDS = 30.0
_ATTEMPTS = 5


class Connection:
    """GET with key, user agent, timeout and retries, and each kind of refusal as its own error."""

    def __init__(self, api_key: str, root: str, session: requests.Session, timeout: tuple[float, float]):
        self.root = root
        self._session, self._timeout = session, timeout
        self._authorize = _Authorization(api_key)

    def get(self, url: str, query: dict[str, Any] | None, what: str) -> requests.Response:
        """The successful answer; `what` is how messages call what is asked for. Raises PexelsErrors."""
        try:
            # A redirect is not followed: it could lead the key to somebody else.
            response = self._session.get(
                url, params=query, auth=self._authorize, timeout=self._timeout, allow_redirects=False
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise PexelsUnavailable(
                f"Pexels could not be asked for {what} at {self.root} ({cause(error)}): "
                f"check the network and PEXELS_API_ROOT, or try again later."
            ) from error
        self._require_success(response, what)
        return response

    def _require_success(self, response: requests.Response, what: str) -> None:
        status = response.status_code
        if status == 200:
            return
        if status in (401, 403):
            if "json" in response.headers.get("Content-Type", ""):
                raise WrongKey(
                    f"Pexels does not accept the API key (HTTP {status}): check PEXELS_API_KEY against the key at "
                    f"https://www.pexels.com/api."
                )
            raise BlockedUserAgent(
                f"Pexels turned this program away before looking at the key (HTTP {status} with a web page): it "
                f"blocks the user agent {response.request.headers.get('User-Agent')!r} or this network; try from "
                f"another network, or ask Pexels."
            )
        if status == 404:
            raise UnknownVideo(f"Pexels knows no {what} (HTTP 404 from {self.root}): check the id.")
        if status == 429:
            after = response.headers.get("Retry-After")
            raise QuotaExceeded(
                f"Pexels' quota is used up (HTTP 429, asking for {what}): it grants 200 requests an hour and 20,000 "
                f"a month unless you ask it for more; try again "
                f"{f'after {after} s' if after and after.isdigit() else 'later'}."
            )
        if status >= 500:
            raise PexelsUnavailable(
                f"Pexels failed to answer for {what} (HTTP {status} in each of {_ATTEMPTS} attempts): try again later."
            )
        raise RefusedRequest(
            f"Pexels answered HTTP {status} when asked for {what} at {self.root}"
            f"{', with a redirect that is not followed' if 300 <= status < 400 else ''}: check PEXELS_API_ROOT."
        )


class _Authorization(requests.auth.AuthBase):
    """Adds the key; an object of its own, so that no netrc entry replaces the key and no repr shows it."""

    def __init__(self, api_key: str):
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._api_key
        return request

    def __repr__(self) -> str:
        return "_Authorization(…)"


def new_session(backoff_seconds: float = 0.5) -> requests.Session:
    """A session that Pexels answers, and that repeats what may succeed the next time.

    The pauses between attempts grow from `backoff_seconds` by doubling.
    """
    session = requests.Session()
    session.headers["User-Agent"] = USER_AGENT
    retry = _BoundedRetry(
        total=_ATTEMPTS - 1,
        backoff_factor=backoff_seconds,
        backoff_jitter=backoff_seconds,
        backoff_max=LONGEST_WAIT_SECONDS,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET", "HEAD"),
        # The last answer is returned and told as what it is.
        raise_on_status=False,
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    return session


class _BoundedRetry(Retry):
    """Waits as long as `Retry-After` says, but no longer than half a minute."""

    def get_retry_after(self, response: Any) -> float | None:
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, LONGEST_WAIT_SECONDS)


def cause(error: BaseException) -> str:
    """The innermost reason of a connection error, without the noise around it."""

    def chain(error: BaseException) -> Iterator[BaseException]:
        seen: set[int] = set()
        current: BaseException | None = error
        while current is not None and id(current) not in seen:
            seen.add(id(current))
            yield current
            reason = getattr(current, "reason", None)
            nested = reason if isinstance(reason, BaseException) else None
            current = nested or current.__cause__ or current.__context__

    *_, innermost = chain(error)
    return f"{type(innermost).__name__}: {innermost}"
