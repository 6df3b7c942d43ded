"""report.json with every figure, and report.html: one self-contained page made of it."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightly_pipeline.worker.manifest import Manifest
from lightly_pipeline.worker.outcome import Outcome
from lightly_pipeline.worker.output import layout
from lightly_pipeline.worker.output.contact_sheet import jpeg
from lightly_pipeline.worker.report.charts import PALETTE
from lightly_pipeline.worker.report.coverage import COVERED_FRAMES, Coverage
from lightly_pipeline.worker.report.figures import Figures, Histogram, Map
from lightly_pipeline.worker.report.pairs import Pair
from lightly_pipeline.worker.report.statistics import PAIRED_FRAMES

if TYPE_CHECKING:
    import jinja2
    from PIL import Image

#: Videos with a timeline and corrupt entries with a line, at most; the lists have them all.
_VIDEOS, _CORRUPT, _MARKS = 60, 200, 400
#: What a person needs to label one frame, for the savings; stated beside the figure.
_LABELLING_SECONDS = 60.0


@dataclass(frozen=True)
class Timeline:
    """When in a video frames were selected and corrupt: shares of its length, 0 to 1."""

    video: str
    frames: int
    seconds: float
    selected: tuple[float, ...]
    corrupt: tuple[float, ...]
    count: int


def write_report(
    tree: Path,
    outcome: Outcome,
    manifest: Manifest,
    figures: Figures,
    pairs: Sequence[tuple[Pair, "Image.Image", "Image.Image"]],
    sheet: bytes | None,
    *,
    timelines: bool,
) -> None:
    """Write report.json and report.html into the tree."""
    table = outcome.table
    lines = _timelines(outcome) if timelines else []
    corrupt = [
        {"name": frame or file.name, "kind": problem.kind, "reason": problem.reason}
        for file, frame, problem in table.problems()
    ]
    corrupt += [
        {"name": entry.name, "kind": "name", "reason": entry.problem or ""}
        for entry in manifest.input
        if entry.version == "unusable"
    ]
    saved = manifest.counts.frames - manifest.counts.selected
    report: dict[str, Any] = {
        "manifest": manifest.model_dump(mode="json", exclude={"files", "input"}),
        "verdict": [asdict(line) for line in judge(manifest, figures.coverage)],
        "coverage": [asdict(row) for row in figures.coverage],
        "histogram": {"before": asdict(figures.before), "after": asdict(figures.after)},
        "pairs": [
            {"retained": table.name(pair.retained), "removed": table.name(pair.removed), "distance": pair.distance}
            for pair, _, _ in pairs
        ],
        "timelines": [asdict(line) for line in lines],
        "corrupt": corrupt,
        "savings": {
            "frames_not_to_label": saved,
            "labelling_seconds_per_frame": _LABELLING_SECONDS,
            "labelling_hours_saved": round(saved * _LABELLING_SECONDS / 3600, 1),
        },
    }
    (tree / layout.REPORT_JSON).write_text(json.dumps(report, indent=1), encoding="utf-8")
    page = report_template().render(
        report=report,
        paired_frames=PAIRED_FRAMES,
        covered_frames=COVERED_FRAMES,
        manifest=manifest,
        figures=figures,
        bars={"before": _bars(figures.before), "after": _bars(figures.after)},
        maps=[_scatter(drawn, figures, outcome) for drawn in figures.maps if drawn.name in ("umap_k_15", "pca")],
        videos=[file.name for file in table.files],
        palette=[f"rgb{colour}" for colour in PALETTE],
        pairs=[
            (entry, _inline(one), _inline(other)) for entry, (_, one, other) in zip(report["pairs"], pairs, strict=True)
        ],
        sheet=None if sheet is None else base64.b64encode(sheet).decode(),
        timelines=lines[:_VIDEOS],
        hidden_timelines=max(0, len(lines) - _VIDEOS),
        corrupt=corrupt[:_CORRUPT],
        hidden_corrupt=max(0, len(corrupt) - _CORRUPT),
    )
    (tree / layout.REPORT_HTML).write_text(page, encoding="utf-8")


@dataclass(frozen=True)
class Verdict:
    """One sentence at the top of the page; good, or worth a look."""

    good: bool
    text: str


def judge(manifest: Manifest, coverage: Sequence[Coverage]) -> list[Verdict]:
    """What a reader should know before anything else."""
    counts, checks = manifest.counts, manifest.checks
    lines = [Verdict(checks.budget_kept, f"{counts.selected:,} of {counts.frames:,} frames selected")]
    if manifest.options["remove_exact_duplicates"] and manifest.options["selected_sequence_length"] == 1:
        distinct = checks.no_exact_duplicates
        lines.append(Verdict(distinct, f"{'no ' if distinct else ''}exact duplicates among them"))
    if manifest.selection.min_distance is not None:
        kept = checks.min_distance_kept
        lines.append(
            Verdict(kept, f"minimum distance {manifest.selection.min_distance:g} {'kept' if kept else 'not kept'}")
        )
    if len(coverage) == 3:
        own, every, random = coverage
        baseline = min(every.worst, random.worst)
        share = own.worst / baseline if baseline else 1.0
        if share <= 1.0:
            text = f"the least covered frame is {1 - share:.0%} nearer to a selected one than with every N-th or random"
        else:
            text = (
                f"the least covered frame is {share - 1:.0%} farther from a selected one than with every N-th or random"
            )
        lines.append(Verdict(share <= 1.0, text))
        fewer = own.redundant <= min(every.redundant, random.redundant)
        text = f"{own.redundant:.0%} of the selected frames nearly repeat another, {every.redundant:.0%} of every N-th"
        lines.append(Verdict(fewer, text))
    if counts.unreadable:
        lines.append(Verdict(False, f"{counts.unreadable:,} files could not be read"))
    if counts.corrupt:
        lines.append(Verdict(False, f"{counts.corrupt:,} corrupt frames left out"))
    return lines


def _timelines(outcome: Outcome) -> list[Timeline]:
    table, lines = outcome.table, []
    chosen = outcome.is_selected
    for scanned, start, end in zip(table.scanned, table.starts[:-1], table.starts[1:], strict=True):
        if scanned.images or start == end:
            continue
        seconds = table.frames["seconds"][start:end]
        length = max(float(seconds.max()), 1e-9)
        picked, damaged = chosen[start:end], ~outcome.usable[start:end]
        lines.append(
            Timeline(
                video=scanned.files[0].name,
                frames=int(end - start),
                seconds=round(length, 2),
                selected=_shares(seconds[picked] / length),
                corrupt=_shares(seconds[damaged] / length),
                count=int(picked.sum()),
            )
        )
    return lines


def _shares(values: Any) -> tuple[float, ...]:
    """Rounded to what a line of a thousand pixels can show, and no more than it can."""
    shares = np.unique(np.clip(np.round(values, 3), 0.0, 1.0))
    return tuple(float(share) for share in shares[:: max(1, -(-len(shares) // _MARKS))])


def _bars(histogram: Histogram) -> list[tuple[float, float]]:
    """(place, height) of each bar of a log histogram, 0 to 1."""
    counts = np.array(histogram.counts, dtype=np.float64)
    heights = np.log10(counts, out=np.zeros_like(counts), where=counts > 0) + (counts > 0) * 0.15
    heights /= max(heights.max(initial=0.0), 1e-9)
    return [(round(i / len(counts), 4), round(float(height), 4)) for i, height in enumerate(heights)]


def _scatter(drawn: Map, figures: Figures, outcome: Outcome) -> dict[str, Any]:
    """Points scaled to 0..1000 × 0..640: x, y, colour, name."""
    everything = np.concatenate([drawn.places, drawn.pool])
    low = everything.min(axis=0, initial=0.0 if not len(everything) else np.inf)
    span = np.maximum(everything.max(axis=0, initial=1.0 if not len(everything) else -np.inf) - low, 1e-9)

    def scaled(points: Any) -> list[tuple[int, int]]:
        return [(x, y) for x, y in ((points - low) / span * (1000, 640)).astype(int).tolist()]

    names = outcome.table.names(figures.rows)
    colours = [f"rgb{PALETTE[number % len(PALETTE)]}" for number in figures.colours]
    points = [(*place, *rest) for place, *rest in zip(scaled(drawn.places), colours, names, strict=True)]
    chosen, others = figures.selected.nonzero()[0].tolist(), (~figures.selected).nonzero()[0].tolist()
    return {
        "title": "Principal components" if drawn.name == "pca" else "Neighbour map (k = 15)",
        "others": [points[place] for place in others],
        "selected": [points[place] for place in chosen],
        "pool": scaled(drawn.pool),
    }


def _inline(picture: "Image.Image") -> str:
    return base64.b64encode(jpeg(picture)).decode()


@cache
def report_template() -> "jinja2.Template":
    """The page's template; compiled at the first call."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = files("lightly_pipeline.worker.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)
