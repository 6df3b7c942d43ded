"""What the sandbox's footage shows: textured scenery, a moving camera, and things that move about.

Everything is painted with NumPy from a seeded generator, so that a scene looks the same on every machine. How
scenes become clips, and what is true of the clips, is in `footage.py`.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

Motion = Literal["pan", "objects", "swirl", "rush", "fade"]
Picture = npt.NDArray[np.uint8]


class Scene:
    """One piece of scenery of its own colours and textures; `at` is how it looks after some seconds.

    `pan`: the camera wanders slowly; `objects`: it stands still, and discs and boxes move; `swirl`: both;
    `rush`: it travels fast; `fade`: it wanders while the scenery dissolves into another.
    """

    def __init__(self, rng: np.random.Generator, width: int, height: int, motion: Motion):
        self._width, self._height, self._motion = width, height, motion
        self._margin = max(width, height) // 3
        self._canvas = _scenery(rng, width + self._margin, height + self._margin)
        self._other = _scenery(rng, width + self._margin, height + self._margin) if motion == "fade" else None
        count = {"objects": 5, "swirl": 6}.get(motion, 2)
        self._things = [_Thing(rng, width, height) for _ in range(count)]
        self._phase = rng.uniform(0, 2 * math.pi, 2)
        self._speed = {"pan": 0.55, "objects": 0.0, "swirl": 0.45, "rush": 2.6, "fade": 0.35}[motion]

    def at(self, seconds: float) -> Picture:
        """RGB [height, width, 3] of the scene after that many seconds."""
        way = (1 + np.sin(self._phase + seconds * self._speed * np.array([1.0, 1.31]))) / 2
        x, y = (int(part * self._margin) for part in way)
        window = (slice(y, y + self._height), slice(x, x + self._width))
        picture: Picture = self._canvas[window].copy()
        if self._other is not None:
            # Full change in two seconds: fast enough that each frame differs from the one before.
            share = np.uint16(min(256, int(seconds * 128)))
            other = self._other[window].astype(np.uint16)
            picture = ((picture * (np.uint16(256) - share) + other * share) >> 8).astype(np.uint8)
        for thing in self._things:
            thing.paint(picture, seconds)
        return picture


class _Thing:
    """A textured disc or box that crosses the picture on its own curve."""

    def __init__(self, rng: np.random.Generator, width: int, height: int):
        size = int(min(width, height) * rng.uniform(0.12, 0.3))
        self._texture = _scenery(rng, size, size)
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        self._mask = (x**2 + y**2 < 1) if rng.random() < 0.6 else (abs(x) + 0.6 * abs(y) < 1.1)
        self._centre = np.array([width, height]) / 2
        self._reach = np.array([width, height]) * rng.uniform(0.25, 0.5, 2)
        self._speed = rng.uniform(0.8, 2.2, 2)
        self._phase = rng.uniform(0, 2 * math.pi, 2)

    def paint(self, picture: Picture, seconds: float) -> None:
        size = len(self._texture)
        height, width, _ = picture.shape
        left, top = (
            int(part - size / 2) for part in self._centre + self._reach * np.sin(self._phase + seconds * self._speed)
        )
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + size, width), min(top + size, height)
        if x0 < x1 and y0 < y1:
            inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
            np.copyto(picture[y0:y1, x0:x1], self._texture[inside], where=self._mask[inside][..., None])


def _scenery(rng: np.random.Generator, width: int, height: int) -> Picture:
    """Clouds of noise in three to five colours, overlaid by stripes, tiles or rings, under a fine grain."""
    field = _noise(rng, width, height)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(width, height)
    kind = rng.integers(0, 4)
    frequency = rng.uniform(18, 70)
    angle = rng.uniform(0, math.pi)
    if kind == 0:
        pattern = np.sin(frequency * (x * math.cos(angle) + y * math.sin(angle)))
    elif kind == 1:
        pattern = np.sign(np.sin(frequency * x) * np.sin(frequency * y))
    elif kind == 2:
        pattern = np.sin(frequency * np.hypot(x - rng.random(), y - rng.random()))
    else:
        pattern = np.sin(12 * field + frequency * 0.3 * y)
    strength = rng.uniform(0.05, 0.22)
    tone = np.clip(field + strength * pattern + 0.25 * (y - 0.4), 0, 1)
    stops = int(rng.integers(3, 6))
    colours = rng.uniform(0, 1, (stops, 3))
    # Dark and light in turns, so that every scene has contrast, whatever its hues.
    brightness = np.where(np.arange(stops) % 2, rng.uniform(190, 255), rng.uniform(30, 80))
    colours *= (brightness / colours.max(axis=1))[:, None]
    steps = np.linspace(0, 1, 256)
    ramp = np.stack([np.interp(steps, np.linspace(0, 1, stops), channel) for channel in colours.T], axis=1)
    picture = ramp[(tone * 255).astype(np.uint8)]
    grain = rng.normal(0, rng.uniform(2, 6), (height, width, 1))
    painted: Picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
    return painted


def _noise(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.float32]:
    """Fractal noise in 0 … 1: random grids from coarse to fine, each enlarged by bilinear interpolation.

    Without matrix products: their threads spin for minutes where several processes paint on few cores, and their
    sums differ from machine to machine.
    """
    field = np.zeros((height, width), np.float32)
    for octave in range(6):
        cells = 3 * 2**octave
        grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32) / np.float32(1.7**octave)
        field += _enlarged(_enlarged(grid, height).T, width).T
    field -= field.min()
    return field / max(float(field.max()), 1e-6)


def _enlarged(grid: npt.NDArray[np.float32], length: int) -> npt.NDArray[np.float32]:
    """`grid` with its first axis stretched to `length`, by linear interpolation between its rows."""
    place = np.linspace(0, len(grid) - 1, length)
    above = np.minimum(place.astype(int), len(grid) - 2)
    share = (place - above).astype(np.float32)[:, None]
    stretched: npt.NDArray[np.float32] = grid[above] * (1 - share) + grid[above + 1] * share
    return stretched
