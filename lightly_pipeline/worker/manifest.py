"""manifest.json: what was done with what, and a hash of every file. Its presence is the sign of success.

Written last; read by the pipeline, by the checks, and by the next run of the same job, which finds it done.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from lightly_pipeline.worker.output import layout
from lightly_pipeline.worker.sources import InputFile

SCHEMA = 1
#: Files that wait for one of two threads.
_HASHED_AT_A_TIME = 256


class _Entry(BaseModel):
    # A newer worker may say more; what this one does not know it leaves aside.
    # Numbers that are none are written as NaN, as Python's json does and reads.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True, ser_json_inf_nan="constants")


class ManifestInput(_Entry):
    """One input file. version: the text by which a source tells that it changed; problem: why it was not used."""

    name: str
    sha256: str
    bytes: int
    frames: int
    version: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One output file, by its path below OUTPUT. No model: there may be a hundred thousand."""

    path: str
    bytes: int
    sha256: str


class Counts(_Entry):
    """How many there are of everything. candidates: neither corrupt nor duplicate, and within the thresholds."""

    videos: int
    images: int
    unreadable: int
    frames: int
    corrupt: int
    duplicates: int
    candidates: int
    selected: int
    pool_before: int
    pool_after: int


class Spread(_Entry):
    """Pairwise Euclidean distances between embeddings; `nearest_*` are those to the nearest neighbour."""

    mean: float
    min: float
    max: float
    p10: float
    p90: float
    nearest_min: float
    nearest_mean: float
    samples: int


class Distances(_Entry):
    """Before and after the selection; None where there are fewer than two frames."""

    before: Spread | None
    after: Spread | None
    nearest_to_pool: float | None


class ManifestEmbedder(_Entry):
    """What made the embeddings."""

    name: str
    version: str
    dimensions: int


class ManifestPool(_Entry):
    """The datapool of the run, and this input's part of it."""

    uri: str
    name: str
    part: str
    updated: bool


class Selected(_Entry):
    """How the selection went."""

    strategy: str
    engine: str
    budget: int
    min_distance: float | None
    stopped_by: str
    notes: tuple[str, ...] = ()


class Checks(_Entry):
    """What the selection promises, measured on its result."""

    budget_kept: bool
    no_exact_duplicates: bool
    min_distance_kept: bool


class Manifest(_Entry):
    """All of manifest.json."""

    model_config = ConfigDict(populate_by_name=True)

    #: `schema` is taken: it is a method of pydantic's models.
    schema_version: int = Field(alias="schema")
    worker: str
    kind: Literal["videos", "images"]
    job: str
    options: dict[str, Any]
    embedder: ManifestEmbedder
    counts: Counts
    distances: Distances
    selection: Selected
    checks: Checks
    datapool: ManifestPool | None
    input: tuple[ManifestInput, ...]
    files: tuple[ManifestFile, ...]
    seconds: dict[str, float]

    def write(self, path: Path) -> None:
        """Store it: the schema's number under the name `schema`, and each file on a line of its own."""
        # Not as one text: that of a hundred thousand files is large, and would be held twice.
        rest = to_json(self.model_copy(update={"files": ()}), indent=1, by_alias=True)
        before, after = rest.split(b'\n "files": []')
        with path.open("wb") as file:
            file.write(before + b'\n "files": [')
            for number, entry in enumerate(self.files):
                file.write((b",\n  " if number else b"\n  ") + to_json(entry))
            file.write(b"\n ]" + after)

    @classmethod
    def from_json(cls, content: bytes) -> "Manifest | None":
        """The manifest in the text; None where it is none that this worker could have written."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None

    @property
    def input_hash(self) -> str:
        """SHA-256 over the content of the input files."""
        return input_hash(self.input)

    @property
    def content_hash(self) -> str:
        """SHA-256 over the output files: equal for equal results, whenever and wherever they were made.

        Plots are left out: maps are iterated, and follow the last bit in which products of one machine's BLAS differ
        from another's.
        """
        results = (file for file in self.files if not file.path.startswith(f"{layout.PLOTS}/"))
        stable = sorted((file.path, file.sha256) for file in results if file.path not in _TELLS_HOW)
        return hashlib.sha256(json.dumps(stable).encode()).hexdigest()


#: Files whose content tells when, how fast or by how many threads a result was made.
_TELLS_HOW = frozenset(
    {
        layout.LOG,
        layout.REPORT_HTML,
        layout.REPORT_JSON,
        layout.CONFIG,
        layout.CONFIG_HYDRA,
        layout.CONFIG_OVERRIDES,
    }
)


def input_hash(files: Iterable[ManifestInput]) -> str:
    """SHA-256 over names and content of input files."""
    return hashlib.sha256(json.dumps(sorted((file.name, file.sha256) for file in files)).encode()).hexdigest()


def worker_version() -> str:
    """Of the installed package; "unknown" when the code runs from a bare folder."""
    try:
        return version("lightly-pipeline")
    except PackageNotFoundError:
        return "unknown"


def job_fingerprint(options: Mapping[str, Any], attachments: Iterable[str] = ()) -> str:
    """What makes two runs the same job, next to their input: the options that can change the result.

    attachments: hashes of the files that options name.
    """
    said = {"schema": SCHEMA, "worker": worker_version(), "options": options, "files": list(attachments)}
    text = json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def same_input(manifest: Manifest, files: Iterable[InputFile], unusable: Iterable[str]) -> bool:
    """Whether the manifest was made from these very files, by name, size and version."""
    then = {(entry.name, entry.bytes, entry.version) for entry in manifest.input if entry.version != "unusable"}
    now = {(file.name, file.bytes, file.version) for file in files}
    return then == now and {e.name for e in manifest.input if e.version == "unusable"} == set(unusable)


def list_files(tree: Path) -> tuple[ManifestFile, ...]:
    """Every file of the finished tree with its size and hash."""
    names = sorted(layout.names_below(tree))
    entries: list[ManifestFile] = []
    with ThreadPoolExecutor(2, thread_name_prefix="hash") as pool:
        for start in range(0, len(names), _HASHED_AT_A_TIME):
            entries += pool.map(lambda name: _entry(tree, name), names[start : start + _HASHED_AT_A_TIME])
    return tuple(entries)


def _entry(tree: Path, name: str) -> ManifestFile:
    digest, size = hashlib.sha256(), 0
    with (tree / name).open("rb") as file:
        while block := file.read(1024**2):
            digest.update(block)
            size += len(block)
    return ManifestFile(path=name, bytes=size, sha256=digest.hexdigest())
