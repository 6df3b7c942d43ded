"""The resource `pexels`: where videos come from, opened as a PexelsSource."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from lightly_pipeline import settings
from lightly_pipeline.pexels import AllowedHosts, PexelsClient, PexelsSource, VideoCache


class PexelsResource(dg.ConfigurableResource["PexelsResource"]):
    """Videos from Pexels, downloaded into a cache on this host.

    What is not set here is read from the environment when the resource is opened, so that definitions load without
    a key.
    """

    api_key: str | None = Field(
        default=None,
        repr=False,
        description=f"Key of the Pexels API (use dg.EnvVar, never the key itself); by default "
        f"${settings.PEXELS_API_KEY.name}.",
    )
    api_root: str | None = Field(
        default=None, description=f"Where the API answers; by default ${settings.PEXELS_API_ROOT.name}."
    )
    file_hosts: str | None = Field(
        default=None,
        description=f"Hosts that files may come from, comma-separated; by default ${settings.PEXELS_FILE_HOSTS.name}.",
    )
    max_height: int | None = Field(
        default=None,
        gt=0,
        description=f"Largest height in pixels of the file chosen of a video (of portrait videos: largest width); by "
        f"default ${settings.PEXELS_MAX_HEIGHT.name}.",
    )
    max_bytes: int | None = Field(
        default=None,
        gt=0,
        description=f"Largest video file that is downloaded, in bytes; by default ${settings.PEXELS_MAX_BYTES.name}.",
    )
    cache_folder: str | None = Field(
        default=None,
        description=f"Folder in which downloaded videos wait for their upload; by default "
        f"${settings.VIDEO_CACHE.name}.",
    )
    cache_bytes: int | None = Field(
        default=None,
        gt=0,
        description=f"Size in bytes above which the least recently used videos are dropped; by default "
        f"${settings.VIDEO_CACHE_BYTES.name}.",
    )

    def open(self) -> PexelsSource:
        """The way from ids to files. Raises MissingSetting where no key is set, and InvalidSetting."""
        client = PexelsClient(
            self.api_key or settings.PEXELS_API_KEY.value(),
            root=self.api_root or settings.PEXELS_API_ROOT.value(),
        )
        cache = VideoCache(
            Path(self.cache_folder or settings.VIDEO_CACHE.value()),
            self.cache_bytes or settings.VIDEO_CACHE_BYTES.number(),
        )
        return PexelsSource(
            client,
            cache,
            allowed_hosts=AllowedHosts.parse(self.file_hosts or settings.PEXELS_FILE_HOSTS.value()),
            max_height=self.max_height or settings.PEXELS_MAX_HEIGHT.number(),
            max_bytes=self.max_bytes or settings.PEXELS_MAX_BYTES.number(),
        )
