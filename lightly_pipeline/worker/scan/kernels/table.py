"""Names of the kernels; imports numba."""

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
