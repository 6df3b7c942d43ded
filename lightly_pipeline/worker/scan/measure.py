"""What is measured on one decoded frame, in one compiled call on its planes: no copy, no GIL.

Pixel hash, block means, sharpness, uniform rows and the built-in descriptor; see FRAME_DTYPE for the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.compiled import kernels
from lightly_pipeline.worker.scan.descriptor import BUILT_IN, projection, split_mix

_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_MAX_SIDE = 16384  # the kernels' column sums are sized for this


@dataclass(frozen=True)
class Layout:
    """How a pixel format lies in memory, as far as the kernels need it.

    bits: bits of a sample. planar: whether the planes are 8- or 16-bit luma (and chroma) as they stand; other
    formats are hashed as they are and converted to planar to be measured.
    """

    bits: int
    planar: bool
    colour: bool
    full_range: bool


@cache
def layout_of(name: str) -> Layout:
    """The layout of a libav pixel format."""
    form = av.VideoFormat(name)
    components = form.components
    bits = components[0].bits
    planes = {component.plane for component in components}
    luma_first = name.startswith(("yuv", "gray"))
    little = not name.endswith("be")
    planar = (
        luma_first
        and little
        and len(planes) == len(components)
        and (bits == 8 or 8 < bits <= 16)
        and not name.startswith("grayf")
    )
    return Layout(bits, planar, len(components) >= 3, name.startswith(("yuvj", "gray")))


@dataclass
class Measured:
    """One frame's numbers. embedding is a view that the next call overwrites: copy it to keep it."""

    pixel_hash: bytes
    sharpness: float
    brightness: float
    contrast: float
    uniform_row_ratio: float
    gray_row_ratio: float
    embedding: NDArray[np.float32]


class Meter:
    """Measures frames; one per thread (it owns the buffers that the compiled code writes to)."""

    def __init__(self) -> None:
        compiled = kernels().functions
        self._measure = {1: compiled["measure8"], 2: compiled["measure16"]}
        self._describe = compiled["describe"]
        self._keys = split_mix(1, 2048)
        self._state = np.zeros(2, np.uint64)
        self._luma = np.zeros((64, 64), np.float32)
        self._chroma = np.zeros((2, 32, 32), np.float32)
        self._numbers = np.zeros(9, np.float64)
        self._workspace = np.zeros(_MAX_SIDE + 16, np.uint32)
        self._signs, self._rows = projection()
        self._embedding = np.zeros(BUILT_IN.dimensions, np.float32)
        self._block = np.zeros(32, np.int64)
        self._block[:6] = [
            array.ctypes.data
            for array in (self._keys, self._state, self._luma, self._chroma, self._numbers, self._workspace)
        ]
        self._block[9:12] = [array.ctypes.data for array in (self._signs, self._rows, self._embedding)]
        self._address = self._block.ctypes.data
        self._turned = np.zeros(6, np.int64)

    def measure(self, frame: av.VideoFrame, rotation: int = 0) -> Measured:
        """Measure one frame of any pixel format; `rotation` in degrees counter-clockwise, as it is shown."""
        self._state[:] = 0
        layout = layout_of(frame.format.name)
        if layout.planar and max(frame.width, frame.height) <= _MAX_SIDE:
            self._run(frame, layout, hashed=True, measured=True, describe=rotation == 0)
        else:
            self._hash_packed(frame)
            scale = min(1.0, _MAX_SIDE / max(frame.width, frame.height))
            converted = frame.reformat(
                format="yuv444p",
                width=max(1, int(frame.width * scale)),
                height=max(1, int(frame.height * scale)),
            )
            self._run(converted, layout_of("yuv444p"), hashed=False, measured=True, describe=rotation == 0)
        if rotation:
            self._describe_turned(rotation // 90 % 4)
        return Measured(
            pixel_hash=self._state.tobytes(),
            sharpness=self._numbers[0],
            brightness=self._numbers[6],
            contrast=self._numbers[7],
            uniform_row_ratio=self._numbers[1] / frame.height,
            gray_row_ratio=self._numbers[8] / frame.height,
            embedding=self._embedding,
        )

    def hash(self, frame: av.VideoFrame) -> bytes:
        """The pixel hash alone, as `measure` gives it."""
        self._state[:] = 0
        layout = layout_of(frame.format.name)
        if layout.planar and max(frame.width, frame.height) <= _MAX_SIDE:
            self._run(frame, layout, hashed=True, measured=False, describe=False)
        else:
            self._hash_packed(frame)
        return self._state.tobytes()

    def _run(self, frame: av.VideoFrame, layout: Layout, *, hashed: bool, measured: bool, describe: bool) -> None:
        sample = 1 if layout.bits == 8 else 2
        keep = []
        block = self._block
        planes = frame.planes
        place = 12
        for plane in planes[:4]:
            stride, width, height = plane.line_size, plane.width, plane.height
            address = plane.buffer_ptr
            if stride % 8 or address % 8 or stride <= 0:
                rows = np.zeros((height, (width * sample + 7) // 8 * 8), np.uint8)
                rows[:, : width * sample] = _visible_rows(plane, width * sample)
                keep.append(rows)
                address, stride = rows.ctypes.data, rows.shape[1]
            block[place : place + 4] = (address, stride, width, height)
            place += 4
        colour = layout.colour and len(planes) >= 3
        if not colour:
            self._chroma[:] = 0
        block[6:9] = (len(planes[:4]) if hashed else 0, (3 if colour else 1) if measured else 0, describe)
        peak = (1 << layout.bits) - 1
        unit = 1 << (layout.bits - 8)
        if layout.full_range or frame.color_range == _FULL_RANGE:
            self._numbers[2:6] = (0.0, 1 / peak, 128 * unit, 1 / peak)
        else:
            self._numbers[2:6] = (16 * unit, 1 / (219 * unit), 128 * unit, 1 / (224 * unit))
        block[28] = 128 * unit
        self._measure[sample](self._address)

    def _hash_packed(self, frame: av.VideoFrame) -> None:
        """Hash planes whose samples are interleaved (RGB, palettes, semi-planar), as bytes."""
        form = frame.format
        shared = [component.plane for component in form.components]
        for number, plane in enumerate(frame.planes):
            if form.name == "pal8" and number == 1:
                octets = plane.buffer_size
                height = 1
            elif shared.count(number) == len(shared):
                octets, height = (frame.width * form.padded_bits_per_pixel + 7) // 8, frame.height
            else:
                octets, height = abs(plane.line_size), plane.height
                own = [component for component in form.components if component.plane == number]
                if own:
                    octets = min(octets, sum(item.width * ((item.bits + 7) // 8) for item in own))
            rows = np.zeros((height, (octets + 7) // 8 * 8), np.uint8)
            rows[:, :octets] = _visible_rows(plane, octets, height)
            block = self._block
            block[6:9] = (1, 0, 0)
            block[12:16] = (rows.ctypes.data, rows.shape[1], octets, height)
            before = self._numbers[1]
            block[28] = -1
            self._measure[1](self._address)
            if number:
                self._numbers[1] = before

    def _describe_turned(self, quarter_turns: int) -> None:
        luma = np.ascontiguousarray(np.rot90(self._luma, quarter_turns))
        chroma = np.ascontiguousarray(np.rot90(self._chroma, quarter_turns, axes=(1, 2)))
        self._turned[:] = [
            array.ctypes.data for array in (luma, chroma, self._signs, self._rows, self._embedding, self._workspace)
        ]
        self._describe(self._turned.ctypes.data)


def _visible_rows(plane: av.video.plane.VideoPlane, octets: int, height: int | None = None) -> NDArray[np.uint8]:
    height = plane.height if height is None else height
    stride = abs(plane.line_size)
    data = np.frombuffer(memoryview(plane), np.uint8)
    if height == 1:
        return data[None, :octets]
    return data[: stride * height].reshape(height, stride)[:, :octets]
