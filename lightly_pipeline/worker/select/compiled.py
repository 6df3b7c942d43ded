"""The selection's kernels as machine code."""

from lightly_pipeline.worker.machine_code import Kernels, kernels_of


def kernels() -> Kernels:
    """Those of `select.kernels`."""
    return kernels_of("lightly_pipeline.worker.select.kernels")
