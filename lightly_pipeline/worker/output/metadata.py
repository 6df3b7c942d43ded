"""data/frames.parquet: one row per frame, with all that is known of it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lightly_pipeline.worker.nearest import Nearest
from lightly_pipeline.worker.outcome import STATUS, Outcome
from lightly_pipeline.worker.output import layout

#: Rows in a row group; rows of which names and the like are held as objects while one is put together.
_GROUP = 16384
_BLOCK = 2048


def write_frame_metadata(tree: Path, outcome: Outcome, nearest: Nearest, files: Mapping[int, Path]) -> None:
    """The table of all frames.

    status: one of STATUS. pick: place in the order of picking. distance: of a selected frame when it was picked, to
    the nearest earlier one or the pool, where that is known. nearest_selected, nearest_distance: the nearest (other)
    selected frame. duplicate_of: the frame with the same pixels. file: where the frame was written, below OUTPUT.
    """
    import pyarrow as pa
    from pyarrow import parquet

    table = outcome.table
    status, selected = outcome.status, STATUS.index("selected")
    pick = np.full(len(table), -1, dtype=np.int64)
    pick[outcome.picks] = np.arange(len(outcome.picks))
    distance = np.full(len(table), np.nan, dtype=np.float32)
    distance[outcome.picks] = outcome.distances
    selected_names = table.names(outcome.selected)

    def columns(rows: slice) -> dict[str, pa.Array]:
        numbers = range(*rows.indices(len(table)))
        frames = table.frames[rows]
        near = nearest.index[rows]
        return {
            "filename": pa.array(table.names(numbers), pa.string()),
            "video": pa.array([table.files[number].name for number in table.video[rows]], pa.string()),
            "frame_index": pa.array(frames["index"]),
            "pts": pa.array(frames["pts"]),
            "timestamp": pa.array(frames["seconds"]),
            "width": pa.array(frames["width"]),
            "height": pa.array(frames["height"]),
            "sharpness": pa.array(frames["sharpness"]),
            "brightness": pa.array(frames["brightness"]),
            "contrast": pa.array(frames["contrast"]),
            "uniform_row_ratio": pa.array(frames["uniform_row_ratio"]),
            "status": pa.array([STATUS[value] for value in status[rows]], pa.string()),
            "pick": pa.array(pick[rows], mask=pick[rows] < 0),
            "distance": pa.array(distance[rows], mask=~np.isfinite(distance[rows])),
            "nearest_selected": pa.array([selected_names[i] if i >= 0 else None for i in near], pa.string()),
            "nearest_distance": pa.array(nearest.distance[rows], mask=~np.isfinite(nearest.distance[rows])),
            "duplicate_of": pa.array(
                [None if outcome.original[row] == row else table.name(int(outcome.original[row])) for row in numbers],
                pa.string(),
            ),
            "file": pa.array(
                [
                    files[row].relative_to(tree).as_posix() if files and value == selected else None
                    for row, value in zip(numbers, status[rows].tolist(), strict=True)
                ],
                pa.string(),
            ),
        }

    path = tree / layout.FRAMES
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.table(columns(slice(0, 1))).schema
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(table), _GROUP):
            end = min(start + _GROUP, len(table))
            blocks = [slice(begin, min(begin + _BLOCK, end)) for begin in range(start, end, _BLOCK)]
            writer.write_table(pa.concat_tables(pa.table(columns(block), schema=schema) for block in blocks))
