"""Loops that NumPy cannot do, compiled once by numba and run without it.

Importing numba takes longer than decoding a short clip, and 60 MB. So kernels are compiled once per installation and
kind of processor to machine code, kept beside Python's own compiled files (or, where that folder is not ours to write,
in the user's cache), and afterwards loaded by llvmlite alone, which takes some milliseconds (numba has to stay
installed: its version is part of the key). Calls go through ctypes, which releases the GIL.

A room that has kernels keeps them in a package of its own, `kernels`, which alone imports numba; `addresses` is what
they are made with.
"""

from lightly_pipeline.worker.machine_code.loading import Kernels, kernels_of
from lightly_pipeline.worker.machine_code.parameters import Parameter, flat

__all__ = ["Kernels", "Parameter", "flat", "kernels_of"]
