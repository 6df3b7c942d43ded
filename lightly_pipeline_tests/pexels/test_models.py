"""The rule by which a video's file is chosen."""

import random

import pytest

from lightly_pipeline.pexels import NoUsableFile, PexelsVideo, VideoFile, choose_file, rank_files

MP4 = "https://videos.pexels.com/video-files/1/1-hd.mp4"


def file(width: int | None, height: int | None, **facts: object) -> VideoFile:
    given = {"id": 1, "link": MP4, "quality": "hd", "file_type": "video/mp4", "width": width, "height": height}
    return VideoFile.model_validate({**given, **facts})


def video(*files: VideoFile) -> PexelsVideo:
    return PexelsVideo(
        id=1, url="https://www.pexels.com/video/a-1/", width=3840, height=2160, duration=5, video_files=files
    )


HLS = file(None, None, quality="hls", link="https://player.vimeo.com/external/1.m3u8")
LADDER = (file(640, 360), file(1280, 720), file(1920, 1080), file(3840, 2160), HLS)


@pytest.mark.parametrize(
    ("max_height", "height"), [(1080, 1080), (1079, 720), (5000, 2160), (720, 720), (100, 360), (360, 360)]
)
def test_the_largest_that_fits_is_chosen_else_the_smallest_in_any_order(max_height: int, height: int):
    for seed in range(5):
        files = random.Random(seed).sample(LADDER, len(LADDER))
        assert choose_file(video(*files), max_height).height == height


def test_portrait_counts_by_its_short_side():
    portrait = (file(360, 640), file(720, 1280), file(1080, 1920), file(2160, 3840))
    assert choose_file(video(*portrait), 1080).height == 1920


@pytest.mark.parametrize(
    "odd",
    [
        HLS,
        file(1920, 1080, quality="hls"),
        file(1920, None),
        file(0, 0),
        file(1920, 1080, file_type="video/webm"),
        file(1920, 1080, file_type=None),
        file(1920, 1080, link="https://player.vimeo.com/1.m3u8?name=a.mp4"),
        file(1920, 1080, link="https://player.vimeo.com/1.mov"),
    ],
)
def test_what_is_no_mp4_of_known_dimensions_is_never_chosen(odd: VideoFile):
    assert choose_file(video(odd, file(640, 360)), 1080).height == 360
    with pytest.raises(NoUsableFile, match=r"video 1 .*pexels.com.* no mp4 file .* among its 1 files: choose another"):
        choose_file(video(odd), 1080)


def test_links_may_have_a_query():
    old = file(1920, 1080, link="https://player.vimeo.com/external/1.hd.MP4?s=abc&profile_id=175")
    assert choose_file(video(old), 1080) == old


def test_of_equal_dimensions_a_known_size_wins_and_then_the_frame_rate():
    unknown, slow, fast = (
        file(1920, 1080, fps=60.0),
        file(1920, 1080, size=5, fps=25),
        file(1920, 1080, size=5, fps=30),
    )
    assert rank_files(video(unknown, slow, fast), 1080) == [fast, slow, unknown]
