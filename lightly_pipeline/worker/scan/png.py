"""A PNG encoder that keeps up with decoding: rows filtered by "up", one Huffman code per picture, no search.

libpng and zlib spend 40 to 400 ms on a 1080p picture, most of it on finding repetitions that photographs do
not have. Here each byte is coded as it comes, two at a time from a table; only runs of zeros (flat areas) are
folded. The files are ordinary PNGs (RFC 2083, deflate with a dynamic Huffman block), about as large as zlib's
level 1.
"""

from __future__ import annotations

import heapq
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


def code_lengths(counts: list[int], longest: int) -> list[int]:
    """Huffman code lengths (0 where the count is 0), none above `longest`.

    Rare symbols are taken to be about as frequent as the longest code can express, and more so until it fits:
    this costs less than a thousandth of the size and, mostly, no second tree.
    """
    rare = sum(counts) >> (longest - 1)
    lengths = [0] * len(counts)
    while True:
        nodes = [(count if count > rare else rare, symbol) for symbol, count in enumerate(counts) if count]
        if len(nodes) == 1:
            lengths[nodes[0][1]] = 1
            return lengths
        heapq.heapify(nodes)
        following = first_inner = len(counts)
        parents: dict[int, int] = {}
        while len(nodes) > 1:
            low = heapq.heappop(nodes)
            high = nodes[0]
            parents[low[1]] = parents[high[1]] = following
            heapq.heapreplace(nodes, (low[0] + high[0], following))
            following += 1
        depth = {following - 1: 0}
        for node in range(following - 2, first_inner - 1, -1):
            depth[node] = depth[parents[node]] + 1
        deepest = 0
        for symbol, count in enumerate(counts):
            if count:
                lengths[symbol] = depth[parents[symbol]] + 1
                deepest = max(deepest, lengths[symbol])
        if deepest <= longest:
            return lengths
        rare = rare * 2 + 1


def reversed_codes(lengths: list[int]) -> list[int]:
    """Canonical codes (RFC 1951 3.2.2) with their bits in the order in which deflate sends them."""
    following, code = {}, 0
    for bits in range(1, max(lengths) + 1):
        code = (code + sum(length == bits - 1 for length in lengths if length)) << 1
        following[bits] = code
    codes = []
    for length in lengths:
        if not length:
            codes.append(0)
            continue
        codes.append(int(f"{following[length]:0{length}b}"[::-1], 2))
        following[length] += 1
    return codes


def _chunk(kind: bytes, data: bytes | memoryview) -> list[bytes | memoryview]:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return [struct.pack(">I", len(data)) + kind, data, struct.pack(">I", checksum)]


class PngEncoder:
    """Encodes 8-bit RGB pictures; one per thread (it owns buffers)."""

    def __init__(self) -> None:
        functions = kernels().functions
        self._histogram = functions["png_histogram"]
        self._deflate = functions["png_deflate"]
        self._block = np.zeros(12, np.int64)
        self._counts = np.zeros(256, np.uint32)
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
        counts = (self._counts + 1).tolist()
        # How many runs there are is not known before: they are given about the weight of 1 byte in 500.
        lengths = code_lengths([*counts, 1, *[0] * 28, max(1, sum(counts) // 500)], _LONGEST)
        codes = reversed_codes(lengths)
        table = self._pairs(codes, lengths)
        header, bits = _block_header(lengths)
        self._out[: len(header)] = np.frombuffer(header, np.uint8)
        whole = bits // 8
        block[5:11] = (
            table.ctypes.data,
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

    @staticmethod
    def _pairs(codes: list[int], lengths: list[int]) -> NDArray[np.uint32]:
        """For each pair of bytes (low byte first): both codes, and their length in the high 8 bits."""
        code = np.array(codes[:256], np.uint32)
        length = np.array(lengths[:256], np.uint32)
        both = code[None, :] | code[:, None] << length[None, :]
        pairs: NDArray[np.uint32] = (both | (length[None, :] + length[:, None]) << np.uint32(24)).ravel()
        return pairs


class _Bits:
    def __init__(self) -> None:
        self.value, self.count = 0, 0

    def add(self, value: int, bits: int) -> None:
        self.value |= value << self.count
        self.count += bits


def _block_header(lengths: list[int]) -> tuple[bytes, int]:
    """The zlib header and the head of a final dynamic block; returns it and how many bits of it count."""
    used = [*lengths, 1]  # one distance code, of length 1
    counts = [0] * 19
    for length in used:
        counts[length] += 1
    if sum(count > 0 for count in counts) == 1:
        counts[18] += 1  # a code of a single symbol would be incomplete
    meta = code_lengths(counts, 7)
    codes = reversed_codes(meta)
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
