"""A PNG encoder that keeps up with decoding: rows filtered by "up", one Huffman code per picture, no search.

libpng and zlib spend 40 to 400 ms on a 1080p picture, most of it on finding repetitions that photographs do
not have. Here each byte is coded as it comes, two at a time from a table; only runs of zeros (flat areas) are
folded. The files are ordinary PNGs (RFC 2083, deflate with a dynamic Huffman block), about as large as zlib's
level 1.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.compiled import kernels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END, _RUN = 256, 285
_LONGEST = 12
#: The order in which deflate sends the lengths of the code-length code (RFC 1951 3.2.7).
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


def _chunk(kind: bytes, data: bytes | memoryview) -> list[bytes | memoryview]:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return [struct.pack(">I", len(data)) + kind, data, struct.pack(">I", checksum)]


class Huffman:
    """A Huffman code of at most `symbols` symbols, made in compiled code; one per thread (it owns buffers).

    pairs: whether to make the table of pairs of bytes as well.
    """

    def __init__(self, symbols: int, longest: int, *, pairs: bool = False) -> None:
        functions = kernels().functions
        self._lengths_of, self._codes_of = functions["huffman_lengths"], functions["huffman_codes"]
        self._counts = np.zeros(symbols, np.uint32)
        self._lengths = np.zeros(symbols, np.uint8)
        self._codes = np.zeros(symbols, np.uint32)
        self._work = np.zeros(6 * symbols + 16, np.int64)
        self.pairs = np.zeros(65536 if pairs else 0, np.uint32)
        counts, lengths, codes, work = (
            array.ctypes.data for array in (self._counts, self._lengths, self._codes, self._work)
        )
        table = self.pairs.ctypes.data if pairs else 0
        self._first = np.array([counts, symbols, longest, lengths, work], np.int64)
        self._second = np.array([lengths, symbols, codes, table, work], np.int64)

    def fit(self, counts: NDArray[np.integer] | list[int]) -> tuple[list[int], list[int]]:
        """Lengths and codes for symbols that occur so often; both 0 for those that do not."""
        self._counts[:] = counts
        self._lengths_of(self._first.ctypes.data)
        self._codes_of(self._second.ctypes.data)
        return self._lengths.tolist(), self._codes.tolist()


class PngEncoder:
    """Encodes 8-bit RGB pictures; one per thread (it owns buffers)."""

    def __init__(self) -> None:
        functions = kernels().functions
        self._histogram = functions["png_histogram"]
        self._deflate = functions["png_deflate"]
        self._block = np.zeros(12, np.int64)
        self._counts = np.zeros(_RUN + 1, np.uint32)
        self._code = Huffman(_RUN + 1, _LONGEST, pairs=True)
        self._meta = Huffman(19, 7)
        self._work = np.zeros(0, np.uint64)
        self._out = np.zeros(0, np.uint8)

    def encode(self, rgb: NDArray[np.uint8]) -> bytes:
        """The PNG file of a contiguous uint8 [height, width, 3] picture."""
        height, width = rgb.shape[:2]
        octets = width * 3
        if len(self._work) * 8 < octets + 80:
            self._work = np.zeros(octets // 8 + 12, np.uint64)
        # Codes have at most 12 bits; the header and the last word fit into the rest.
        needed = height * (octets + 1) * 3 // 2 + 4096
        if len(self._out) < needed:
            self._out = np.empty(needed, np.uint8)
        block = self._block
        block[:6] = (
            rgb.ctypes.data,
            octets,
            octets,
            height,
            self._work.ctypes.data,
            self._counts.ctypes.data,
        )
        self._histogram(block.ctypes.data)
        counts = self._counts
        counts[:256] += 1
        counts[_END] = 1
        # How many runs there are is not known before: they are given about the weight of 1 byte in 500.
        counts[_RUN] = max(1, int(counts[:256].sum()) // 500)
        lengths, codes = self._code.fit(counts)
        header, bits = _block_header(lengths, self._meta)
        self._out[: len(header)] = np.frombuffer(header, np.uint8)
        whole = bits // 8
        block[5:11] = (
            self._code.pairs.ctypes.data,
            codes[_RUN] | (lengths[_RUN] + 1) << 16,  # the one distance code is a single 0 bit
            codes[_END] | lengths[_END] << 16,
            self._out.ctypes.data,
            bits % 8,
            whole,
        )
        length = self._deflate(block.ctypes.data)
        self._out[length : length + 4] = np.frombuffer(struct.pack(">I", int(block[11])), np.uint8)
        data = memoryview(self._out.data)[: length + 4]
        parts: list[bytes | memoryview] = [_SIGNATURE]
        parts += _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        parts += _chunk(b"IDAT", data)
        parts += _chunk(b"IEND", b"")
        return b"".join(parts)


class _Bits:
    def __init__(self) -> None:
        self.value, self.count = 0, 0

    def add(self, value: int, bits: int) -> None:
        self.value |= value << self.count
        self.count += bits


def _block_header(lengths: list[int], code: Huffman) -> tuple[bytes, int]:
    """The zlib header and the head of a final dynamic block; returns it and how many bits of it count."""
    used = [*lengths, 1]  # one distance code, of length 1
    counts = [0] * 19
    for length in used:
        counts[length] += 1
    if sum(count > 0 for count in counts) == 1:
        counts[18] += 1  # a code of a single symbol would be incomplete
    meta, codes = code.fit(counts)
    bits = _Bits()
    bits.add(0x0178, 16)  # deflate, 32 KiB window, fastest; check bits
    bits.add(1, 1)
    bits.add(2, 2)
    bits.add(len(lengths) - 257, 5)
    bits.add(0, 5)
    bits.add(15, 4)
    for symbol in _ORDER:
        bits.add(meta[symbol], 3)
    for length in used:
        bits.add(codes[length], meta[length])
    return bits.value.to_bytes((bits.count + 7) // 8, "little"), bits.count
