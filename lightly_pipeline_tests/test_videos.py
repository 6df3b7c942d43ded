"""The vocabulary: keys, the S3 layout, and partitions that know a Pexels key by its form."""

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from lightly_pipeline.videos import (
    UnknownVideoKey,
    input_key,
    is_video_key,
    manifest_key,
    pexels_id,
    pexels_key,
    register_videos,
    videos,
)


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def validate(instance, key):
    with partition_loading_context(dynamic_partitions_store=instance) as context:
        videos.validate_partition_key(key, context)


@pytest.mark.parametrize("key", ["pexels-857195", "holiday", "a", "2021.cam_1-left", "x" * 128])
def test_letters_digits_and_a_little_punctuation_make_a_key(key):
    assert is_video_key(key)


@pytest.mark.parametrize(
    "key", ["", ".", "..", ".hidden", "-rf", "a b", "a/b", "x" * 129, "$(reboot)", "a\n", "a;b", "ä", 'a"b']
)
def test_what_could_be_a_path_or_a_command_is_no_key(key):
    assert not is_video_key(key)


def test_a_pexels_key_and_its_id_belong_together():
    assert pexels_id(pexels_key(857195)) == 857195


@pytest.mark.parametrize("key", ["pexels-", "pexels-0", "pexels-01", "pexels-1x", "pexels-٣", "857195", "Pexels-1"])
def test_only_a_plain_positive_number_makes_a_pexels_key(key):
    assert pexels_id(key) is None


def test_the_layout_is_the_tutorials():
    assert input_key("pexels-1", "1.mp4") == "input_dir/pexels-1/1.mp4"
    assert manifest_key("pexels-1") == "output_dir/pexels-1/manifest.json"


def test_a_pexels_key_that_nobody_registered_registers_itself(instance):
    validate(instance, "pexels-857195")
    assert instance.has_dynamic_partition("videos", "pexels-857195")


def test_a_foreign_key_that_nobody_registered_is_refused_with_the_remedy(instance):
    with pytest.raises(UnknownVideoKey, match="upload the file to input_dir/holiday/<file>"):
        validate(instance, "holiday")
    assert instance.get_dynamic_partitions("videos") == []


def test_a_malformed_key_is_refused_with_the_rule(instance):
    with pytest.raises(UnknownVideoKey, match="use pexels-<id>"):
        validate(instance, "../../etc")


def test_a_registered_foreign_key_is_accepted(instance):
    register_videos(instance, ["holiday", "holiday"])
    validate(instance, "holiday")


def test_to_the_web_server_it_is_an_ordinary_dynamic_partitions_definition():
    from dagster._core.remote_representation.external_data import PartitionsSnap

    snap = PartitionsSnap.from_def(videos)
    assert isinstance(snap.get_partitions_definition(), dg.DynamicPartitionsDefinition)
    assert snap.get_partitions_definition().name == "videos"
