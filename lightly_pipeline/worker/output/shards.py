"""Selected frames as WebDataset shards: tar files of `<key>.png` and `<key>.json`, for training straight from S3."""

import io
import json
import tarfile
from collections.abc import Collection, Mapping
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any

from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.output import layout


def write_shards(tree: Path, table: FrameTable, files: Mapping[int, Path], size_in_mb: float) -> None:
    """Tar files of about `size_in_mb` in the order of the input; the same frames give the same bytes."""
    folder = tree / layout.SHARDS
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[int]] = [[]] if files else []
    held = 0
    for row in sorted(files):
        size = files[row].stat().st_size
        if shards[-1] and held + size > size_in_mb * 1e6:
            shards.append([])
            held = 0
        shards[-1].append(row)
        held += size
    taken: set[str] = set()
    for number, rows in enumerate(shards):
        with tarfile.open(folder / f"shard-{number:06d}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for row in rows:
                key = _free_key(table.name(row), taken)
                taken.add(key)
                _add(archive, key, table, row, files[row])


def _free_key(name: str, taken: Collection[str]) -> str:
    """The name without extension, and with it or a number besides where another sample has that key already.

    A dot ends a key in WebDataset, so dots in names become underscores: b.1.png would be b_1.png.
    """
    path = PurePosixPath(name)
    keys = [path.with_name(text.replace(".", "_")).as_posix() for text in (path.stem, path.name)]
    numbered = (f"{keys[0]}_{number}" for number in count(2))
    return next(key for key in chain(keys, numbered) if key not in taken)


def _add(archive: tarfile.TarFile, key: str, table: FrameTable, row: int, file: Path) -> None:
    """One sample."""
    content = file.read_bytes()
    extension = "jpg" if file.suffix == ".jpeg" else file.suffix[1:]
    about = json.dumps(_about(table, row), sort_keys=True).encode()
    for name, data in ((f"{key}.{extension}", content), (f"{key}.json", about)):
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def _about(table: FrameTable, row: int) -> dict[str, Any]:
    frame = table.frames[row]
    return {
        "filename": table.name(row),
        "video": table.files[int(table.video[row])].name,
        "frame_index": int(frame["index"]),
        "timestamp": float(frame["seconds"]),
        "sharpness": float(frame["sharpness"]),
    }
