"""The resource: definitions load without a key, and what is missing is told when it opens."""

from pathlib import Path

import dagster as dg
import pytest

from lightly_pipeline.resources.pexels import PexelsResource
from lightly_pipeline.sandbox.pexels import PexelsStandIn
from lightly_pipeline.settings import InvalidSetting, MissingSetting
from lightly_pipeline_tests.pexels.conftest import API_KEY


@dg.asset
def fetched(pexels: PexelsResource) -> str:
    return pexels.open().fetch(857195).sha256


def test_the_environment_is_read_when_it_opens(pexels: PexelsStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    resource = PexelsResource()
    monkeypatch.setenv("PEXELS_API_ROOT", pexels.root)
    monkeypatch.setenv("PEXELS_API_KEY", API_KEY)
    monkeypatch.setenv("PEXELS_FILE_HOSTS", pexels.file_hosts)
    monkeypatch.setenv("PEXELS_MAX_HEIGHT", "300")
    monkeypatch.setenv("LIGHTLY_VIDEO_CACHE", str(tmp_path))
    video = resource.open().fetch(857195)
    assert (video.height, video.path.parent.parent) == (240, tmp_path)


def test_a_missing_key_breaks_no_definitions_and_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PEXELS_API_KEY")
    definitions = dg.Definitions(assets=[fetched], resources={"pexels": PexelsResource()})
    assert definitions.resolve_asset_graph().has(dg.AssetKey("fetched"))
    with pytest.raises(MissingSetting, match=r"PEXELS_API_KEY is not set .*pexels\.com/api.*: set it, or"):
        PexelsResource().open()


@pytest.mark.parametrize("text", ["-1", "0", "tall", "1e3", "1080p"])
def test_a_number_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("PEXELS_MAX_HEIGHT", text)
    with pytest.raises(InvalidSetting, match=f"PEXELS_MAX_HEIGHT is '{text}' .*whole number"):
        PexelsResource().open()


def test_it_works_in_a_run_with_its_key_from_a_variable(
    pexels: PexelsStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MY_KEY", API_KEY)
    resource = PexelsResource(
        api_key=dg.EnvVar("MY_KEY"),
        api_root=pexels.root,
        file_hosts=pexels.file_hosts,
        cache_folder=str(tmp_path),
        max_height=300,
    )
    result = dg.materialize([fetched], resources={"pexels": resource})
    assert len(result.output_for_node("fetched")) == 64
    assert (tmp_path / "pexels-857195" / "pexels-857195.mp4").is_file()


def test_its_repr_does_not_show_the_key():
    assert API_KEY not in repr(PexelsResource(api_key=API_KEY))
    assert API_KEY not in repr(PexelsResource(api_key=API_KEY).open().client)
