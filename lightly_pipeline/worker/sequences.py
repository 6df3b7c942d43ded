"""Sequences of consecutive frames, selected as one: selected_sequence_length above 1.

As in Lightly's worker every video is cut into runs of that many frames, a rest at its end is left out, and a
sequence stands in the selection as the mean of its frames' embeddings. A sequence with a corrupt frame is left out;
copies are not removed, since a sequence without them would have holes.
"""

import json
import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.output import layout

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sequences:
    """rows: int64 [s, length], the frames of each sequence. embeddings: float32 [s, d], their means."""

    rows: NDArray[np.int64]
    embeddings: NDArray[np.float32]


def cut_sequences(table: FrameTable, usable: NDArray[np.bool_], length: int, *, normalize: bool) -> Sequences:
    """All sequences of `length` usable frames; images are one long sequence in the order of their names."""
    runs: list[NDArray[np.int64]] = []
    whole = all(part.images for part in table.scanned)
    bounds = np.array([0, len(table)]) if whole else table.starts
    for start, end in pairwise(bounds):
        count = (end - start) // length
        runs.append(np.arange(start, start + count * length, dtype=np.int64).reshape(count, length))
    rows = np.concatenate(runs) if runs else np.empty((0, length), np.int64)
    if not len(rows):
        log.warning(
            "%s %d frames, so that there is no sequence to select: give a smaller selected_sequence_length.",
            "There are not" if whole else "No video has",
            length,
        )
        return Sequences(rows, np.empty((0, table.embeddings.shape[1]), np.float32))
    rows = rows[usable[rows].all(axis=1)]
    if not len(rows):
        log.warning("Every sequence of %d frames has one that cannot be selected: give a smaller length.", length)
    means = np.zeros((len(rows), table.embeddings.shape[1]), dtype=np.float32)
    for column in range(length):
        means += table.embeddings[rows[:, column]]
    means /= length
    if normalize:
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        means /= np.where(lengths > 0.0, lengths, 1.0)
    return Sequences(rows, means)


def write_sequence_information(tree: Path, table: FrameTable, chosen: NDArray[np.int64]) -> None:
    """sequence_information.json of the chosen sequences, int64 [k, length]: enough to cut them with ffmpeg."""
    entries: list[dict[str, Any]] = []
    for rows in chosen[np.argsort(chosen[:, 0])] if len(chosen) else chosen:
        part, _ = table.locate(int(rows[0]))
        scanned = table.scanned[part]
        names = table.names(rows)
        if scanned.images:
            entries.append({"filenames": names})
            continue
        frames = table.frames[rows]
        entries.append(
            {
                "video_name": scanned.files[0].name,
                "frame_names": names,
                "frame_timestamps_pts": frames["pts"].tolist(),
                "frame_timestamps_sec": frames["seconds"].tolist(),
                "frame_indices": frames["index"].tolist(),
            }
        )
    path = tree / layout.SEQUENCES
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1), encoding="utf-8")
