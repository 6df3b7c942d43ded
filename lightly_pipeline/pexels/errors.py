"""What can go wrong between here and Pexels, as sentences, told apart by whether it may pass by itself.

`transient` errors are worth another attempt later; the others stay until somebody changes something. No
message holds the API key.
"""


class PexelsError(Exception):
    """Base of all errors of this package; the message names the thing and the remedy."""

    transient = False


class MissingKey(PexelsError):
    """No API key was given."""


class WrongKey(PexelsError):
    """Pexels does not accept the API key."""


class BlockedUserAgent(PexelsError):
    """Pexels' front door turned the program away before the key was looked at."""


class UnknownVideo(PexelsError):
    """There is no video with this id."""


class RefusedRequest(PexelsError):
    """Pexels or a file host answered with a status that another attempt would not change."""


class MalformedAnswer(PexelsError):
    """An answer is not what Pexels documents."""


class NoUsableFile(PexelsError):
    """A video has no mp4 file that could be downloaded."""


class ForbiddenHost(PexelsError):
    """A link or redirect leads to a host that is not on the list of allowed ones."""


class TooLarge(PexelsError):
    """A file is larger than allowed."""


class NotAVideo(PexelsError):
    """A file does not open as video or holds no frame that can be decoded."""


class CacheUnusable(PexelsError):
    """The cache folder cannot be written to."""


class QuotaExceeded(PexelsError):
    """The API's requests of this hour or month are used up."""

    transient = True


class PexelsUnavailable(PexelsError):
    """Pexels or a file host did not answer, or answered with a failure of its own, in every attempt.

    `retry_after` are the seconds after which the server asked to be asked again, if it did.
    """

    transient = True

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class BrokenDownload(PexelsError):
    """A file did not arrive whole in any attempt."""

    transient = True
