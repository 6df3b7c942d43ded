"""What an instance costs, from running seconds and a price that the user configures.

AWS bills a running instance by the second, at least a minute for every start; `pending` and `stopping` are
free. Prices come from configuration, with their source beside them: none is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Price:
    """USD per hour, and where that figure is from (a page and a date, say)."""

    per_hour: float
    source: str = ""

    def of(self, seconds: float) -> float:
        """USD for so many billed seconds."""
        return seconds * self.per_hour / 3600.0
