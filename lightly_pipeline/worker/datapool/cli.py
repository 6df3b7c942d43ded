"""`lightly-worker datapool …`: look at a datapool, ask it, bring one in or take it out, compact it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from lightly_pipeline.worker.datapool.lightly_csv import export_csv, import_csv
from lightly_pipeline.worker.datapool.part import DatapoolError
from lightly_pipeline.worker.datapool.pool import Datapool


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightly-worker datapool",
        description="A datapool is what earlier runs selected. URI is its folder or s3:// prefix (datapool.uri), "
        "--name its name there (datapool.name).",
    )
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(name: str, help_text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.add_argument("uri", metavar="URI")
        sub.add_argument("--name", default="lightly-datapool", help="default: %(default)s")
        return sub

    show = command("show", "size, growth, models and parts")
    show.add_argument("--parts", action="store_true", help="list every part")
    show.set_defaults(run=_show)
    nearest = command("nearest", "the known frames nearest to a picture, or to a frame of the pool")
    nearest.add_argument("frame", metavar="FRAME", help="a picture file, or the name of a frame in the pool")
    nearest.add_argument("-k", "--count", type=_count, default=5, help="default: %(default)s")
    nearest.set_defaults(run=_nearest)
    bring = command("import", "add the frames of Lightly's datapool_latest.csv")
    bring.add_argument("csv", metavar="CSV", type=Path)
    bring.add_argument("--embedder", required=True, help="which model made these embeddings; the file does not say")
    bring.add_argument("--embedder-version", default="1", help="default: %(default)s")
    bring.set_defaults(run=_import)
    take = command("export", "write Lightly's datapool_latest.csv")
    take.add_argument("csv", metavar="CSV", type=Path)
    take.set_defaults(run=_export)
    compact = command("compact", "copy small parts into large objects, so that loading takes few requests")
    compact.set_defaults(run=_compact)
    remove = command("remove", "forget what one video contributed")
    remove.add_argument("part", metavar="PART")
    remove.set_defaults(run=_remove)
    return parser


def _count(text: str) -> int:
    """A number of frames."""
    count = int(text) if text.strip().isdecimal() else 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of frames: give 1 or more")
    return count


def main(arguments: list[str]) -> int:
    """Run one subcommand; 0 when done, 2 for a wrong command line, 5 when the datapool cannot be used."""
    given = _parser().parse_args(arguments)
    if given.run is None:
        _parser().print_help()
        return 2
    try:
        pool = Datapool(given.uri, given.name)
        if given.run not in (_import, _remove) and next(pool.parts(), None) is None:
            raise DatapoolError(f"There is no datapool '{pool.name}' at {pool.uri}: check URI and --name.")
        given.run(pool, given)
    except BrokenPipeError:
        # `lightly-worker datapool show … | head` is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DatapoolError, OSError) as error:
        print(f"lightly-worker: {error}", file=sys.stderr)
        return 5
    return 0


def _show(pool: Datapool, given: argparse.Namespace) -> None:
    frames = size = count = 0
    models: Counter[str] = Counter()
    growth: Counter[str] = Counter()
    lines = []
    for name, stored in pool.parts():
        try:
            part = pool.read(name)
        except FileNotFoundError:
            # Removed since it was listed.
            continue
        day = datetime.fromtimestamp(stored.modified, timezone.utc).strftime("%Y-%m-%d")
        if part.filenames:
            models[str(part.embedder)] += len(part.filenames)
        growth[day] += len(part.filenames)
        frames, size, count = frames + len(part.filenames), size + stored.size, count + 1
        lines.append(f"  {name}: {len(part.filenames):,} frames, {day}, content {part.content[:12]}")
    print(f"datapool {pool.name} at {pool.uri}: {frames:,} frames in {count:,} parts, {size / 1e6:,.1f} MB")
    for model, number in models.most_common():
        print(f"model {model}: {number:,} frames")
    if len(models) > 1:
        print("More than one model: a run can use this pool only after the parts of the others are removed.")
    total = 0
    for day, number in sorted(growth.items()):
        total += number
        print(f"growth {day}: {number:+,} frames, {total:,} in all")
    if given.parts:
        print("\n".join(lines))


def _nearest(pool: Datapool, given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="lightly-worker-datapool-") as folder:
        vectors = pool.load(None, scratch=Path(folder))
        if not len(vectors):
            raise DatapoolError(f"The datapool '{pool.name}' at {pool.uri} is empty.")
        query = _embedding(pool, given.frame, vectors.embedder, Path(folder))
        if query is None:
            raise DatapoolError(f"{given.frame} is neither a picture file nor the name of a frame in this datapool.")
        distances = np.concatenate(
            [
                np.linalg.norm(vectors.embeddings[start : start + 65536] - query, axis=1)
                for start in range(0, len(vectors), 65536)
            ]
        )
        for row in np.argsort(distances, kind="stable")[: given.count]:
            part, name = vectors.describe(int(row))
            print(f"{distances[row]:.4f}  {name}  ({part})")


def _embedding(pool: Datapool, frame: str, embedder: object, folder: Path) -> np.ndarray | None:
    """The embedding of a picture by the built-in descriptor, or the stored one of a known frame."""
    for _, part in pool.contents():
        if frame in part.filenames:
            return np.asarray(part.embeddings[part.filenames.index(frame)])
    if not Path(frame).is_file():
        return None
    from lightly_pipeline.worker.datapool.part import Embedder
    from lightly_pipeline.worker.memory import opened
    from lightly_pipeline.worker.scan import ScanSettings, scan_images

    scan = scan_images([Path(frame)], scratch=folder, settings=ScanSettings(), on_progress=lambda _done: None)
    if not len(scan.frames) or not scan.frames["ok"].all():
        reason = scan.problems[0].reason if scan.problems else "it holds no picture"
        raise DatapoolError(f"{frame} cannot be read: {reason}")
    if Embedder.of(scan.embedder) != embedder:
        raise DatapoolError(
            f"The datapool holds embeddings of {embedder}, but pictures are described here by "
            f"{Embedder.of(scan.embedder)}: name a frame of the pool instead."
        )
    return np.array(opened(scan.embeddings)[0])


def _import(pool: Datapool, given: argparse.Namespace) -> None:
    count = import_csv(pool, given.csv, name=given.embedder, version=given.embedder_version)
    print(f"{count:,} frames of {given.csv} are in the datapool {pool.name} at {pool.uri}")


def _export(pool: Datapool, given: argparse.Namespace) -> None:
    print(f"{export_csv(pool, given.csv):,} frames written to {given.csv}")


def _compact(pool: Datapool, _given: argparse.Namespace) -> None:
    done = pool.compact()
    print(f"{done.parts:,} parts are in {done.segments:,} segments; {done.removed:,} old segments were removed")


def _remove(pool: Datapool, given: argparse.Namespace) -> None:
    if given.part not in {name for name, _ in pool.parts()}:
        raise DatapoolError(f"The datapool '{pool.name}' at {pool.uri} has no part '{given.part}': see show.")
    pool.remove(given.part)
    print(f"{given.part} is forgotten")
