"""The datapool: what earlier runs selected, so that a new one takes only what is new.

One object per video, `<uri>/<name>/<part>.npz`, in a folder or under an S3 prefix. A run replaces its own part in one
atomic write, so parallel runs never lose each other's work and a repeated run changes nothing. How the vectors are
used is not known here: see `lightly_pipeline.worker.select`.
"""

from lightly_pipeline.worker.datapool.part import DatapoolError, EmbedderLike, Part
from lightly_pipeline.worker.datapool.pool import Datapool, PoolVectors

__all__ = ["Datapool", "DatapoolError", "EmbedderLike", "Part", "PoolVectors"]
