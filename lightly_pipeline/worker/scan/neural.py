"""Embeddings by a neural network: any ONNX model given by path, with its preprocessing in a sidecar beside it.

For `model.onnx` the sidecar is `model.json`, `model.yaml` or `model.yml`:

    name: dinov2-small        # identity of the embeddings; default: the file's name
    version: "1"              # default: the first 12 digits of the model's SHA-256
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.types import EmbedderIdentity, ScanError

_SIDECARS = (".json", ".yaml", ".yml")
_KEYS = frozenset(("name", "version", "size", "mean", "std", "scale", "layout", "colour", "input", "output", "batch"))


@dataclass(frozen=True)
class Preprocessing:
    """What a sidecar says; see the module's docstring."""

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

    def __init__(self, model: Path, threads: int = 1) -> None:
        """Load a model and its sidecar.

        Raises ScanError, with what to do, when onnxruntime is not installed, or the model or its sidecar is
        missing or does not fit.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ScanError(
                f"The model {model} needs onnxruntime: install lightly-pipeline with its 'onnx' extra."
            ) from error
        if not model.is_file():
            raise ScanError(f"There is no model at {model}: give the path of an .onnx file.")
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
            raise ScanError(f"{model} does not load as an ONNX model: {error}") from error
        self._settings = _preprocessing(model, self._session)
        probe = self.embed([np.zeros((*self._settings.size, 3), np.uint8)])
        self.identity = EmbedderIdentity(self._settings.name, self._settings.version, probe.shape[1])

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
        """Unit vectors float32 [n, d] of n prepared pictures."""
        settings = self._settings
        padding = settings.batch - len(pictures) if settings.fixed_batch else 0
        batch = np.stack([*pictures, *[pictures[0]] * padding]).astype(np.float32) * np.float32(settings.scale)
        batch = (batch - settings.mean) / settings.std
        if settings.bgr:
            batch = batch[..., ::-1]
        if settings.channels_first:
            batch = batch.transpose(0, 3, 1, 2)
        outputs = self._session.run([settings.output], {settings.input: np.ascontiguousarray(batch)})
        vectors = np.asarray(outputs[0], np.float32).reshape(len(batch), -1)[: len(pictures)]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        result: NDArray[np.float32] = vectors / np.maximum(norms, 1e-12)
        return result


def _preprocessing(model: Path, session: Any) -> Preprocessing:
    said = _sidecar(model)
    inputs = {item.name: item for item in session.get_inputs()}
    outputs = {item.name: item for item in session.get_outputs()}
    name = str(said.get("input", next(iter(inputs))))
    output = str(said.get("output", next(iter(outputs))))
    if name not in inputs or output not in outputs:
        raise ScanError(
            f"{model.name} has inputs {sorted(inputs)} and outputs {sorted(outputs)}, but its sidecar names "
            f"{name!r} and {output!r}: correct 'input' and 'output' there."
        )
    shape = inputs[name].shape
    if len(shape) != 4:
        raise ScanError(f"The input {name!r} of {model.name} has shape {shape}: a batch of pictures has four axes.")
    layout = str(said.get("layout", "NHWC" if shape[3] == 3 and shape[1] != 3 else "NCHW")).upper()
    if layout not in ("NCHW", "NHWC"):
        raise ScanError(f"layout={layout!r} in the sidecar of {model.name} is neither NCHW nor NHWC.")
    colour = str(said.get("colour", "RGB")).upper()
    if colour not in ("RGB", "BGR"):
        raise ScanError(f"colour={colour!r} in the sidecar of {model.name} is neither RGB nor BGR.")
    sides = shape[2:4] if layout == "NCHW" else shape[1:3]
    size = said.get("size", sides)
    size = [size, size] if isinstance(size, int) else list(size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ScanError(f"{model.name} takes pictures of any size: say 'size: [height, width]' in its sidecar.")
    mean, std = (np.array(said.get(key, default), np.float32) for key, default in (("mean", 0.0), ("std", 1.0)))
    if mean.size not in (1, 3) or std.size not in (1, 3) or not np.all(std > 0):
        raise ScanError(f"mean and std in the sidecar of {model.name} need one or three numbers, std above 0.")
    fixed = isinstance(shape[0], int)
    return Preprocessing(
        name=str(said.get("name", model.stem)),
        version=str(said.get("version", _digest(model))),
        size=(size[0], size[1]),
        mean=mean,
        std=std,
        scale=float(said.get("scale", 1 / 255)),
        channels_first=layout == "NCHW",
        bgr=colour == "BGR",
        input=name,
        output=output,
        batch=shape[0] if fixed else max(1, int(said.get("batch", 16))),
        fixed_batch=fixed,
    )


def _sidecar(model: Path) -> dict[str, Any]:
    import yaml

    for ending in _SIDECARS:
        file = model.with_suffix(ending)
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8")
            said = json.loads(text) if ending == ".json" else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise ScanError(f"{file} is not readable as {ending[1:].upper()}: {error}") from error
        if not isinstance(said, dict):
            raise ScanError(f"{file} holds no settings: see the documentation of ONNX models for its keys.")
        unknown = sorted(set(said) - _KEYS)
        if unknown:
            raise ScanError(f"{file} has unknown keys {unknown}: known are {sorted(_KEYS)}.")
        return said
    raise ScanError(
        f"{model.name} has no sidecar: put its preprocessing (mean, std, size, …) into {model.with_suffix('.yaml')}."
    )


def _digest(model: Path) -> str:
    digest = hashlib.sha256()
    with open(model, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]
