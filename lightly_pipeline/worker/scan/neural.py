"""Embeddings by a neural network: any ONNX model given by path, with its preprocessing in a sidecar beside it.

For `model.onnx` the sidecar is `model.json`, `model.yaml` or `model.yml`:

    name: dinov2-small        # identity of the embeddings; default: the file's name
    version: "1"              # default: 12 digits of a hash of the model and of what follows
    size: [224, 224]          # height, width; default: what the model's input says
    mean: [0.485, 0.456, 0.406]
    std: [0.229, 0.224, 0.225]
    scale: 0.00392156862745   # what 8-bit values are multiplied by before mean and std (1/255)
    layout: NCHW              # or NHWC; default: where the input has 3 channels
    colour: RGB               # or BGR
    input: pixel_values       # names; default: the model's first ones
    output: pooler_output
    batch: 16

onnxruntime is imported only when there is a model; CUDA is used where it is built in and works.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import av
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from lightly_pipeline.worker.scan.descriptor import BUILT_IN
from lightly_pipeline.worker.scan.types import EmbedderIdentity, ModelUnusable

_SIDECARS = (".json", ".yaml", ".yml")
_Upper = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)


class Sidecar(BaseModel):
    """What a sidecar may say; see the module's docstring."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False, defer_build=True
    )

    name: str | None = None
    version: str | None = None
    size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    mean: float | tuple[float, float, float] = 0.0
    std: PositiveFloat | tuple[PositiveFloat, PositiveFloat, PositiveFloat] = 1.0
    scale: float = 1 / 255
    layout: Annotated[Literal["NCHW", "NHWC"] | None, _Upper] = None
    colour: Annotated[Literal["RGB", "BGR"], _Upper] = "RGB"
    input: str | None = None
    output: str | None = None
    batch: PositiveInt = 16


@dataclass(frozen=True)
class Preprocessing:
    """A sidecar and what a model says of itself."""

    name: str
    version: str
    size: tuple[int, int]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    scale: float
    channels_first: bool
    bgr: bool
    input: str
    output: str
    batch: int
    fixed_batch: bool


class NeuralEmbedder:
    """Embeds frames with an ONNX model; may be used by several threads at once."""

    def __init__(self, model: Path, threads: int = 1, *, normalize: bool = True) -> None:
        """Load a model and its sidecar; normalize: scale its vectors to unit length.

        Raises ModelUnusable, with what to do, when onnxruntime is not installed, or the model or its sidecar is
        missing or does not fit.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelUnusable(
                f"The model {model} needs onnxruntime: install lightly-pipeline with its 'onnx' extra."
            ) from error
        if not model.is_file():
            raise ModelUnusable(f"There is no model at {model}: give the path of an .onnx file.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        wanted = [
            name
            for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
            if name in onnxruntime.get_available_providers()
        ]
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=wanted)
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            raise ModelUnusable(f"{model} does not load as an ONNX model: {_line(error)}") from error
        self._name = model.name
        self._normalize = normalize
        self._settings = _preprocessing(model, self._session)
        probe = self.embed([np.zeros((*self._settings.size, 3), np.uint8)])
        version = self._settings.version if normalize else f"{self._settings.version}, as given"
        self.identity = EmbedderIdentity(self._settings.name, version, probe.shape[1])

    @property
    def batch(self) -> int:
        """How many pictures to embed at a time."""
        return self._settings.batch

    def prepare(self, frame: av.VideoFrame, rotation: int = 0) -> NDArray[np.uint8]:
        """A frame as the model sees it: uint8 [height, width, 3] RGB, upright, resized without its proportions."""
        height, width = self._settings.size
        turned = rotation % 180 != 0
        rgb = frame.reformat(
            width=height if turned else width,
            height=width if turned else height,
            format="rgb24",
            interpolation="AREA",
        ).to_ndarray()
        return np.ascontiguousarray(np.rot90(rgb, rotation // 90 % 4))

    def embed(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Vectors float32 [n, d] of n prepared pictures: of unit length, or as the model gives them."""
        settings = self._settings
        padding = settings.batch - len(pictures) if settings.fixed_batch else 0
        batch = np.stack([*pictures, *[pictures[0]] * padding]).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at below
            batch = (batch * np.float32(settings.scale) - settings.mean) / settings.std
        if settings.bgr:
            batch = batch[..., ::-1]
        if settings.channels_first:
            batch = batch.transpose(0, 3, 1, 2)
        try:
            outputs = self._session.run([settings.output], {settings.input: np.ascontiguousarray(batch)})
        except Exception as error:  # as above
            raise ModelUnusable(
                f"{self._name} does not run on pictures of shape {batch.shape}: {_line(error)}"
            ) from error
        vectors = np.asarray(outputs[0], np.float32).reshape(len(batch), -1)[: len(pictures)]
        if not np.isfinite(vectors).all():
            raise ModelUnusable(
                f"{self._name} gives numbers that are not finite: check scale, mean and std in its sidecar."
            )
        if not self._normalize:
            return vectors
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        result: NDArray[np.float32] = vectors / np.maximum(norms, 1e-12)
        return result


def identity_of(model: NeuralEmbedder | None) -> EmbedderIdentity:
    """Of the embeddings that the model makes, or the built-in descriptor where there is none."""
    return model.identity if model else BUILT_IN


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def sidecar_of(model: Path) -> Path | None:
    """The file that holds a model's preprocessing, None without one."""
    return next((file for ending in _SIDECARS if (file := model.with_suffix(ending)).is_file()), None)


def _preprocessing(model: Path, session: Any) -> Preprocessing:
    said = _read(model)
    inputs = {item.name: item for item in session.get_inputs()}
    outputs = {item.name: item for item in session.get_outputs()}
    name, output = said.input or next(iter(inputs)), said.output or next(iter(outputs))
    if name not in inputs or output not in outputs:
        raise ModelUnusable(
            f"{model.name} has inputs {sorted(inputs)} and outputs {sorted(outputs)}, but its sidecar names "
            f"{name!r} and {output!r}: correct 'input' and 'output' there."
        )
    shape = inputs[name].shape
    if len(shape) != 4:
        raise ModelUnusable(f"The input {name!r} of {model.name} has shape {shape}: a batch of pictures has four axes.")
    layout = said.layout or ("NHWC" if shape[3] == 3 and shape[1] != 3 else "NCHW")
    size = said.size or (shape[2:4] if layout == "NCHW" else shape[1:3])
    height, width = (size, size) if isinstance(size, int) else size
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise ModelUnusable(f"{model.name} takes pictures of any size: say 'size: [height, width]' in its sidecar.")
    fixed = isinstance(shape[0], int)
    settings = Preprocessing(
        name=said.name or model.stem,
        version=said.version or "",
        size=(height, width),
        mean=np.array(said.mean, np.float32),
        std=np.array(said.std, np.float32),
        scale=said.scale,
        channels_first=layout == "NCHW",
        bgr=said.colour == "BGR",
        input=name,
        output=output,
        batch=shape[0] if fixed else said.batch,
        fixed_batch=fixed,
    )
    return settings if settings.version else replace(settings, version=_digest(model, settings))


def _read(model: Path) -> Sidecar:
    import yaml

    file = sidecar_of(model)
    if file is None:
        raise ModelUnusable(
            f"{model.name} has no sidecar: put its preprocessing (mean, std, …) into {model.with_suffix('.yaml')}."
        )
    try:
        text = file.read_text(encoding="utf-8")
        said = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ModelUnusable(f"{file} is not readable as {file.suffix[1:].upper()}: {_line(error)}.") from error
    if not isinstance(said, dict):
        raise ModelUnusable(f"{file} holds no settings: see the documentation of ONNX models for its keys.")
    try:
        return Sidecar.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelUnusable(
            f"{file} says {first['loc'][0]}={first['input']!r}: {first['msg']}; known are "
            f"{', '.join(Sidecar.model_fields)}."
        ) from error


def _digest(model: Path, settings: Preprocessing) -> str:
    """Of the model and of all that changes what it sees: embeddings of other preprocessing are others."""
    digest = hashlib.sha256()
    with open(model, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    colours = [np.broadcast_to(values, 3).tolist() for values in (settings.mean, settings.std)]
    seen = (settings.size, colours, settings.scale, settings.bgr, settings.output)
    digest.update(repr(seen).encode())
    return digest.hexdigest()[:12]
