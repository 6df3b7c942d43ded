"""The world of the end-to-end tests: the sandbox and a fresh DAGSTER_HOME for each."""

import shutil
from pathlib import Path

import pytest

from lightly_pipeline.pexels import PexelsClient
from lightly_pipeline.sandbox.home import dagster_home
from lightly_pipeline.videos import pexels_key
from lightly_pipeline_tests.world import World


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return Path(__file__).parents[2]


@pytest.fixture
def world(sandbox, tmp_path):
    home = dagster_home(tmp_path)
    cache = tmp_path / "videos"
    world = World.of(sandbox, home, LIGHTLY_VIDEO_CACHE=str(cache))
    with world.instance() as instance:
        # Makes the databases: Dagster's first two processes would get in each other's way.
        instance.get_runs()
        instance.get_dynamic_partitions("videos")
    yield world
    shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture
def keys(sandbox):
    """The keys of the videos that the sandbox's Pexels offers, the same in every run."""
    client = PexelsClient(sandbox.environment["PEXELS_API_KEY"], root=sandbox.pexels_root)
    return [pexels_key(video.id) for video in client.popular().videos]
