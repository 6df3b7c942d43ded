"""The PNG plots under plots/, with Lightly's names: histograms, maps, and pairs of retained and removed frames.

Drawn with Pillow. Matplotlib would draw them as well, but to import it and draw sixteen plots takes 2 s of a core,
which is as long as decoding and selecting from half a minute of video.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lightly_pipeline.worker.output import layout

PALETTE = (
    (68, 119, 170),
    (238, 119, 51),
    (34, 136, 51),
    (204, 51, 17),
    (51, 187, 238),
    (170, 51, 119),
    (187, 187, 51),
    (120, 94, 240),
    (150, 110, 70),
    (0, 150, 136),
)
_SIZE = (800, 600)
_MARGIN = (70, 50, 30, 60)
_INK, _PAPER, _POOL, _SELECTED = (40, 44, 52), (255, 255, 255), (175, 178, 184), (20, 22, 26)

# Charts are drawn in the numbers of one palette, which takes a third of the time of true colour: first 64 grays from
# ink to paper, for letters and lines, then each colour of a spot in steps from faint to full.
_GRAYS, _STEPS = 64, 6
_SPOTS = (*PALETTE, _POOL, _SELECTED)
_FAINT_GRAY = 208

Colour = tuple[int, int, int]
Canvas = NDArray[np.uint8]


def draw_histogram(tree: Path, name: str, title: str, counts: Sequence[int], edges: Sequence[float]) -> None:
    """plots/<name>.png: a histogram with a logarithmic count axis."""
    picture, (left, top, right, bottom) = _paper(title)
    draw = ImageDraw.Draw(picture)
    draw.text(((left + right) / 2, _SIZE[1] - 26), "distance", fill=0, font=_font(13), anchor="ma")
    draw.text((10, top - 6), "pairs (log)", fill=0, font=_font(13), anchor="lb")
    highest = np.log10(max(10, *counts)) if len(counts) else 1.0
    for power in range(int(highest) + 1):
        y = bottom - (bottom - top) * power / highest
        draw.line((left, y, right, y), fill=_FAINT_GRAY)
        draw.text((left - 8, y), f"1e{power}", fill=0, font=_font(13), anchor="rm")
    if len(edges):
        for place in np.linspace(0, 1, 6):
            value = edges[0] + (edges[-1] - edges[0]) * place
            draw.text((left + (right - left) * place, bottom + 8), f"{value:.2f}", fill=0, font=_font(13), anchor="ma")
    canvas = _canvas(picture)
    width = (right - left) / max(1, len(counts))
    for number, count in enumerate(counts):
        if count:
            # A single pair still shows: log10(1) is 0.
            height = max(2, round((bottom - top) * np.log10(count) / highest))
            start, end = round(left + number * width), max(round(left + (number + 1) * width) - 1, left + 1)
            canvas[bottom - height : bottom, start:end] = _shade(0, 1.0)
    _save(canvas, tree, name)


def draw_map(
    tree: Path,
    name: str,
    title: str,
    places: NDArray[np.float32],
    colours: Sequence[int],
    selected: NDArray[np.bool_] | None,
    pool: NDArray[np.float32],
) -> None:
    """plots/<name>.png: frames coloured by video, over the pool in grey; selected ones on top, if given."""
    picture, (left, top, right, bottom) = _paper(title)
    canvas = _canvas(picture)
    everything = np.concatenate([places, pool]) if len(pool) else places
    if not len(everything):
        _save(canvas, tree, name)
        return
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = np.array([right - left, bottom - top]) / np.maximum(high - low, 1e-9)

    def on_paper(points: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.asarray(((points - low) * scale + (left, top)).round(), dtype=np.int64)

    spots, kinds = on_paper(places), np.asarray(colours, dtype=np.int64) % len(PALETTE)
    chosen = np.zeros(len(places), np.bool_) if selected is None else selected
    if len(pool):
        _stamp(canvas, on_paper(pool), 2.0, np.full(len(pool), _SPOTS.index(_POOL)))
    _stamp(canvas, spots[~chosen], 3.0, kinds[~chosen])
    _stamp(canvas, spots[chosen], 5.2, np.full(int(chosen.sum()), _SPOTS.index(_SELECTED)))
    _stamp(canvas, spots[chosen], 3.0, kinds[chosen])
    _save(canvas, tree, name)


def draw_pair(tree: Path, name: str, retained: Image.Image, removed: Image.Image, captions: tuple[str, str]) -> None:
    """plots/<name>.png: a retained frame beside its nearest removed one."""
    width, height = max(retained.width, removed.width), max(retained.height, removed.height)
    picture = Image.new("RGB", (2 * width + 30, height + 54), _PAPER)
    draw = ImageDraw.Draw(picture)
    for number, (frame, caption) in enumerate(zip((retained, removed), captions, strict=True)):
        left = 10 + number * (width + 10)
        picture.paste(frame, (left, 44))
        draw.text((left, 8), ("retained", "removed")[number], fill=_INK, font=_font(15))
        draw.text((left, 27), caption, fill=_INK, font=_font(11))
    picture.save(_path(tree, name), compress_level=1)


def _paper(title: str) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A sheet to write on, 0 for ink and 255 for paper, and where on it the chart goes."""
    picture = Image.new("L", _SIZE, 255)
    ImageDraw.Draw(picture).text((_MARGIN[0], 16), title, fill=0, font=_font(18))
    return picture, (_MARGIN[0], _MARGIN[1], _SIZE[0] - _MARGIN[2], _SIZE[1] - _MARGIN[3])


def _canvas(picture: Image.Image) -> Canvas:
    """The sheet in the numbers of the palette, uint8 [height, width]."""
    canvas: Canvas = np.asarray(picture) // np.uint8(256 // _GRAYS)
    return canvas


def _shade(kind: int | NDArray[np.int64], cover: float) -> Any:
    """The numbers of spots that cover so much of a pixel; kind: place in `_SPOTS`."""
    return _GRAYS + kind * _STEPS + max(0, round(cover * _STEPS) - 1)


def _stamp(canvas: Canvas, spots: NDArray[np.int64], radius: float, kinds: NDArray[np.int64]) -> None:
    """Draw a disc with a soft edge at every spot (x, y): all spots at once, one pixel of the disc after the other.

    Edges come first, and only on paper: what else is there lies below a full disc or has an edge of its own.
    """
    reach = range(-int(np.ceil(radius)) - 1, int(np.ceil(radius)) + 2)
    pixels = [(radius + 0.5 - float(np.hypot(across, down)), across, down) for across in reach for down in reach]
    for cover, across, down in sorted(pixels):
        if cover <= 0.0:
            continue
        rows, columns, shade = spots[:, 1] + down, spots[:, 0] + across, _shade(kinds, min(1.0, cover))
        if cover < 1.0:
            under = canvas[rows, columns]
            shade = np.where(under < _GRAYS, shade, under)
        canvas[rows, columns] = shade


@cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


@cache
def _palette() -> list[int]:
    """Red, green and blue of each number."""
    colours = [_between(_INK, _PAPER, gray / (_GRAYS - 1)) for gray in range(_GRAYS)]
    colours += [_between(_PAPER, spot, step / _STEPS) for spot in _SPOTS for step in range(1, _STEPS + 1)]
    return [part for colour in colours for part in colour]


def _between(one: Colour, other: Colour, share: float) -> list[int]:
    return [round(a + (b - a) * share) for a, b in zip(one, other, strict=True)]


def _save(canvas: Canvas, tree: Path, name: str) -> None:
    picture = Image.fromarray(canvas)
    picture.putpalette(_palette())
    picture.save(_path(tree, name), compress_level=1)


def _path(tree: Path, name: str) -> Path:
    path = tree / layout.PLOTS / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
