"""Names of the kernels; imports numba."""

from __future__ import annotations

from lightly_pipeline.worker.select.kernels import balls, medians, medoids, order, rounds

KERNELS = {
    "divide": order.divide,
    "cut": balls.cut,
    "average": balls.average,
    "measure": balls.measure,
    "settle": rounds.settle,
    "settle_pool": rounds.settle_pool,
    "pick": rounds.pick,
    "start": medians.start,
    "plant": medians.plant,
    "advance": medians.advance,
    "near": medoids.near,
    "cluster": medoids.cluster,
    "centre": medoids.centre,
    "move": medoids.move,
}
