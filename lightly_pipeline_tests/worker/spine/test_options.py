"""Options: Lightly's names, types, defaults and error behaviour, from one model."""

import math
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightly_pipeline.worker.arguments import (
    describe_options,
    make_options,
    parse_arguments,
    result_options,
    to_arguments,
)
from lightly_pipeline.worker.errors import EXIT_CODES, OptionError
from lightly_pipeline.worker.options import Options
from lightly_pipeline_tests.worker.spine.conftest import run_worker

LIGHTLYS_DEFAULTS = {
    "token": "''",
    "sanity_check": "False",
    "relevant_filenames_file": "''",
    "enable_corruptness_check": "True",
    "corruptness_check.corruption_threshold": "0.1",
    "remove_exact_duplicates": "True",
    "checkpoint": "''",
    "embeddings": "''",
    "enable_training": "False",
    "dump_dataset": "False",
    "dump_sampled_embeddings": "True",
    "output_image_size": "-1",
    "output_image_format": "png",
    "upload_dataset": "False",
    "pretagging": "False",
    "pretagging_debug": "False",
    "pretagging_config": "''",
    "append_weak_labels": "False",
    "normalize_embeddings": "True",
    "scorer": "object-frequency",
    "scorer_config.frequency_penalty": "0.25",
    "scorer_config.min_score": "0.9",
    "stopping_condition.n_samples": "-1",
    "stopping_condition.min_distance": "-1.0",
    "selected_sequence_length": "1",
    "datapool.keep_history": "True",
    "datasource.process_all": "False",
    "datasource.enable_datapool_update": "True",
    "upload_report": "True",
    "n_example_images": "6",
    "memory_requirement_in_GB": "2.0",
    "show_video_sampling_timeline": "True",
    "run_directory": "''",
}


DIVERSITY = "[{input: {type: EMBEDDINGS}, strategy: {type: DIVERSITY}}]"


def _strategies(looks_at, rule):
    return {"n_samples": 3, "strategies": [{"input": looks_at, "strategy": rule}]}


def _threshold(value):
    rule = {"type": "THRESHOLD", "threshold": value, "operation": "BIGGER"}
    return _strategies({"type": "METADATA", "key": "lightly.sharpness"}, rule)


def test_defaults_are_lightlys():
    ours = {option.key: option.default for option in describe_options()}
    assert {key: ours.get(key) for key in LIGHTLYS_DEFAULTS} == LIGHTLYS_DEFAULTS


def test_help_lists_every_option_with_its_default_and_every_exit_code():
    shown = run_worker("--help")
    assert shown.returncode == 0
    for option in describe_options():
        assert f"{option.key}={option.default}" in shown.stdout
    for code, meaning in EXIT_CODES.items():
        assert f"{code}  {meaning}" in shown.stdout


def test_help_is_shown_wherever_it_is_asked_for():
    assert run_worker("in", "out", "--help").stdout == run_worker("--help").stdout


@pytest.mark.parametrize("places", [("a=1", "out"), ("in", "seed=1"), ("seed=1", "out=2")])
def test_a_place_that_was_taken_for_an_option_is_told_with_the_way_to_write_it(tmp_path, monkeypatch, places):
    monkeypatch.chdir(tmp_path)
    (tmp_path / places[0]).mkdir()
    ended = run_worker(*places)
    assert ended.returncode == OptionError.exit_code
    taken = next(place for place in places if "=" in place)
    assert f"If '{taken}' is a folder, write ./{taken}." in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "If" not in run_worker("in", "out", "sed=1").stderr


def test_the_model_is_imported_without_numpy_decoder_or_compiler():
    heavy = ["numpy", "av", "numba", "boto3", "pyarrow", "PIL", "dagster"]
    code = (
        "import sys; import lightly_pipeline.worker.options, lightly_pipeline.worker.arguments;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("n_samples=3", "stopping_condition.n_samples"),
        ("nsamples=3", "stopping_condition.n_samples"),
        ("stopping_condition.n_sample=3", "stopping_condition.n_samples"),
        ("dump_data=True", "dump_dataset"),
        ("outputimageformat=png", "output_image_format"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_name(argument, nearest):
    with pytest.raises(OptionError, match=rf"does not exist! Did you mean '{nearest}'\?"):
        parse_arguments([argument])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("stopping_condition.n_samples=1.5", "between 0.0 and 1.0"),
        ("stopping_condition.n_samples=-5", "0 or more"),
        ("stopping_condition.n_samples=many", "0.1 or a count"),
        ("stopping_condition.min_distance=-0.5", "0.0 or more"),
        ("stopping_condition=3", "is a group"),
        ("corruptness_check.corruption_threshold=2", "less than or equal to 1"),
        ("method=nearest", "'coreset'"),
        ("output_image_size=[1,2,3]", "shortest edge"),
        ("output_image_format=gif", "'png'"),
        ("datapool.name=../other", "letters, digits"),
        ("run_directory=../elsewhere", "below OUTPUT"),
        ("run_directory=\udcff", "not UTF-8"),
        ("datapool.uri=/pools/\udcff", "not UTF-8"),
        ("n_example_images=3", "even number"),
        ("stopping_condition.min_distance=abc", "a distance is a number"),
        ("stopping_condition.min_distance=inf", "a distance is a number"),
        ("output_image_size=10.7", "in whole pixels"),
        ("output_image_size=large", "in whole pixels"),
        ("seed=-1", "greater than or equal to 0"),
        ("scratch_size_in_GB=inf", "less than or equal"),
        ("scratch_size_in_GB=1e300", "less than or equal"),
        ("memory_requirement_in_GB=1e300", "less than or equal"),
        ("selected_sequence_length=1" + "0" * 30, "less than or equal"),
        ("memory_requirement_in_GB=inf", "less than or equal"),
        ("webdataset_shard_size_in_MB=inf", "less than or equal"),
        ("datapool.uri=http://x", "a folder or s3://bucket/prefix"),
        ("datapool.uri=s3://", "a folder or s3://bucket/prefix"),
        ("datapool.uri=s3:///prefix", "a folder or s3://bucket/prefix"),
        ("datapool.uri=file://host/pool", "a folder or s3://bucket/prefix"),
        ("dump_dataset", "key=value"),
        ("upload_dataset=True", "not supported by the open worker: give an s3://"),
        ("enable_training=True", "embedder=MODEL.onnx"),
        ("pretagging=True", "not supported"),
        ("selection_config={n_samples: 3}", "field required"),
        (
            "selection_config={n_samples: 3, strategies: []}",
            "Option selection_config (at selection_config.strategies=[]): tuple should",
        ),
        (
            "selection_config={n_samples: 3, strategies: [{input: {type: METADATA}, strategy: {type: WEIGHTS}}]}",
            ": METADATA key",
        ),
        (
            "selection_config={n_samples: 3, strategies: [{input: {type: SCORES}, strategy: {type: WEIGHTS}}]}",
            "needs predictions",
        ),
        (
            "selection_config={n_samples: 3, strategies: [{input: {type: RANDOM}, strategy: {type: WEIGHTS, max: 3}}]}",
            "there is no such key",
        ),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_option_and_remedy(argument, words):
    with pytest.raises(OptionError) as raised:
        parse_arguments([argument])
    sentence = str(raised.value)
    assert words in sentence
    assert argument.partition("=")[0] in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"output_image_size": None}, "in whole pixels"),
        ({"output_image_size": [[1, 2], 3]}, "in whole pixels"),
        ({"output_image_size": 10.7}, "in whole pixels"),
        ({"output_image_size": True}, "in whole pixels"),
        ({"stopping_condition": {"min_distance": None}}, "a distance is a number"),
        ({"stopping_condition": {"min_distance": [1]}}, "a distance is a number"),
        ({"stopping_condition": {"min_distance": True}}, "a distance is a number"),
        ({"stopping_condition": {"n_samples": None}}, "a number is expected"),
        ({"stopping_condition": {"n_samples": [1]}}, "a number is expected"),
        ({"selection_config": _strategies({"type": "RANDOM", "random_seed": -3}, {"type": "WEIGHTS"})}, "equal to 0"),
        ({"selection_config": _threshold(math.nan)}, "finite"),
    ],
)
def test_a_value_of_the_wrong_kind_from_yaml_or_python_is_one_sentence(given, words):
    with pytest.raises(OptionError, match=words) as raised:
        make_options(given)
    assert next(iter(given)) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("1.0", 1.0), ("0.1", 0.1), ("100", 100), ("-1", -1), ("-1.0", -1), ("1e-2", 0.01)]
)
def test_a_count_is_told_from_a_fraction(text, value):
    n_samples = parse_arguments([f"stopping_condition.n_samples={text}"]).stopping_condition.n_samples
    assert n_samples == value
    assert type(n_samples) is type(value)


def test_harmless_options_of_lightlys_platform_are_ignored_with_a_warning(caplog):
    options = parse_arguments(["token=secret", "lightly.loader.num_workers=4", "worker.worker_id=x"])
    assert "'token' is accepted and ignored" in caplog.text
    assert "secret" not in caplog.text
    assert "secret" not in repr(options)


def test_yaml_gives_options_and_the_command_line_wins(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("stopping_condition: {n_samples: 0.2}\ndatapool.name: pool\noutput_image_size: [48, 64]\n")
    options = parse_arguments([f"config={file}", "stopping_condition.n_samples=7"])
    assert options.stopping_condition.n_samples == 7
    assert options.datapool.name == "pool"
    assert options.output_image_size == (48, 64)


def test_options_from_python_may_come_from_a_yaml_file_too(tmp_path):
    """The file was accepted and ignored."""
    file = tmp_path / "options.yaml"
    file.write_text("stopping_condition.n_samples: 3\nmethod: coreset\n")
    options = make_options({"config": file, "method": "random", "embeddings": tmp_path / "e.csv"})
    assert options.stopping_condition.n_samples == 3
    assert options.method == "random"
    assert options.embeddings == str(tmp_path / "e.csv")
    by_hand = Options(config=str(file), method="random", embeddings=str(tmp_path / "e.csv"))
    assert make_options(by_hand) == options
    # Its lines are in the options by now; the machine that they are sent to has no such file.
    assert not any(argument.startswith("config=") for argument in to_arguments(options))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("selected_sequence_length=3", "n_samples=2 is no multiple of selected_sequence_length=3"),
        ("method=random", "method=random does so too"),
        ("stopping_condition.n_samples=2", "say the same thing"),
    ],
)
def test_options_that_contradict_a_selection_config_are_refused(other, words):
    config = f"selection_config={{n_samples: 2, strategies: {DIVERSITY}}}"
    with pytest.raises(OptionError, match=words):
        parse_arguments([config, other])


@pytest.mark.parametrize("content", ["- a list", "{broken", "n_samples: 3", "config: other.yaml"])
def test_a_yaml_file_that_holds_no_options_is_refused(tmp_path, content):
    file = tmp_path / "options.yaml"
    file.write_text(content)
    with pytest.raises(OptionError):
        parse_arguments([f"config={file}"])


def test_arguments_made_of_options_give_the_same_options_back():
    options = make_options(
        {
            "stopping_condition.min_distance": 0.25,
            "output_image_size": [10, 20],
            "dump_dataset": True,
            "relevant_filenames_file": "a b's list.txt",
        }
    )
    again = parse_arguments(to_arguments(options))
    assert again == options


def test_a_nested_option_survives_as_an_argument():
    options = make_options(
        {
            "selection_config": {
                "proportion_samples": 0.5,
                "strategies": [{"input": {"type": "RANDOM", "random_seed": 3}, "strategy": {"type": "WEIGHTS"}}],
            },
        }
    )
    assert parse_arguments(to_arguments(options)) == options


def test_options_that_cannot_change_the_result_do_not_make_another_job():
    one = result_options(parse_arguments(["num_threads=1", "scratch=/a"]))
    other = result_options(parse_arguments(["num_threads=8", "token=t"]))
    assert one == other
    assert one != result_options(parse_arguments(["dump_dataset=True"]))


_KEYS = [option.key for option in describe_options() if option.key != "config"]


@settings(max_examples=300, deadline=None)
@example([("run_directory", "0 \\")])
@given(st.lists(st.tuples(st.sampled_from(_KEYS) | st.text(max_size=20), st.text(max_size=20)), max_size=4))
def test_any_text_gives_options_or_one_sentence(pairs):
    arguments = [f"{key}={value}" for key, value in pairs if not key.startswith(("config", "+"))]
    try:
        options = parse_arguments(arguments)
    except OptionError:
        return
    assert parse_arguments(to_arguments(options)) == options


def test_strategies_can_be_given_by_themselves_and_figures_by_lightlys_name():
    options = parse_arguments(
        [
            "selection_config.n_samples=3",
            "selection_config.strategies=[{input: {type: METADATA, key: lightly.uniformRowRatio}, "
            "strategy: {type: WEIGHTS}}]",
        ]
    )
    assert options.selection_config is not None
    assert options.selection_config.n_samples == 3
    assert options.selection_config.strategies[0].input.key == "lightly.uniform_row_ratio"
