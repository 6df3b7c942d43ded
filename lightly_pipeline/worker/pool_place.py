"""Where a datapool lies and what this input's part of it is called, when the options do not say."""

import hashlib
import re
from pathlib import Path

from lightly_pipeline.worker.s3 import S3Address, is_s3


def pool_uri(output: str, run_directory: str) -> str:
    """`datapool` beside OUTPUT in its parent folder; in the bucket for S3."""
    if is_s3(output):
        return f"s3://{S3Address.parse(output).bucket}/datapool"
    root = Path(output).absolute()
    for _ in Path(run_directory).parts:
        root = root.parent
    return str(root.parent / "datapool")


def pool_part(source: str) -> str:
    """A name that tells the input to people, and by its hash is no other input's."""
    address = source if is_s3(source) else str(Path(source).resolve())
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", address.rstrip("/").rpartition("/")[2]).strip("-._") or "input"
    return f"{readable[:100]}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
