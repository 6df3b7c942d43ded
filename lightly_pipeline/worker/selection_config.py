"""Lightly's later selection_config, as far as frames without predictions allow: its typed form.

Thresholds filter first; then samples are taken one at a time by the product of the strategies' objectives,
each to the power of its strength. What it means for a run is worked out in `budget`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

#: Per-frame figures that WEIGHTS and THRESHOLD can refer to.
METADATA_KEYS = (
    "lightly.sharpness",
    "lightly.brightness",
    "lightly.contrast",
    "lightly.uniform_row_ratio",
    "lightly.frame_index",
    "lightly.seconds",
    "lightly.width",
    "lightly.height",
)


def _known(kind: str, supported: tuple[str, ...], others: tuple[str, ...]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value in others:
            raise ValueError(
                f"{kind} {value} needs predictions or a trained model and is not supported by this worker; "
                f"supported are {', '.join(supported)}"
            )
        return value

    return BeforeValidator(check)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


#: Lightly's own spelling, where ours is another.
_LIGHTLYS = {"lightly.uniformRowRatio": "lightly.uniform_row_ratio"}


class StrategyInput(_Part):
    """What a strategy looks at."""

    type: Annotated[
        Literal["EMBEDDINGS", "METADATA", "RANDOM"],
        _known("input", ("EMBEDDINGS", "METADATA", "RANDOM"), ("SCORES", "PREDICTIONS")),
    ]
    key: Annotated[
        str | None, BeforeValidator(lambda key: _LIGHTLYS.get(key, key) if isinstance(key, str) else key)
    ] = Field(None, description="of METADATA: which figure")
    random_seed: int | None = Field(None, ge=0, description="of RANDOM")

    @model_validator(mode="after")
    def _has_its_key(self) -> "StrategyInput":
        if self.type == "METADATA" and self.key not in METADATA_KEYS:
            raise ValueError(f"METADATA key {self.key!r} is not known; known are {', '.join(METADATA_KEYS)}")
        return self


class StrategyRule(_Part):
    """What a strategy does with what it looks at."""

    type: Annotated[
        Literal["DIVERSITY", "WEIGHTS", "THRESHOLD"],
        _known("strategy", ("DIVERSITY", "WEIGHTS", "THRESHOLD"), ("BALANCE", "SIMILARITY", "TYPICALITY")),
    ]
    stopping_condition_minimum_distance: float | None = Field(None, ge=0.0, allow_inf_nan=False)
    threshold: float | None = Field(None, allow_inf_nan=False)
    operation: Literal["SMALLER", "SMALLER_EQUAL", "BIGGER", "BIGGER_EQUAL"] | None = None
    strength: float = Field(1.0, ge=-1e9, le=1e9)


class Strategy(_Part):
    """One strategy: an input and what to do with it."""

    input: StrategyInput
    strategy: StrategyRule

    @model_validator(mode="after")
    def _fits(self) -> "Strategy":
        fitting = {
            "DIVERSITY": ("EMBEDDINGS",),
            "WEIGHTS": ("METADATA", "RANDOM"),
            "THRESHOLD": ("METADATA",),
        }
        allowed = fitting[self.strategy.type]
        if self.input.type not in allowed:
            raise ValueError(f"{self.strategy.type} works on {' or '.join(allowed)}, not on {self.input.type}")
        if self.strategy.type == "THRESHOLD" and (self.strategy.threshold is None or self.strategy.operation is None):
            raise ValueError("THRESHOLD needs threshold and operation")
        if self.strategy.type == "DIVERSITY" and self.strategy.strength <= 0.0:
            raise ValueError("DIVERSITY needs a strength above 0")
        return self


class SelectionConfig(_Part):
    """How many samples, by which strategies."""

    n_samples: int | None = Field(None, ge=0)
    proportion_samples: float | None = Field(None, ge=0.0, le=1.0)
    strategies: tuple[Strategy, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_budget(self) -> "SelectionConfig":
        if (self.n_samples is None) == (self.proportion_samples is None):
            raise ValueError("give either n_samples or proportion_samples")
        if sum(strategy.strategy.type == "DIVERSITY" for strategy in self.strategies) > 1:
            raise ValueError("DIVERSITY on EMBEDDINGS can be given once")
        return self
