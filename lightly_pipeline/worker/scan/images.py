"""Images as input: each file is one frame."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Lock, local
from typing import TYPE_CHECKING

import av
import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.cores import usable_cores
from lightly_pipeline.worker.scan.kept import KeptPictures
from lightly_pipeline.worker.scan.measure import Measured, Meter
from lightly_pipeline.worker.scan.neural import NeuralEmbedder, identity_of
from lightly_pipeline.worker.scan.store import EmbeddingStore
from lightly_pipeline.worker.scan.types import FRAME_DTYPE, Problem, ScanSettings, VideoScan

if TYPE_CHECKING:
    from PIL.Image import Image


#: Pixels beyond which images are worked on one at a time.
_LARGE = 24_000_000
_large = Lock()


def _nothing(frames: int) -> None:
    """Do not follow progress."""


@dataclass(frozen=True)
class ImageSource:
    """The files behind a scan of images, by frame index."""

    paths: tuple[Path, ...]


def open_image(path: Path) -> av.VideoFrame:
    """Decode one image as shown: EXIF orientation applied, first page, transparency dropped, 8 bits a channel.

    Raises OSError when it is damaged, cut off or no image.
    """
    # Videos do without, and begin sooner.
    from PIL import Image, ImageOps

    _be_quiet()
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):
                rgb = _from_deep_gray(picture)
            else:
                ImageOps.exif_transpose(picture, in_place=True)
                rgb = np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except OSError:
        raise
    except Exception as error:  # Pillow's decoders raise what they please on damaged files
        raise OSError(f"{type(error).__name__}: {error}") from error
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")


@cache
def _be_quiet() -> None:
    """Damage that Pillow warns of is in the report; a filter for each picture would not be safe in threads."""
    warnings.filterwarnings("ignore", module="PIL")


@contextmanager
def alone_if_large(path: Path) -> Iterator[None]:
    """Work on large images one at a time: each takes some 15 bytes of memory a pixel."""
    from PIL import Image

    _be_quiet()
    pixels = 0
    with suppress(Exception), Image.open(path) as picture:
        pixels = picture.width * picture.height
    with _large if pixels > _LARGE else nullcontext():
        yield


def _from_deep_gray(picture: Image) -> NDArray[np.uint8]:
    """16-bit, 32-bit and float gray as 8 bits: 16-bit samples by their upper byte, others over their range."""
    from PIL import ImageOps

    values = np.asarray(ImageOps.exif_transpose(picture)).astype(np.float64)
    if picture.mode.startswith("I;16") or (values.min() >= 0 and 255 < values.max() <= 65535):
        values = values / 257
    elif values.max() > 255 or values.min() < 0:
        span = max(float(values.max() - values.min()), 1e-12)
        values = (values - values.min()) * (255 / span)
    gray = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


@dataclass
class _Seen:
    measured: Measured | None = None
    embedding: NDArray[np.float32] | None = None
    size: tuple[int, int] = (0, 0)
    reason: str = ""


def scan_images(
    paths: Sequence[Path],
    *,
    scratch: Path,
    settings: ScanSettings,
    model: NeuralEmbedder | None = None,
    on_progress: Callable[[int], None] = _nothing,
) -> VideoScan:
    """Scan images, one frame each, in the order of `paths`; `frames["index"]` is the place in `paths`.

    An image that does not decode has a `Problem` with its index, `ok` False and a zero embedding. Width and
    height are those of the first image that decodes. model: embeds them instead of the built-in descriptor. Raises
    ModelUnusable when it does not run.
    """
    folder = Path(tempfile.mkdtemp(prefix="scan-", dir=scratch))
    embedder = identity_of(model)
    problems: list[Problem] = []
    frames = np.zeros(len(paths), dtype=FRAME_DTYPE)
    frames["index"] = np.arange(len(paths))
    frames["pts"] = -1
    store = EmbeddingStore(folder / "embeddings.float32", embedder.dimensions)
    size = (0, 0)
    own = local()

    def look(path: Path) -> _Seen:
        if not hasattr(own, "meter"):
            own.meter = Meter()
        with alone_if_large(path):
            try:
                frame = open_image(path)
            except OSError as error:
                return _Seen(reason=f"{path.name} is not an image that can be read: {error}.")
            measured = own.meter.measure(frame)
            embedding = model.embed([model.prepare(frame)])[0] if model else measured.embedding.copy()
            return _Seen(measured, embedding, (frame.width, frame.height))

    for index, seen in enumerate(_in_order(look, paths, settings.threads or usable_cores())):
        if seen.reason:
            problems.append(Problem(index, seen.reason, "unreadable"))
        if seen.measured is not None:
            row = frames[index]
            row["pixel_hash"] = seen.measured.pixel_hash
            row["sharpness"] = seen.measured.sharpness
            row["brightness"] = seen.measured.brightness
            row["contrast"] = seen.measured.contrast
            row["uniform_row_ratio"] = seen.measured.uniform_row_ratio
            row["width"], row["height"] = seen.size
            row["ok"] = not seen.reason
            size = size if size[0] else seen.size
        empty = np.zeros(embedder.dimensions, np.float32)
        store.append((empty if seen.embedding is None else seen.embedding)[None])
        on_progress(1)
    return VideoScan(
        path=paths[0].parent if paths else folder,
        frames=frames,
        embeddings=store.finish(),
        problems=problems,
        embedder=embedder,
        width=size[0],
        height=size[1],
        fps=0.0,
        declared_frames=None,
        codec="image",
        settings=settings,
        scratch=folder,
        pictures=KeptPictures.of(folder),
        source=ImageSource(tuple(paths)),
    )


def _in_order(look: Callable[[Path], _Seen], paths: Sequence[Path], threads: int) -> Iterator[_Seen]:
    """`look` at every path in some threads, a few ahead of what is consumed; results in order."""
    ahead: list[Future[_Seen]] = []
    following = iter(paths)
    with ThreadPoolExecutor(threads, thread_name_prefix="scan-image") as pool:
        try:
            for path in islice(following, 4 * threads):
                ahead.append(pool.submit(look, path))
            while ahead:
                yield ahead.pop(0).result()
                for path in islice(following, 1):
                    ahead.append(pool.submit(look, path))
        finally:
            pool.shutdown(cancel_futures=True)
