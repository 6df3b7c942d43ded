"""The five points of a run at which the suite strikes, each reached exactly and not after a guessed pause."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lightly_pipeline_tests.faults.case import Case

POINTS = ("before start", "pending", "before send", "running", "releasing")
#: Whether the job's work is done where a run ends at this point and its job with it.
WORK = {point: "once" if point == "releasing" else "none" for point in POINTS}
_CALLS = {
    "before start": "ec2:StartInstances",
    "before send": "ssm:SendCommand",
    "releasing": "ec2:StopInstances",
}


@dataclass
class Stand:
    """A run that is to stand at a point: `reached` waits for it, `pass_on` lets it go on."""

    reached: Callable[[], None]
    pass_on: Callable[[], None]


@contextmanager
def standing_at(case: Case, point: str, *, lost: bool) -> Iterator[Stand]:
    """Have the run that is launched in the block stop at `point`.

    `lost` is what becomes of the call to AWS that is under way there: it never arrives, or it does when the run is let
    go. The job waits for `case.go()`, unless the point is beyond its end.
    """
    if point != "releasing":
        case.plan({"wait": True})
    if point in _CALLS:
        with case.faults.hold(_CALLS[point]) as held:
            yield Stand(lambda: held.wait(120), lambda: held.let_go(drop=lost))
    elif point == "pending":
        case.faults.delay_boot(4)
        yield Stand(lambda: case.until("it is pending", case.some("pending")), lambda: None)
    else:
        yield Stand(lambda: case.until("the job runs", lambda: case.ledger("begin")), lambda: None)
