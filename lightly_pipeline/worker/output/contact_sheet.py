"""The contact sheet: selected frames side by side, small enough to look at in one glance."""

import io
from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

#: Pictures on a sheet at most, pictures in a row, and the box in which each has to fit.
PICTURES = 48
_IN_A_ROW = 8
_BOX = (192, 128)
_GAP = 4


def spread(rows: NDArray[np.int64], count: int) -> list[int]:
    """At most `count` of the rows, evenly spread over them."""
    if len(rows) <= count:
        return [int(row) for row in rows]
    step = (len(rows) - 1) / max(1, count - 1)
    return [int(rows[round(i * step)]) for i in range(count)]


def thumbnail(content: bytes, box: tuple[int, int] = _BOX) -> Image.Image:
    """A picture file of these bytes, scaled down to fit the box."""
    if simplejpeg.is_jpeg(content):
        # Decoded at an eighth of its size where that is enough, in half of Pillow's time.
        small = Image.fromarray(simplejpeg.decode_jpeg(content, min_width=box[0], min_height=box[1], min_factor=1))
    else:
        with Image.open(io.BytesIO(content)) as picture:
            small = picture.convert("RGB")
    small.thumbnail(box, Image.Resampling.BOX, reducing_gap=1.0)
    return small


def contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """All pictures on one dark sheet, in rows."""
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    columns = min(_IN_A_ROW, len(pictures))
    rows = -(-len(pictures) // columns)
    size = (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, (24, 26, 30))
    for number, picture in enumerate(pictures):
        left = _GAP + number % columns * (width + _GAP) + (width - picture.width) // 2
        top = _GAP + number // columns * (height + _GAP) + (height - picture.height) // 2
        sheet.paste(picture, (left, top))
    return sheet


def jpeg(picture: Image.Image, *, at_most: int | None = None) -> bytes:
    """The picture as JPEG; with a bound in bytes, as good and as large as fits."""
    quality = 85
    while True:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        if at_most is None or buffer.tell() <= at_most or max(picture.size) < 64:
            return buffer.getvalue()
        if quality > 50:
            quality -= 15
        else:
            picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4))
