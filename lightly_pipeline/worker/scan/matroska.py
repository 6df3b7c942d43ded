"""Whether bytes of a Matroska or WebM file are missing at its end, by the length that its outermost element has.

RFC 8794 (EBML) 4 to 6 and RFC 9559 5.1: a header element, then a segment which holds everything else.
"""

from __future__ import annotations

from pathlib import Path

_HEADER, _SEGMENT = 0x1A45DFA3, 0x18538067


def missing_bytes(path: Path) -> int:
    """Bytes that the file declares and does not hold; 0 where it declares no length, as live recordings do."""
    with path.open("rb") as file:
        start = file.read(4096)
    end = 0
    for wanted in (_HEADER, _SEGMENT):
        if int.from_bytes(start[end : end + 4], "big") != wanted or len(start) < end + 5:
            return 0
        width = 9 - start[end + 4].bit_length()
        octets = start[end + 4 : end + 4 + width]
        length = int.from_bytes(octets, "big") & ((1 << 7 * width) - 1)
        if width > 8 or len(octets) < width or length == (1 << 7 * width) - 1:
            return 0
        end += 4 + width + length
    return max(0, end - path.stat().st_size)
