"""Spaces in which a selection is judged and which the selector does not know: colour, gradients, hash, texture.

Each gives one vector per frame; distances are taken in units of the median distance of two random frames, so that
the figures of different spaces, clips and tools can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

SIDE = 128
_REDUNDANT = 0.1


def pictures(path: Path):
    """(RGB uint8 [128, 128, 3], luma float32 [128, 128] in 0..1) of every frame in display order."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            rgb = frame.reformat(SIDE, SIDE, format="rgb24", interpolation="AREA").to_ndarray()
            yield rgb, (rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)) / 255


def hsv(rgb, _luma):
    """Histogram of hue, saturation and value (12 x 4 x 4 bins), square-rooted: Hellinger distance."""
    pixels = rgb[::2, ::2].reshape(-1, 3).astype(np.float32) / 255
    value, low = pixels.max(axis=1), pixels.min(axis=1)
    spread = value - low
    safe = np.where(spread > 0, spread, 1)
    r, g, b = pixels.T
    hue = np.where(value == r, (g - b) / safe % 6, np.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4)) / 6
    saturation = spread / np.where(value > 0, value, 1)
    bins = [np.minimum((part * n).astype(int), n - 1) for part, n in ((hue, 12), (saturation, 4), (value, 4))]
    counts = np.bincount((bins[0] * 4 + bins[1]) * 4 + bins[2], minlength=192)
    return np.sqrt(counts / counts.sum())


def hog(_rgb, luma):
    """Histograms of oriented gradients, 8 x 8 cells x 9 orientations, each cell of unit length at most."""
    dy, dx = np.gradient(luma)
    strength = np.hypot(dx, dy)
    orientation = np.minimum((np.arctan2(dy, dx) % np.pi / np.pi * 9).astype(int), 8)
    cell = SIDE // 8
    rows, columns = np.indices(luma.shape) // cell
    flat = np.bincount(((rows * 8 + columns) * 9 + orientation).ravel(), weights=strength.ravel(), minlength=576)
    cells = flat.reshape(64, 9)
    return (cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 0.5)).ravel()


def _cosines(n):
    k = np.arange(n)
    return np.cos(np.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * n))


_DCT = _cosines(32)


def phash(_rgb, luma):
    """64 signs of low frequencies against their median; the squared distance counts the bits that differ."""
    small = luma.reshape(32, SIDE // 32, 32, SIDE // 32).mean(axis=(1, 3))
    low = (_DCT @ small @ _DCT.T)[:8, :8].ravel()
    return (low > np.median(low[1:])).astype(float)


def _gabor_bank():
    y, x = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE), indexing="ij")
    bank = []
    for frequency in (0.05, 0.1, 0.2):
        for turn in range(4):
            angle = np.pi * turn / 4
            u = x * np.cos(angle) + y * np.sin(angle)
            v = -x * np.sin(angle) + y * np.cos(angle)
            bank.append(np.exp(-((u - frequency) ** 2 + v**2) / (2 * (frequency / 3) ** 2)))
    return np.array(bank, dtype=np.float32)


_BANK = _gabor_bank()


def gabor(_rgb, luma):
    """Energy of 12 Gabor filters on a 4 x 4 grid."""
    responses = np.abs(np.fft.ifft2(np.fft.fft2(luma)[None] * _BANK))
    side = SIDE // 4
    return np.sqrt((responses.reshape(12, 4, side, 4, side) ** 2).mean(axis=(2, 4))).ravel()


SPACES = {"hsv": hsv, "hog": hog, "phash": phash, "gabor": gabor}


@dataclass(frozen=True)
class Verdict:
    """Distances of all frames to the nearest selected one, and the share of selected ones with another within 0.1."""

    radius: float
    p99: float
    mean: float
    redundancy: float


class Judge:
    """One space over all frames."""

    def __init__(self, name, features):
        self.name = name
        self.rows = np.ascontiguousarray(features, dtype=np.float32)
        rng = np.random.default_rng(0)
        first, second = rng.integers(0, len(self.rows), (2, 20_000))
        apart = self._true(np.linalg.norm(self.rows[first] - self.rows[second], axis=1))
        self.unit = float(np.median(apart[first != second]))

    def _true(self, distances):
        return distances**2 if self.name == "phash" else distances

    def distances(self, rows, others):
        """Distances in units, [rows, others]."""
        squared = (rows**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * rows @ others.T
        return self._true(np.sqrt(np.maximum(squared, 0))) / self.unit

    def verdict(self, picks):
        """What the selection of these rows is worth."""
        chosen = self.rows[picks]
        nearest = np.concatenate(
            [self.distances(self.rows[i : i + 2048], chosen).min(axis=1) for i in range(0, len(self.rows), 2048)]
        )
        among = self.distances(chosen, chosen)
        np.fill_diagonal(among, np.inf)
        return Verdict(
            float(nearest.max()),
            float(np.percentile(nearest, 99)),
            float(nearest.mean()),
            float((among.min(axis=1) < _REDUNDANT).mean()),
        )


def features_of(path: Path, spaces=SPACES):
    """{space: float32 [frames, d]} of one clip."""
    columns = {name: [] for name in spaces}
    for rgb, luma in pictures(path):
        for name, describe in spaces.items():
            columns[name].append(describe(rgb, luma).astype(np.float32))
    return {name: np.array(rows) for name, rows in columns.items()}
