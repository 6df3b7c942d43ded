"""A decoded frame as a picture file: rotation, size, colour, PNG or JPEG.

JPEG takes the frame's own planes (converted to JPEG's full-range BT.601 where they are not), so that no RGB
picture is made in between. PNG is written by `png`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import av
import numpy as np
import simplejpeg
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.compiled import kernels
from lightly_pipeline.worker.scan.png import PngEncoder
from lightly_pipeline.worker.scan.types import PictureTooLarge, ScanSettings

_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
#: Pixels of a picture, and of the edge of a JPEG (libjpeg's JPEG_MAX_DIMENSION).
_LARGEST = 1 << 28
_LONGEST_JPEG = 65500
_BT709, _FCC, _BT2020 = 1, 4, (9, 10)
_SUBSAMPLING = {
    "yuv420p": (1, 1),
    "yuvj420p": (1, 1),
    "yuv422p": (1, 0),
    "yuvj422p": (1, 0),
    "yuv444p": (0, 0),
    "yuvj444p": (0, 0),
    "gray": None,
}


@dataclass(frozen=True)
class Within:
    """A size no larger than the frame's, whose shortest and longest edges are at most these."""

    shortest: int
    longest: int


Size = int | tuple[int, int] | Within


def target_size(width: int, height: int, size: Size) -> tuple[int, int]:
    """Width and height of the written picture for Lightly's output_image_size.

    -1 keeps the size, x makes the shortest edge x pixels, (height, width) is taken as it is.
    """
    if isinstance(size, tuple):
        return size[1], size[0]
    if isinstance(size, Within):
        scale = min(1.0, size.shortest / min(width, height), size.longest / max(width, height))
    elif size <= 0:
        return width, height
    else:
        scale = size / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def is_full_range(frame: av.VideoFrame) -> bool:
    """Whether black is 0 and white the largest value, as libswscale takes it: always so for gray formats."""
    name = frame.format.name
    return name.startswith(("yuvj", "gray", "ya")) or frame.color_range == _FULL_RANGE


@cache
def _to_jpeg_colour(colorspace: int, full_range: bool) -> tuple[int, ...]:
    """Luma offset and the seven coefficients (times 2^14) of `to_full_range`; BT.601, BT.709, BT.2020."""
    if colorspace == _BT709:
        red, blue = 0.2126, 0.0722
    elif colorspace in _BT2020:
        red, blue = 0.2627, 0.0593
    elif colorspace == _FCC:
        red, blue = 0.30, 0.11
    else:  # BT.601, and what says nothing, as libswscale does
        red, blue = 0.299, 0.114

    def to_rgb(r: float, b: float) -> NDArray[np.float64]:
        g = 1 - r - b
        return np.array([[1, 0, 2 * (1 - r)], [1, -2 * b * (1 - b) / g, -2 * r * (1 - r) / g], [1, 2 * (1 - b), 0]])

    matrix = np.linalg.inv(to_rgb(0.299, 0.114)) @ to_rgb(red, blue)
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    matrix = matrix * np.array([luma, chroma, chroma])
    fixed = np.round(matrix * (1 << 14)).astype(int)
    return (
        0 if full_range else 16,
        int(fixed[0, 0]),
        int(fixed[0, 1]),
        int(fixed[0, 2]),
        int(fixed[1, 1]),
        int(fixed[1, 2]),
        int(fixed[2, 1]),
        int(fixed[2, 2]),
    )


def _nearest_8_bit(frame: av.VideoFrame) -> str:
    """The 8-bit planar format with the least loss for a YUV or gray frame in another format."""
    components = frame.format.components
    if len(components) <= 2:
        return "gray"
    halved = components[1].width < frame.width and components[1].height < frame.height
    return "yuv420p" if halved else "yuv444p"


def _evened(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same plane in memory that goes on to an even width and height, as libjpeg reads it above halved chroma."""
    height, width = luma.shape
    if height % 2 or width % 2:
        return np.pad(luma, ((0, height % 2), (0, width % 2)), mode="edge")[:height, :width]
    return luma


class PictureEncoder:
    """Encodes frames of one output format and size; one per thread (it owns buffers)."""

    def __init__(self, image_format: str, size: Size, quality: int, *, interpolation: str = "BICUBIC") -> None:
        self._size = size
        self._quality = quality
        self._interpolation = interpolation
        # They keep libswscale's tables from one frame to the next.
        self._reformatter, self._colours = VideoReformatter(), VideoReformatter()
        self._png = PngEncoder() if image_format == "png" else None
        self._block = np.zeros(24, np.int64)
        self._planes: tuple[NDArray[np.uint8], ...] = ()

    def encode(self, frame: av.VideoFrame, rotation: int = 0) -> bytes:
        """Encode one frame; returns the file's bytes. rotation: degrees counter-clockwise, a multiple of 90.

        Raises PictureTooLarge when the wanted size is more than the format, or memory, can hold, or out of
        all proportion.
        """
        turned = rotation % 180 != 0
        shown = (frame.height, frame.width) if turned else (frame.width, frame.height)
        width, height = target_size(*shown, self._size)
        if width * height > _LARGEST or (self._png is None and max(width, height) > _LONGEST_JPEG):
            raise PictureTooLarge(f"A frame of {shown[0]} x {shown[1]} would become a picture of {width} x {height}.")
        if (width, height) != shown:
            before = (height, width) if turned else (width, height)
            try:
                frame = self._reformatter.reformat(frame, *before, interpolation=self._interpolation)
            except av.error.ArgumentError as error:  # beyond what libswscale shrinks or enlarges at once
                raise PictureTooLarge(
                    f"A frame of {shown[0]} x {shown[1]} cannot be made a picture of {width} x {height}."
                ) from error
        quarter_turns = rotation // 90 % 4
        if self._png is not None:
            rgb = self._colours.reformat(frame, format="rgb24").to_ndarray()
            if quarter_turns:
                rgb = np.rot90(rgb, quarter_turns)
            return self._png.encode(np.ascontiguousarray(rgb))
        return self._jpeg(frame, quarter_turns)

    def _jpeg(self, frame: av.VideoFrame, quarter_turns: int) -> bytes:
        name = frame.format.name
        colorspace, full = int(frame.colorspace), is_full_range(frame)
        if name not in _SUBSAMPLING or (quarter_turns % 2 and name.endswith("422p")):
            if frame.format.is_rgb:
                rgb = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))
                picture: bytes = simplejpeg.encode_jpeg(rgb, quality=self._quality, colorsubsampling="444")
                return picture
            name = _nearest_8_bit(frame)
            frame = frame.reformat(format=name)
        planes = self._full_range(frame, name, colorspace, full)
        if quarter_turns:
            planes = tuple(np.ascontiguousarray(np.rot90(plane, quarter_turns)) for plane in planes)
        y, u, v = planes if len(planes) == 3 else (planes[0], None, None)
        if u is not None and u.shape != y.shape:
            y = _evened(y)
        picture = simplejpeg.encode_jpeg_yuv_planes(y, u, v, quality=self._quality)
        return picture

    def _full_range(
        self, frame: av.VideoFrame, name: str, colorspace: int, full: bool
    ) -> tuple[NDArray[np.uint8], ...]:
        shifts = _SUBSAMPLING[name]
        source = frame.planes
        shapes = [(plane.height, plane.width) for plane in source[: 1 if shifts is None else 3]]
        if tuple(plane.shape for plane in self._planes) != tuple(shapes):
            self._planes = tuple(np.empty(shape, np.uint8) for shape in shapes)
        y = source[0]
        block = self._block
        block[:4] = (y.buffer_ptr, y.line_size, y.width, y.height)
        if shifts is None:
            block[4:12] = 0
            block[12] = self._planes[0].ctypes.data
        else:
            u, v = source[1], source[2]
            block[4:12] = (u.buffer_ptr, u.line_size, v.buffer_ptr, v.line_size, u.width, u.height, *shifts)
            block[12:15] = [plane.ctypes.data for plane in self._planes]
        colour = _to_jpeg_colour(colorspace if shifts is not None else 0, full)
        block[15:23] = colour
        kernels().functions["to_full_range"](block.ctypes.data)
        return self._planes


#: Small pictures for the report and the contact sheet.
SMALL = Within(shortest=144, longest=1024)
#: Shortest edge from which a JPEG takes longer to read back than a small one takes to make.
_LARGE = 720


def picture_encoder(settings: ScanSettings) -> PictureEncoder:
    """For frames as the settings want them written."""
    return PictureEncoder(settings.image_format, settings.output_image_size, settings.jpeg_quality)


def small_encoder() -> PictureEncoder:
    """For JPEGs of SMALL size."""
    return PictureEncoder("jpg", SMALL, 85, interpolation="AREA")


class KeptEncoder:
    """Encodes frames that are kept while decoding, and small versions of what would be slow to read again."""

    def __init__(self, settings: ScanSettings) -> None:
        self._size = settings.output_image_size
        self._encoder = picture_encoder(settings)
        self._small = small_encoder()
        self._from = SMALL.shortest if settings.image_format == "png" else _LARGE

    def encode(self, frame: av.VideoFrame, rotation: int = 0) -> tuple[bytes, bytes]:
        """The picture, and the small one or nothing. Raises PictureTooLarge."""
        large = min(target_size(frame.width, frame.height, self._size)) > self._from
        return self._encoder.encode(frame, rotation), self._small.encode(frame, rotation) if large else b""
