"""Every environment variable of the pipeline: its name, its meaning, its default.

Nothing is read when this module is imported. A resource reads a variable when it opens (through `dg.EnvVar` or
`Setting.value()`), so that one process can be pointed at the sandbox or at AWS by its environment alone. boto3's
own variables (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_PROFILE`, …) are boto3's to read and are not repeated here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass


class SettingError(ValueError):
    """A variable cannot be used as it is; the message says which and what to do."""


class InvalidSetting(SettingError):
    """A variable's text is not of the kind that it should be."""


class MissingSetting(SettingError):
    """A variable without default is not set; the message says which, what it is for and how to set it."""


@dataclass(frozen=True)
class Setting:
    """One environment variable.

    `default` is the text that stands for an unset variable; None means that there is no sensible default.
    """

    name: str
    meaning: str
    default: str | None = None

    def value(self, environment: Mapping[str, str] | None = None) -> str:
        """The variable's text, or its default; MissingSetting where it has neither. Empty counts as unset."""
        text = (os.environ if environment is None else environment).get(self.name) or self.default
        if text is None:
            raise MissingSetting(
                f"{self.name} is not set ({self.meaning}): set it, or run the command inside the sandbox with "
                f"`lightly-pipeline sandbox -- COMMAND`."
            )
        return text

    def number(self, environment: Mapping[str, str] | None = None, *, least: int = 1) -> int:
        """The value as a whole number of at least `least`; InvalidSetting if it is none."""
        text = self.value(environment)
        if not text.isdecimal() or int(text) < least:
            raise InvalidSetting(
                f"{self.name} is {text!r} ({self.meaning}): set it to a whole number of at least {least}."
            )
        return int(text)


PEXELS_API_KEY = Setting("PEXELS_API_KEY", "key of the Pexels API, from pexels.com/api")
PEXELS_API_ROOT = Setting("PEXELS_API_ROOT", "where the Pexels API answers", "https://api.pexels.com")
PEXELS_FILE_HOSTS = Setting(
    "PEXELS_FILE_HOSTS",
    "hosts, comma-separated, from which video files may be downloaded; `*.` stands for any subdomain, "
    "`host:port` also allows plain http on that port",
    "videos.pexels.com,player.vimeo.com,*.vimeocdn.com",
)
PEXELS_MAX_HEIGHT = Setting("PEXELS_MAX_HEIGHT", "largest height in pixels of the file chosen of a video", "1080")
PEXELS_MAX_BYTES = Setting("PEXELS_MAX_BYTES", "largest video file, in bytes, that is downloaded", str(4 * 1024**3))
VIDEO_CACHE = Setting(
    "LIGHTLY_VIDEO_CACHE",
    "folder in which downloaded videos wait for their upload",
    "~/.cache/lightly_pipeline/videos",
)
VIDEO_CACHE_BYTES = Setting(
    "LIGHTLY_VIDEO_CACHE_BYTES",
    "size in bytes above which the oldest cached videos are dropped",
    str(20 * 1024**3),
)
BUCKET = Setting("LIGHTLY_BUCKET", "S3 bucket of videos, frames and datapool")
INSTANCES = Setting(
    "LIGHTLY_INSTANCES",
    "EC2 instances that select frames: ids in order of preference, or one `tag:Name=value`",
)
RUN_SCRIPT = Setting("LIGHTLY_RUN_SCRIPT", "path of run.sh on the instance", "/home/ubuntu/run.sh")
INSTANCE_PRICE = Setting(
    "LIGHTLY_INSTANCE_PRICE",
    "price of an instance hour in USD, for the costs that are shown; without it only seconds are",
    "",
)
LOG_GROUP = Setting(
    "LIGHTLY_LOG_GROUP",
    "CloudWatch log group for the output of commands, to see it while they run; without it, at their end",
    "",
)
SETTLE_SECONDS = Setting(
    "LIGHTLY_SETTLE_SECONDS",
    "seconds that the files of an S3 folder must be unchanged before the sensor acts on it",
    "10",
)
