"""The per-frame arithmetic, compiled by numba: imported only when machine code has to be made (see `compiled`).

Each kernel takes the address of an int64 parameter block that holds addresses and sizes, touches nothing else and
cannot raise; the layout of the block is in its docstring. The bytes of these files are part of the cache key.
"""

from __future__ import annotations

from lightly_pipeline.worker.scan.kernels import measuring, pictures

KERNELS = {
    "measure8": measuring.measure8,
    "measure16": measuring.measure16,
    "describe": measuring.describe,
    "png_histogram": pictures.png_histogram,
    "huffman_lengths": pictures.huffman_lengths,
    "huffman_codes": pictures.huffman_codes,
    "png_deflate": pictures.png_deflate,
    "to_full_range": pictures.to_full_range,
}
