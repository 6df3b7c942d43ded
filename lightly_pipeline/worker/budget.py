"""What is asked of the selection: how many frames, how far apart, which may be taken, which are preferred.

Here Lightly's stopping_condition, its later selection_config and our defaults become the arguments of `select`.
"""

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.frames import FrameTable
from lightly_pipeline.worker.options import Options
from lightly_pipeline.worker.selection_config import SelectionConfig, Strategy

#: Logarithm of the least weight beside the largest, which is 1: float32 holds hardly any less.
_LEAST = -80.0


@dataclass(frozen=True)
class Plan:
    """The arguments of a selection.

    budget: new frames to select at most. min_distance: None for off. strategy: of `select`. allowed: bool [n],
    which rows pass the thresholds. weights: float32 [n] or None, the larger the sooner. seed: of random strategies.
    """

    budget: int
    min_distance: float | None
    strategy: str
    allowed: NDArray[np.bool_]
    weights: NDArray[np.float32] | None
    seed: int


def share_of(fraction: float, frames: int) -> int:
    """How many frames a fraction of them is: rounded down in decimal, at least one where anything is asked for.

    Decimal, because 0.29 of 100 frames is 29, and in binary floating point 28.999999999999996.
    """
    if fraction <= 0.0 or frames == 0:
        return 0
    return max(1, int((Decimal(repr(fraction)) * frames).to_integral_value(ROUND_FLOOR)))


def make_plan(options: Options, table: FrameTable) -> Plan:
    """The plan for these frames; a fraction is one of all frames of the new input, as in Lightly's worker."""
    if options.selection_config is not None:
        return _from_selection_config(options.selection_config, options, table)
    wanted, distance = options.stopping_condition.n_samples, options.stopping_condition.min_distance
    count = len(table) if wanted == -1 else int(wanted)
    budget = share_of(wanted, len(table)) if isinstance(wanted, float) else count
    return Plan(
        budget=budget,
        min_distance=None if distance == -1.0 else distance,
        strategy=options.method,
        allowed=np.ones(len(table), dtype=np.bool_),
        weights=None,
        seed=options.seed,
    )


def expected_share(options: Options) -> float:
    """Which share of the frames will be selected; 0.0 for a count, whose share is not known before all are counted.

    What containers promise is no help: files in S3 are not open yet, and the result must not depend on the place.
    """
    wanted = options.stopping_condition.n_samples
    return wanted if isinstance(wanted, float) else 0.0


def _from_selection_config(config: SelectionConfig, options: Options, table: FrameTable) -> Plan:
    if config.proportion_samples is not None:
        budget = share_of(config.proportion_samples, len(table))
    else:
        budget = config.n_samples or 0
    diversity = next((part for part in config.strategies if part.strategy.type == "DIVERSITY"), None)
    allowed = np.ones(len(table), dtype=np.bool_)
    for part in config.strategies:
        if part.strategy.type == "THRESHOLD":
            allowed &= _passes(part, table)
    seed, logarithms = options.seed, None
    random = next((part for part in config.strategies if part.input.type == "RANDOM"), None)
    if random is not None:
        seed = options.seed if random.input.random_seed is None else random.input.random_seed
    strength = diversity.strategy.strength if diversity else 1.0
    for part in config.strategies:
        if part.strategy.type == "WEIGHTS":
            # Maximising d^a·w^b is maximising d·w^(b/a).
            objective = np.log(_objective(part, table, seed)) * (part.strategy.strength / strength)
            logarithms = objective if logarithms is None else logarithms + objective
    otherwise = "random" if logarithms is None else "weights"
    strategy = "coreset" if diversity is not None else otherwise
    return Plan(
        budget=budget,
        min_distance=diversity.strategy.stopping_condition_minimum_distance if diversity else None,
        strategy=strategy,
        allowed=allowed,
        weights=None if logarithms is None else _weights(logarithms, alone=diversity is None),
        seed=seed,
    )


def _weights(logarithms: NDArray[np.float64], *, alone: bool) -> NDArray[np.float32]:
    """Weights with these logarithms, float32 [n], or any in the same order where nothing is multiplied with them.

    However strong the objectives are, none is 0 (which would leave a row out) and none infinite.
    """
    if alone:
        weights = np.unique(logarithms, return_inverse=True)[1] + 1
    else:
        below = logarithms - logarithms.max(initial=-np.inf)
        # Stronger ones would differ by more than float32 holds: as strong as it can.
        weights = np.exp(below * min(1.0, _LEAST / min(-1.0, below.min(initial=0.0))))
    return np.asarray(weights, dtype=np.float32)


def _metadata(key: str | None, table: FrameTable) -> NDArray[np.float64]:
    """One per-frame figure, float64 [n]; `selection_config` has checked the key."""
    column = str(key).removeprefix("lightly.")
    return table.frames["index" if column == "frame_index" else column].astype(np.float64)


def _passes(part: Strategy, table: FrameTable) -> NDArray[np.bool_]:
    compare = {
        "SMALLER": np.less,
        "SMALLER_EQUAL": np.less_equal,
        "BIGGER": np.greater,
        "BIGGER_EQUAL": np.greater_equal,
    }[str(part.strategy.operation)]
    passed: NDArray[np.bool_] = compare(_metadata(part.input.key, table), part.strategy.threshold or 0.0)
    return passed


def _objective(part: Strategy, table: FrameTable, seed: int) -> NDArray[np.float64]:
    """Weights in 0..1, float64 [n]; never quite 0, so that they have logarithms."""
    if part.input.type == "RANDOM":
        own = part.input.random_seed
        return np.random.default_rng(seed if own is None else own).uniform(1e-6, 1.0, len(table))
    values = np.nan_to_num(_metadata(part.input.key, table))
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    return (values - low) / max(high - low, 1e-12) * (1.0 - 1e-6) + 1e-6
