"""Giving memory back: what decoders used must not add to what selection and report need after them."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return freed memory to the system where the C library can (glibc keeps it otherwise)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
