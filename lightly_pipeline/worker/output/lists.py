"""The lists of names: corrupt, duplicate, removed, sampled; and what is known of each removed and corrupt one."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lightly_pipeline.worker.outcome import STATUS, Outcome
from lightly_pipeline.worker.output import layout


def write_lists(tree: Path, outcome: Outcome, unusable: Iterable[tuple[str, str]]) -> None:
    """All text lists, one name a line, and corruptness_check_information.json with the reasons.

    A corrupt file is listed by its own name, a corrupt frame by the frame's; of a damaged video both, and its good
    frames remain candidates. `removed` are the frames that were candidates and were not selected.
    """
    table = outcome.table
    samples: defaultdict[str, list[str]] = defaultdict(list)
    files: defaultdict[str, list[str]] = defaultdict(list, {name: [reason] for name, reason in unusable})
    for file, frame, problem in table.problems():
        (files[file.name] if frame is None else samples[frame]).append(problem.reason)
    corrupt_samples = {name: " ".join(reasons) for name, reasons in samples.items()}
    corrupt_files = {name: " ".join(reasons) for name, reasons in files.items()}
    copies = np.flatnonzero(outcome.usable & ~outcome.unique)
    removed = np.flatnonzero(outcome.unique & ~outcome.is_selected)
    _write(tree / layout.CORRUPT_NAMES, [*map(_one_line, sorted(corrupt_files)), *corrupt_samples])
    _write(tree / layout.DUPLICATE_NAMES, table.each_name(copies))
    _write(tree / layout.REMOVED_NAMES, table.each_name(removed))
    for path in (layout.SAMPLED_NAMES, layout.SAMPLED_NAMES_WITHOUT_POOL):
        _write(tree / path, table.each_name(outcome.selected))
    information = {"corrupt_samples": corrupt_samples, "corrupt_videos": corrupt_files}
    (tree / layout.CORRUPTNESS).write_text(json.dumps(information, indent=1), encoding="utf-8")


def write_removed_samples(tree: Path, outcome: Outcome) -> None:
    """removed_samples.csv: every frame that is not in the result, why, and which kept frame stands for it."""
    table = outcome.table
    gone = np.flatnonzero(~outcome.is_selected)
    with (tree / layout.REMOVED_SAMPLES).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filename", "reason", "duplicate_of"])
        status = outcome.status
        for row, name in zip(map(int, gone), table.each_name(gone), strict=True):
            reason = STATUS[status[row]]
            copy = reason == "duplicate"
            writer.writerow([name, reason, table.name(int(outcome.original[row])) if copy else ""])


def _one_line(name: str) -> str:
    r"""The name of a file that was refused for its line break or another control character, which becomes \n, \x07."""
    return "".join(sign if sign >= " " else repr(sign)[1:-1] for sign in name)


def _write(path: Path, names: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{name}\n" for name in names)
