"""Every option of the worker: its name, type, default and meaning, in one typed model.

The command line, `--help`, the YAML file, `select_frames` and Dagster's selection config all come from here.
Names, types and defaults are those of Lightly's worker; options of our own say so. How text becomes values is
in `arguments`; what an option does is in the step that reads it. Pydantic is the library because Dagster's
config classes are pydantic models too: one typing system from the command line to the UI.

Importing this module costs no more than importing pydantic.
"""

import math
import re
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from lightly_pipeline.worker.selection_config import SelectionConfig

#: Nesting of an option that the open worker accepts without doing what it asks.
UNSUPPORTED = "unsupported"
#: Extra schema key: this option was not Lightly's.
OWN = "own"
#: Extra schema key: this option cannot change the result, only how it is reached.
INCIDENTAL = "incidental"

#: More than any machine has, and in bytes still a number.
_MOST_GB = 1e9


def _own(default: Any, meaning: str, *, incidental: bool = False, **constraints: Any) -> Any:
    """A field that Lightly's worker did not have."""
    extra: dict[str, Any] = {OWN: True, INCIDENTAL: incidental}
    return Field(default, description=meaning, json_schema_extra=extra, **constraints)


def _unsupported(default: Any, meaning: str, remedy: str, *, harmless: bool = False) -> Any:
    """A field of Lightly's worker that this one does not act on.

    `harmless` ones are ignored with a warning (nothing in the result is missing without them); the others end
    the run when set to something else than their default: the result would not be what was asked for.
    """
    extra: dict[str, Any] = {UNSUPPORTED: {"remedy": remedy, "harmless": harmless}, INCIDENTAL: True}
    return Field(default, description=meaning, json_schema_extra=extra)


def _count_or_fraction(value: Any) -> Any:
    """Tell `1` (one sample) from `1.0` (all of them), also in text."""
    if isinstance(value, str):
        text = value.strip()
        with suppress(ValueError):
            value = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number is expected: a fraction like 0.1 or a count like 100")
    if isinstance(value, float) and value == -1.0:
        return -1
    if isinstance(value, float) and not 0.0 <= value <= 1.0:
        raise ValueError("a fraction lies between 0.0 and 1.0; a count is written without a decimal point")
    if isinstance(value, int) and value < -1:
        raise ValueError("a count is 0 or more; -1 switches the condition off")
    return value


def _off_or_distance(value: Any) -> Any:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (number < 0.0 and number != -1.0):
        raise ValueError("a distance is a number, 0.0 or more; -1 switches the condition off")
    return number


def _image_size(value: Any) -> Any:
    """`-1`, a shortest edge, or `[height, width]`; text forms `[480,640]` and `480,640` as well."""
    if isinstance(value, str):
        parts = [part for part in re.split(r"[\s,]+", value.strip("[]() ")) if part]
        value = [int(part) if re.fullmatch(r"[+-]?\d+", part) else part for part in parts]
    edges = list(value) if isinstance(value, list | tuple) else [value]
    if all(isinstance(edge, int) and not isinstance(edge, bool) for edge in edges):
        if len(edges) == 2 and min(edges) >= 1:
            return (edges[0], edges[1])
        if len(edges) == 1 and (edges[0] >= 1 or edges[0] == -1):
            return edges[0]
    raise ValueError("a size is -1, the length of the shortest edge, or [height, width], in whole pixels")


CountOrFraction = Annotated[int | float, BeforeValidator(_count_or_fraction)]
Distance = Annotated[float, BeforeValidator(_off_or_distance)]
ImageSize = Annotated[int | tuple[int, int], BeforeValidator(_image_size)]


class _Group(BaseModel):
    # Schemas are built when the first options are made: `--help` does not need them.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class StoppingCondition(_Group):
    """When to stop selecting: whichever is met first."""

    n_samples: CountOrFraction = Field(
        -1,
        description="how many frames to select: a fraction of the new frames (0.1), a count (100), -1: all",
    )
    min_distance: Distance = Field(
        -1.0,
        description="stop when the next frame is nearer than this to a selected or pooled one; -1 for off",
    )


class CorruptnessCheck(_Group):
    """How sure the worker must be before it calls a frame corrupt."""

    corruption_threshold: float = Field(
        0.1,
        ge=0.0,
        le=1.0,
        description="frames with a larger corruption score are corrupt; 1 trusts the decoder alone",
    )


class Datapool(_Group):
    """The memory across runs: new frames must differ from what earlier runs selected."""

    name: str = Field("", description="name of the datapool that this run builds on and adds to; empty for none")
    keep_history: bool = Field(True, description="keep earlier versions of this run's part of the pool")
    dataset_id: str = _unsupported(
        "",
        "dataset on Lightly's platform that serves as pool",
        "name a pool with datapool.name and datapool.uri",
    )
    uri: str = _own(
        "",
        "folder or s3:// prefix in which datapools live; empty: `datapool` beside OUTPUT, or s3://<bucket>/datapool",
    )
    part: str = _own(
        "",
        "name of this input's part of the pool, replaced when it runs again; empty: from the name and the content of "
        "INPUT, so that other content adds to the pool",
    )

    @field_validator("name", "part")
    @classmethod
    def _one_path_component(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", value):
            raise ValueError("letters, digits, dots, dashes and underscores only, at most 128, no leading dot")
        return value

    @field_validator("uri")
    @classmethod
    def _folder_or_s3(cls, value: str) -> str:
        scheme, slashes, place = value.partition("://")
        if slashes and (scheme not in ("s3", "file") or place.startswith("/") == (scheme == "s3") or not place):
            raise ValueError("a folder or s3://bucket/prefix is expected")
        return value


class InputExpiration(_Group):
    """Part of the platform's datasource."""

    min_days_to_expiration: int | None = _unsupported(None, "platform only", "leave it out", harmless=True)
    handling_strategy: str | None = _unsupported(None, "platform only", "leave it out", harmless=True)


class Datasource(_Group):
    """Cloud input by way of Lightly's platform."""

    dataset_id: str = _unsupported("", "dataset on Lightly's platform to read", "give its folder or s3:// as INPUT")
    process_all: bool = _unsupported(
        False, "also process files of earlier runs", "a run reads all of INPUT", harmless=True
    )
    enable_datapool_update: bool = Field(True, description="False: select on top of the pool without adding to it")
    use_frame_count_metadata: bool = _unsupported(
        False,
        "trust the frame count in the container",
        "every frame is counted by decoding it",
        harmless=True,
    )
    use_redirected_read_url: bool = _unsupported(False, "platform only", "leave it out", harmless=True)
    bypass_verify: bool = _unsupported(False, "platform only", "leave it out", harmless=True)
    input_expiration: InputExpiration = InputExpiration()


class ScorerConfig(_Group):
    """Part of the active-learning scorer."""

    frequency_penalty: float = _unsupported(0.25, "part of the scorer", "give WEIGHTS in selection_config")
    min_score: float = _unsupported(0.9, "part of the scorer", "give WEIGHTS in selection_config")


class ActiveLearning(_Group):
    """Scores from predictions."""

    task_name: str = _unsupported("", "predictions to score", "give WEIGHTS in selection_config")
    score_name: str = _unsupported("uncertainty_margin", "which score", "give WEIGHTS in selection_config")


class ObjectLevel(_Group):
    """Selection of crops instead of frames."""

    task_name: str = _unsupported("", "select object crops", "crop the objects first and give the crops as INPUT")
    crop_dataset_name: str = _unsupported("", "select object crops", "crop the objects first")
    padding: float = _unsupported(0.0, "select object crops", "crop the objects first")


class Crops(_Group):
    """Upload of object crops."""

    enable_upload: bool = _unsupported(True, "upload object crops", "there is no platform to upload to", harmless=True)
    enable_upload_for_tasks: list[str] | None = _unsupported(None, "upload object crops", "leave it out", harmless=True)


class Training(_Group):
    """Training before embedding."""

    task_name: str | None = _unsupported(None, "train on predictions", "train elsewhere, then give embedder=MODEL.onnx")


class PlatformWorker(_Group):
    """Registration with Lightly's platform."""

    worker_id: str = _unsupported("", "register with the platform", "this worker needs no platform", harmless=True)
    force_start: bool = _unsupported(True, "register with the platform", "leave it out", harmless=True)


class Options(_Group):
    """All options of one selection."""

    # -- what to select
    stopping_condition: StoppingCondition = StoppingCondition()
    method: Literal["coreset", "random", "balanced"] = Field(
        "balanced",
        description="balanced (ours): 0.6 of the budget on frames that stand for many, the rest on k-center; coreset: "
        "Lightly's greedy k-center alone; random",
    )
    selection_config: SelectionConfig | None = Field(
        None,
        description="Lightly's later way: {n_samples or proportion_samples, strategies: [{input, strategy}]}",
    )
    selected_sequence_length: int = Field(
        1,
        ge=1,
        le=10**9,
        description="above 1: select sequences of so many consecutive frames instead of single frames",
    )
    normalize_embeddings: bool = Field(True, description="scale embeddings to unit length: distances lie in 0..2")
    seed: int = _own(0, "seed of method=random, and of RANDOM in selection_config where that names none", ge=0)
    engine: Literal["auto", "numba", "numpy", "mundig"] = _own(
        "auto", "what computes the selection: numba and numpy to the bit, mundig but for rounding", incidental=True
    )

    # -- what to read
    relevant_filenames_file: str = Field(
        "", description="list of file names or gitignore patterns, one a line, in INPUT: only these are read"
    )
    embeddings: str = Field(
        "",
        description="CSV or Parquet of given embeddings (filenames, embedding_0…, labels) to use instead",
    )
    embeddings_model: str = _own(
        "", "name of the model that made the given embeddings: a datapool keeps those of different ones apart"
    )
    embedder: str = _own("", "path of an ONNX model with its .json sidecar; empty for the built-in descriptor")

    # -- what to keep out
    enable_corruptness_check: bool = Field(True, description="leave out frames that are damaged")
    corruptness_check: CorruptnessCheck = CorruptnessCheck()
    remove_exact_duplicates: bool = Field(True, description="of frames with identical pixels keep the first")

    # -- the memory across runs
    datapool: Datapool = Datapool()

    # -- what to write
    dump_dataset: bool = Field(False, description="write the selected frames to data/sampled")
    dump_sampled_embeddings: bool = Field(True, description="write the embeddings of the selected frames")
    output_image_format: Literal["png", "jpg", "jpeg"] = Field("png", description="format of the written frames")
    output_image_size: ImageSize = Field(
        -1, description="-1 as they are, a number for the shortest edge, [height, width] for exactly that"
    )
    run_directory: str = Field("", description="subfolder of OUTPUT to write into; empty: straight under OUTPUT")
    webdataset_shard_size_in_MB: float = _own(
        0.0,
        "above 0: also write the selected frames as WebDataset shards of about this size to data/shards",
        ge=0.0,
        le=_MOST_GB * 1e3,
    )
    exact_frames: bool = _own(
        False,
        "write exactly the selected frames with method=balanced and the built-in descriptor too (otherwise they always "
        "are), decoding some again, instead of moving some to near frames whose pictures were kept while decoding",
    )

    # -- the report
    n_example_images: int = Field(
        6,
        ge=0,
        description="how many retained frames are shown beside their nearest removed one; an even number",
    )
    memory_requirement_in_GB: float = Field(
        2.0, gt=0.0, le=_MOST_GB, description="bound of the distance matrix behind the report's statistics"
    )
    show_video_sampling_timeline: bool = Field(True, description="show when in each video the frames were selected")

    # -- how to run
    config: str = _own("", "YAML file of options; those on the command line win", incidental=True)
    num_threads: int = Field(
        -1,
        ge=-1,
        description="decoder threads, at most four per core; -1 for one per core",
        json_schema_extra={INCIDENTAL: True},
    )
    num_processes: int = _unsupported(-1, "worker processes", "use num_threads", harmless=True)
    scratch: str = _own(
        "",
        "folder below which work in progress is kept, so that a killed run continues; empty: $TMPDIR, or /var/tmp",
        incidental=True,
    )
    scratch_size_in_GB: float = _own(
        20.0,
        "bound of what the scratch folder keeps of input and earlier scans",
        incidental=True,
        gt=0.0,
        le=_MOST_GB,
    )
    sanity_check: bool = Field(False, description="check that the installation works, then end")

    # -- Lightly's platform, training and pre-tagging
    token: SecretStr = _unsupported(
        SecretStr(""), "token of Lightly's platform", "this worker needs no token", harmless=True
    )
    worker_id: str = _unsupported("", "register with the platform", "this worker needs no platform", harmless=True)
    worker: PlatformWorker = PlatformWorker()
    checkpoint: str = _unsupported("", "weights of Lightly's own model", "export it to ONNX and give embedder=FILE")
    checkpoint_run_id: str = _unsupported("", "weights of an earlier training", "give embedder=MODEL.onnx")
    enable_training: bool = _unsupported(False, "train before embedding", "train elsewhere; give embedder=MODEL.onnx")
    training: Training = Training()
    upload_dataset: bool = _unsupported(False, "upload to Lightly's platform", "give an s3:// prefix as OUTPUT")
    upload_report: bool = _unsupported(True, "upload the report", "the report is written to OUTPUT", harmless=True)
    pretagging: bool = _unsupported(False, "detect objects", "run a detector over data/sampled afterwards")
    pretagging_debug: bool = _unsupported(False, "draw detected objects", "leave it out")
    pretagging_config: str = _unsupported("", "least counts of objects", "use THRESHOLD in selection_config")
    pretagging_upload: bool = _unsupported(False, "upload detected objects", "leave it out")
    append_weak_labels: bool = _unsupported(
        False,
        "subfolder as label",
        "the labels column numbers the videos, or the folders of images, in any case",
        harmless=True,
    )
    scorer: str = _unsupported("object-frequency", "active-learning scorer", "give WEIGHTS in selection_config")
    scorer_config: ScorerConfig = ScorerConfig()
    active_learning: ActiveLearning = ActiveLearning()
    object_level: ObjectLevel = ObjectLevel()
    datasource: Datasource = Datasource()
    crops: Crops = Crops()
    use_datapool: bool = _unsupported(False, "use the dataset as pool", "name a pool: datapool.name=NAME")
    shutdown_when_job_finished: bool = _unsupported(
        False, "end after one job", "this worker always does", harmless=True
    )
    cache_size: int = _unsupported(-1, "cache of the platform's files", "use scratch_size_in_GB", harmless=True)
    lightly: dict[str, Any] = _unsupported(
        {}, "lightly.*: settings of model, loader and trainer", "there is no training here", harmless=True
    )

    @field_validator("run_directory")
    @classmethod
    def _stays_inside_output(cls, value: str) -> str:
        parts = [part.strip() for part in value.replace("\\", "/").split("/")]
        if value.startswith("/") or ".." in parts:
            raise ValueError("a folder name below OUTPUT is expected, without `..`")
        return "/".join(part for part in parts if part not in ("", "."))

    @field_validator("n_example_images")
    @classmethod
    def _pairs(cls, value: int) -> int:
        if value % 2:
            raise ValueError("an even number is expected")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> "Options":
        wanted, length = self.stopping_condition.n_samples, self.selected_sequence_length
        if length > 1 and isinstance(wanted, int) and wanted > 0 and wanted % length:
            raise ValueError(
                f"stopping_condition.n_samples={wanted} is no multiple of selected_sequence_length={length}"
            )
        if self.selection_config is not None:
            stop, wanted = self.stopping_condition, self.selection_config.n_samples or 0
            if wanted % length:
                raise ValueError(
                    f"selection_config.n_samples={wanted} is no multiple of selected_sequence_length={length}"
                )
            if self.method != "balanced":
                raise ValueError(
                    f"selection_config says by its strategies how to select, and method={self.method} does so too: "
                    f"give one of them"
                )
            if stop.n_samples != -1 or stop.min_distance != -1.0:
                raise ValueError("selection_config and stopping_condition say the same thing: give one of them")
        if self.embeddings_model and not self.embeddings:
            raise ValueError("embeddings_model says what made the given embeddings: give embeddings, too")
        if self.embeddings and self.embedder:
            raise ValueError("embeddings and embedder exclude each other: give one of them")
        return self
