"""What presentation times and counts say about a file: frames that are missing without the decoder
noticing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightly_pipeline.worker.scan.packets import Header
from lightly_pipeline.worker.scan.types import Problem

#: A file whose frames come at one pace to this share is expected to keep it; others have a variable rate.
_STEADY = 0.98
#: Steps longer than this many frames are gaps.
_GAP = 1.9
_MOST_REPORTED = 20


def timing_problems(frames: NDArray[np.void], header: Header) -> list[Problem]:
    """Gaps in a steady pace, and frames or seconds that the container declares and does not hold."""
    problems = []
    name = header.path.name
    expected = header.declared_frames
    if expected is not None and header.packets < expected:
        problems.append(
            Problem(
                None,
                f"{name} is truncated: it declares {expected} frames and holds {header.packets}.",
                "truncated",
            )
        )
    least = header.least_seconds
    if least is not None and header.last_end < least and (frames["pts"] >= 0).all():
        problems.append(
            Problem(
                None,
                f"{name} is truncated: its pictures end after {header.last_end:.1f} s, where it declares to last "
                f"longer than {least:.1f} s.",
                "truncated",
            )
        )
    steps = np.diff(frames["seconds"])
    if len(steps) < 16 or np.any(frames["pts"] < 0) or np.any(steps <= 0):
        # Too short to know the pace, or a container (MPEG program stream) whose times are guesses.
        return problems
    pace = float(np.median(steps))
    # Times are rounded to the container's clock (a millisecond in WebM).
    tolerance = max(0.02 * pace, 1.01 * float(header.time_base))
    if pace <= 0 or np.mean(np.abs(steps - pace) <= tolerance) < _STEADY:
        return problems
    gaps = np.flatnonzero(steps > _GAP * pace)
    for at in gaps[:_MOST_REPORTED]:
        problems.append(
            Problem(
                None,
                f"{name} has a gap of {steps[at]:.3f} s after frame {at}, where its pace is {pace:.3f} s: "
                f"about {round(steps[at] / pace) - 1} frames are missing.",
                "gap",
            )
        )
    if len(gaps) > _MOST_REPORTED:
        problems.append(Problem(None, f"{name} has {len(gaps) - _MOST_REPORTED} more gaps.", "gap"))
    return problems
