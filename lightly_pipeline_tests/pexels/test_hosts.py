"""Which addresses a download may lead to."""

import pytest

from lightly_pipeline.pexels import AllowedHosts, ForbiddenHost
from lightly_pipeline.settings import PEXELS_FILE_HOSTS

HOSTS = AllowedHosts.parse(f"{PEXELS_FILE_HOSTS.default}, 127.0.0.1:8080")


@pytest.mark.parametrize(
    "url",
    [
        "https://videos.pexels.com/video-files/1/1.mp4",
        "https://VIDEOS.pexels.com:443/1.mp4",
        "https://player.vimeo.com/external/1.hd.mp4?s=1",
        "https://a.b.vimeocdn.com/1.mp4",
        "http://127.0.0.1:8080/1.mp4",
    ],
)
def test_the_hosts_on_the_list_are_allowed(url: str):
    HOSTS.require(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://videos.pexels.com/1.mp4",
        "https://videos.pexels.com:8443/1.mp4",
        "https://evil.com/1.mp4",
        "https://evilvimeocdn.com/1.mp4",
        "https://vimeocdn.com/1.mp4",
        "https://videos.pexels.com.evil.com/1.mp4",
        "https://videos.pexels.com@evil.com/1.mp4",
        "https://evil.com\\@videos.pexels.com/1.mp4",
        "https://user:password@videos.pexels.com/1.mp4",
        "http://127.0.0.1/1.mp4",
        "http://127.0.0.1:80/1.mp4",
        "http://127.0.0.1:8081/1.mp4",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:8080/1.mp4",
        "file:///etc/passwd",
        "ftp://videos.pexels.com/1.mp4",
        "videos.pexels.com/1.mp4",
        "https:///1.mp4",
        "",
    ],
)
def test_anything_else_is_not(url: str):
    with pytest.raises(ForbiddenHost, match=r"not among the hosts .*videos\.pexels\.com.*PEXELS_FILE_HOSTS"):
        HOSTS.require(url)
