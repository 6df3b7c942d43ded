"""Where everything lies in the output tree: Lightly's names, and ours beside them.

Lightly's worker wrote into a folder named by date and time (with colons); here the tree is straight under OUTPUT, or
under OUTPUT/run_directory, so that a result has one address.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MANIFEST = "manifest.json"
REPORT_HTML = "report.html"
REPORT_JSON = "report.json"
LOG = "log.txt"
#: Names that a publication in progress may have left; gone when the manifest is there.
PLAN = ".incomplete.json"
#: Which run publishes to an S3 prefix; gone when it is done.
TURN = ".publishing.json"
CONTACT_SHEET = "contact_sheet.jpg"
REMOVED_SAMPLES = "removed_samples.csv"
CORRUPTNESS = "corruptness_check_information.json"

CONFIG = "config/config.yaml"
CONFIG_HYDRA = "config/hydra.yaml"
CONFIG_OVERRIDES = "config/overrides.yaml"

SAMPLED = "data/sampled"
SHARDS = "data/shards"
EMBEDDINGS = "data/embeddings.csv"
NORMALIZED_EMBEDDINGS = "data/normalized_embeddings.csv"
SELECTED_EMBEDDINGS = "data/selected_embeddings.csv"
FRAMES = "data/frames.parquet"
SEQUENCES = "data/sequence_information.json"

CORRUPT_NAMES = "filenames/corrupt_filenames.txt"
DUPLICATE_NAMES = "filenames/duplicate_filenames.txt"
REMOVED_NAMES = "filenames/removed_filenames.txt"
SAMPLED_NAMES = "filenames/sampled_filenames.txt"
SAMPLED_NAMES_WITHOUT_POOL = "filenames/sampled_filenames_excluding_datapool.txt"

PLOTS = "plots"

#: The first parts of every path above: what a later run may remove from OUTPUT. Nothing else there is touched.
OWNED = frozenset(
    PurePosixPath(path).parts[0]
    for path in (
        MANIFEST,
        REPORT_HTML,
        REPORT_JSON,
        LOG,
        CONTACT_SHEET,
        REMOVED_SAMPLES,
        CORRUPTNESS,
        CONFIG,
        SAMPLED,
        CORRUPT_NAMES,
        PLOTS,
    )
)


def names_below(tree: Path) -> Iterator[str]:
    """The files of a tree by their paths below it, in no order; `rglob` would hold an object for each."""
    for folder, _, names in os.walk(tree):
        below = Path(folder).relative_to(tree).as_posix()
        yield from (name if below == "." else f"{below}/{name}" for name in names)
