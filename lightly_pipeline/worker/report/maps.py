"""Two-dimensional maps of embeddings: PCA, and a neighbour map in the manner of UMAP for several k.

The neighbour map follows UMAP (fuzzy k-nearest-neighbour graph, attraction along it, repulsion elsewhere) with the
kernel 1 / (1 + d²) and all pairs instead of sampled ones, over a few hundred landmarks; the other frames are placed
between their nearest landmarks. It takes 0.02 s and is the same in every run, where umap-learn takes 10 s to import
and compile.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LANDMARKS = 128
_EPOCHS = 50
_NEGATIVES = 5.0


def pca_axes(vectors: Floats) -> tuple[Floats, Floats]:
    """Mean and the two directions of largest variance, float32 [d] and [d, 2], with a sign that does not wander."""
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    scatter = (centred.T @ centred).astype(np.float64)
    # Two directions of many: iterating on those takes a fiftieth of a whole decomposition.
    axes = np.random.default_rng(0).normal(size=(len(scatter), 2))
    for _ in range(60):
        axes, _ = np.linalg.qr(scatter @ axes + 1e-12 * axes)
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(2)])
    return mean.astype(np.float32), (axes * np.where(signs, signs, 1.0)).astype(np.float32)


def project(vectors: Floats, mean: Floats, axes: Floats) -> Floats:
    """Places float32 [n, 2] of vectors on a plane."""
    places: Floats = ((vectors - mean) @ axes).astype(np.float32)
    return places


class NeighbourMap:
    """Places of vectors on a map that keeps neighbours together; fitted on a spread of `vectors` float32 [n, d]."""

    def __init__(self, vectors: Floats, neighbours: int) -> None:
        places = np.unique(np.linspace(0, len(vectors) - 1, min(_LANDMARKS, len(vectors))).round().astype(int))
        self._landmarks = np.ascontiguousarray(vectors[places])
        self._map = _lay_out(self._landmarks, min(neighbours, len(places) - 1))

    def place(self, vectors: Floats) -> Floats:
        """float32 [m, 2]: between the three nearest landmarks of each vector."""
        if not len(vectors):
            return np.empty((0, 2), np.float32)
        gaps = _squared_gaps(vectors, self._landmarks)
        few = min(3, len(self._landmarks))
        near = np.argpartition(gaps, few - 1, axis=1)[:, :few]
        pull = 1.0 / (np.take_along_axis(gaps, near, axis=1) + 1e-6)
        pull /= pull.sum(axis=1, keepdims=True)
        placed: Floats = np.einsum("ij,ijk->ik", pull, self._map[near]).astype(np.float32)
        return placed


def _lay_out(vectors: Floats, neighbours: int) -> Floats:
    places = project(vectors, *pca_axes(vectors))
    places *= 10.0 / max(1e-6, float(np.abs(places).max()))
    if neighbours < 1:
        return places
    graph = _fuzzy_graph(np.sqrt(_squared_gaps(vectors, vectors)), neighbours)
    # Each edge comes with five repelled pairs, spread over all others.
    repulsion = np.minimum(graph.sum(axis=1, keepdims=True) * _NEGATIVES / len(vectors), 1.0) * (1.0 - graph)
    for epoch in range(_EPOCHS):
        x, y = places[:, 0], places[:, 1]
        dx, dy = x[:, None] - x, y[:, None] - y
        squared = dx * dx + dy * dy
        kernel = 1.0 / (1.0 + squared)
        force = kernel * (repulsion / (squared + 0.01) - graph) * 2.0
        step = 1.0 - epoch / _EPOCHS
        move = np.stack([(force * dx).sum(axis=1), (force * dy).sum(axis=1)], axis=1)
        places = places + np.clip(move, -4.0, 4.0) * np.float32(step * 0.5)
    return places.astype(np.float32)


def _fuzzy_graph(gaps: Floats, neighbours: int) -> Floats:
    """UMAP's membership strengths: exp(-(d - nearest) / width) with widths so that they sum to log2(k)."""
    count = len(gaps)
    own = gaps.copy()
    np.fill_diagonal(own, np.inf)
    order = np.argpartition(own, neighbours - 1, axis=1)[:, :neighbours]
    near = np.take_along_axis(own, order, axis=1)
    beyond = np.maximum(near - near.min(axis=1, keepdims=True), 0.0)
    low, high = np.full(count, 1e-6), np.full(count, 1e3)
    target = np.log2(max(neighbours, 2))
    for _ in range(32):
        width = np.sqrt(low * high)
        wide = np.exp(-beyond / width[:, None]).sum(axis=1) > target
        high, low = np.where(wide, width, high), np.where(wide, low, width)
    strength = np.zeros((count, count), dtype=np.float32)
    np.put_along_axis(strength, order, np.exp(-beyond / width[:, None]).astype(np.float32), axis=1)
    graph: Floats = strength + strength.T - strength * strength.T
    return graph


def _squared_gaps(vectors: Floats, others: Floats) -> Floats:
    gaps = (vectors**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2.0 * (vectors @ others.T)
    squared: Floats = np.maximum(gaps, 0.0)
    return squared
