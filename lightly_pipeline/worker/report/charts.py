"""The PNG plots under plots/, with Lightly's names: histograms, maps, and pairs of retained and removed frames.

Drawn with Pillow. Matplotlib would draw them as well, but to import it and draw sixteen plots takes 2 s of a core,
which is as long as decoding and selecting from half a minute of video.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

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
_INK, _FAINT, _PAPER, _POOL = (40, 44, 52), (215, 218, 224), (255, 255, 255), (175, 178, 184)
_SELECTED = (20, 22, 26)


def draw_histogram(tree: Path, name: str, title: str, counts: Sequence[int], edges: Sequence[float]) -> None:
    """plots/<name>.png: a histogram with a logarithmic count axis."""
    picture, draw, (left, top, right, bottom) = _paper(title, "distance", "pairs (log)")
    highest = np.log10(max(10, *counts)) if len(counts) else 1.0
    for power in range(int(highest) + 1):
        y = bottom - (bottom - top) * power / highest
        draw.line((left, y, right, y), fill=_FAINT)
        draw.text((left - 8, y), f"1e{power}", fill=_INK, font=_font(13), anchor="rm")
    width = (right - left) / max(1, len(counts))
    for number, count in enumerate(counts):
        if count:
            # A single pair still shows: log10(1) is 0.
            height = max(2.0, (bottom - top) * np.log10(count) / highest)
            draw.rectangle(
                (left + number * width, bottom - height, left + (number + 1) * width - 1, bottom), fill=PALETTE[0]
            )
    if len(edges):
        for place in np.linspace(0, 1, 6):
            value = edges[0] + (edges[-1] - edges[0]) * place
            draw.text(
                (left + (right - left) * place, bottom + 8), f"{value:.2f}", fill=_INK, font=_font(13), anchor="ma"
            )
    _save(picture, tree, name)


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
    picture, _, (left, top, right, bottom) = _paper(title, "", "")
    everything = np.concatenate([places, pool]) if len(pool) else places
    if not len(everything):
        _save(picture, tree, name)
        return
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = np.array([right - left, bottom - top]) / np.maximum(high - low, 1e-9)

    def on_paper(points: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.asarray(((points - low) * scale + (left, top)).round(), dtype=np.int64)

    canvas = np.asarray(picture).astype(np.int16)
    spots, paint = on_paper(places), np.array(PALETTE, dtype=np.int16)[np.asarray(colours, dtype=int) % len(PALETTE)]
    chosen = np.zeros(len(places), np.bool_) if selected is None else selected
    if len(pool):
        _stamp(canvas, on_paper(pool), 2.0, np.array(_POOL, dtype=np.int16))
    _stamp(canvas, spots[~chosen], 3.0, paint[~chosen])
    _stamp(canvas, spots[chosen], 5.2, np.array(_SELECTED, dtype=np.int16))
    _stamp(canvas, spots[chosen], 3.0, paint[chosen])
    _save(Image.fromarray(canvas.astype(np.uint8)), tree, name)


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
    _save(picture, tree, name)


def _paper(title: str, across: str, up: str) -> tuple[Image.Image, ImageDraw.ImageDraw, tuple[int, int, int, int]]:
    picture = Image.new("RGB", _SIZE, _PAPER)
    draw = ImageDraw.Draw(picture)
    left, top = _MARGIN[0], _MARGIN[1]
    right, bottom = _SIZE[0] - _MARGIN[2], _SIZE[1] - _MARGIN[3]
    draw.text((left, 16), title, fill=_INK, font=_font(18))
    draw.text(((left + right) / 2, _SIZE[1] - 26), across, fill=_INK, font=_font(13), anchor="ma")
    draw.text((10, top - 6), up, fill=_INK, font=_font(13), anchor="lb")
    return picture, draw, (left, top, right, bottom)


def _stamp(canvas: NDArray[np.int16], spots: NDArray[np.int64], radius: float, colour: NDArray[np.int16]) -> None:
    """Draw a disc with a soft edge at every spot (x, y): all spots at once, one pixel of the disc after the other."""
    reach = int(np.ceil(radius)) + 1
    for across in range(-reach, reach + 1):
        for down in range(-reach, reach + 1):
            cover = min(1.0, radius + 0.5 - float(np.hypot(across, down)))
            if cover > 0.0:
                rows, columns = spots[:, 1] + down, spots[:, 0] + across
                under = canvas[rows, columns]
                canvas[rows, columns] = under + ((colour - under) * cover).astype(np.int16)


@cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _save(picture: Image.Image, tree: Path, name: str) -> None:
    path = tree / layout.PLOTS / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture.size == _SIZE:
        # Few colours: an eighth of the time and a third of the bytes of true colour.
        picture = picture.quantize(64, method=Image.Quantize.FASTOCTREE)
    picture.save(path, compress_level=1)
