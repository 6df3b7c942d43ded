"""Clips for tests: the sandbox's footage from one cache, and the odd formats that a worker meets.

The cache lies in the git-ignored `.sandbox/` of the checkout, so that footage is rendered once and not by
each run of the tests; it is keyed by the code that renders it.
"""

from pathlib import Path

from lightly_pipeline.sandbox.footage import Clip, footage

FOOTAGE_CACHE = Path(__file__).parents[1] / ".sandbox" / "footage"


def rendered(*names: str) -> tuple[Clip, ...]:
    """The footage's clips of these names (none given: all), rendered if no earlier test has done so."""
    return footage(FOOTAGE_CACHE, *names)
