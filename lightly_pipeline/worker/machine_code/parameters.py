"""What Python hands to a kernel, as the int64 numbers that `addresses` reads again."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: Arrays (contiguous, of the kind that the kernel reads), tuples of parameters, and numbers.
Parameter: TypeAlias = "NDArray[Any] | tuple[Any, ...] | int | float"

_READ = frozenset(np.dtype(kind) for kind in (np.uint8, np.int64, np.float32, np.float64))


def flat(values: Iterable[Parameter]) -> tuple[int, ...]:
    """Addresses of arrays, numbers as they are, the bits of those with a fraction; tuples in their order.

    The arrays have to stay alive, and where they are, until the kernel has returned.
    """
    numbers: list[int] = []
    for value in values:
        if isinstance(value, np.ndarray):
            if value.dtype not in _READ:
                raise TypeError(f"A kernel reads bytes, int64, float32 and float64, not {value.dtype}.")
            if not value.flags.c_contiguous:
                raise ValueError(f"A kernel needs rows in one piece, not an array with the strides {value.strides}.")
            numbers.append(value.__array_interface__["data"][0])
        elif isinstance(value, tuple):
            numbers.extend(flat(value))
        elif isinstance(value, (float, np.floating)):
            numbers.append(int.from_bytes(struct.pack("=d", value), sys.byteorder, signed=True))
        else:
            numbers.append(int(value))
    return tuple(numbers)
