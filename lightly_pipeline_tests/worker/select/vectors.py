"""Embeddings to select from: directions at random, and walks that move as a video's embeddings do."""

import numpy as np


def unit(rows):
    """Rows of unit length, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def unit_vectors(n, d, *, seed):
    """Directions without any structure: the hardest input there is."""
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


def walk(n, d, *, seed, step=0.02, shot=60):
    """Shots of slow drift in a few dimensions, and a jump between them: the shape of a video's embeddings."""
    rng = np.random.default_rng(seed)
    rows = np.empty((n, d))
    for start in range(0, n, shot):
        length = min(shot, n - start)
        basis = rng.normal(size=(3, d)) / np.sqrt(d)
        path = np.cumsum(rng.normal(size=(length, 3)) * step * rng.gamma(1.0), axis=0)
        rows[start : start + length] = rng.normal(size=d) / np.sqrt(d) + path @ basis * 3
    return unit(rows)
