"""Writing the output tree: frames first, since that takes longest, and beside them all that needs no picture."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightly_pipeline.worker.discover import Input
from lightly_pipeline.worker.manifest import Manifest
from lightly_pipeline.worker.memory import give_back
from lightly_pipeline.worker.nearest import find_nearest
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.output import layout
from lightly_pipeline.worker.output.configuration import write_configuration
from lightly_pipeline.worker.output.contact_sheet import PICTURES, contact_sheet, jpeg, spread
from lightly_pipeline.worker.output.embeddings import write_embeddings
from lightly_pipeline.worker.output.lists import write_lists, write_removed_samples
from lightly_pipeline.worker.output.metadata import write_frame_metadata
from lightly_pipeline.worker.output.shards import write_shards
from lightly_pipeline.worker.report.charts import draw_pair
from lightly_pipeline.worker.report.figures import Figures, make_figures
from lightly_pipeline.worker.report.page import write_report
from lightly_pipeline.worker.report.pairs import Pair, choose_pairs
from lightly_pipeline.worker.scratch import Scratch
from lightly_pipeline.worker.sequences import write_sequence_information
from lightly_pipeline.worker.writing import Writer


@dataclass(frozen=True)
class WrittenTree:
    """The tree without report and manifest, and what those two need."""

    outcome: Outcome
    figures: Figures
    pairs: list[tuple[Pair, Image.Image, Image.Image]]
    contact_sheet: bytes | None

    def write_report(self, tree: Path, manifest: Manifest, options: Options) -> None:
        """The page and its figures."""
        write_report(
            tree,
            self.outcome,
            manifest,
            self.figures,
            self.pairs,
            self.contact_sheet,
            timelines=options.show_video_sampling_timeline,
        )


def write_tree(
    scratch: Scratch,
    outcome: Outcome,
    found: Input,
    options: Options,
    writer: Writer,
    raw: NDArray[np.float32] | None,
) -> WrittenTree:
    """Write everything but report and manifest; `raw` are given embeddings as they were given."""
    tree = scratch.tree
    with ThreadPoolExecutor(1, thread_name_prefix="figures") as beside:
        # Arithmetic and encoding leave the interpreter free for each other.
        figures_later = beside.submit(make_figures, tree, outcome, options.memory_requirement_in_GB)
        lists_later = beside.submit(_write_lists, tree, outcome, found, options, raw)
        nearest = find_nearest(outcome)
        on_sheet = spread(outcome.selected, PICTURES)
        pairs = choose_pairs(outcome, nearest, options.n_example_images, writer.kept_rows())
        shown = dict.fromkeys([*on_sheet, *(row for pair in pairs for row in (pair.retained, pair.removed))])
        files, pictures = _write_frames(scratch, outcome, options, writer, list(shown))
        give_back()
        write_frame_metadata(tree, outcome, nearest, files if options.dump_dataset else {})
        sheet = _write_contact_sheet(tree, [pictures[row] for row in on_sheet])
        examples = [(pair, pictures[pair.retained], pictures[pair.removed]) for pair in pairs]
        for number, (pair, retained, removed) in enumerate(examples):
            names = (outcome.table.name(pair.retained), outcome.table.name(pair.removed))
            # Lightly's numbers: 0, 11, 22, …
            draw_pair(tree, f"filter_decision_{number * 11}", retained, removed, names)
        lists_later.result()
        return WrittenTree(outcome, figures_later.result(), examples, sheet)


def _write_lists(tree: Path, outcome: Outcome, found: Input, options: Options, raw: NDArray[np.float32] | None) -> None:
    write_configuration(tree, options)
    write_lists(tree, outcome, found.unusable)
    write_removed_samples(tree, outcome)
    write_embeddings(tree, outcome, raw, with_selected=options.dump_sampled_embeddings)
    if outcome.sequences is not None:
        write_sequence_information(tree, outcome.table, outcome.sequences)


def _write_frames(
    scratch: Scratch, outcome: Outcome, options: Options, writer: Writer, shown: list[int]
) -> tuple[Mapping[int, Path], dict[int, Image.Image]]:
    """The selected frames as files, where they are wanted as files or in shards, and small pictures of the shown."""
    shard_size = options.webdataset_shard_size_in_MB
    folder = scratch.tree / layout.SAMPLED if options.dump_dataset else scratch.work / "dump"
    rows = outcome.selected if options.dump_dataset or shard_size else np.empty(0, np.int64)
    files, pictures = writer.write(folder, rows, shown)
    if shard_size:
        write_shards(scratch.tree, outcome.table, files, shard_size)
    return files, pictures


def _write_contact_sheet(tree: Path, pictures: list[Image.Image]) -> bytes | None:
    if not pictures:
        return None
    sheet = jpeg(contact_sheet(pictures))
    (tree / layout.CONTACT_SHEET).write_bytes(sheet)
    return sheet
