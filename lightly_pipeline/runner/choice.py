"""Which instance of the pool to ask for, and what a job that waits says of them. Pure: no AWS, no clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lightly_pipeline.runner.instance import Seen
from lightly_pipeline.runner.record import Record

UP_STATES = frozenset({"running", "pending"})


def in_order(
    pool: Sequence[Seen],
    records: Mapping[str, Record],
    now: float,
    *,
    own: Collection[str],
    max_jobs: int,
    prefer: str | None = None,
) -> list[Seen]:
    """The instances worth asking for a lease: an own one, running ones with a free slot, stopped ones.

    `own` are holders whose place the job has or takes; `prefer` is asked first whatever its load. Among equals the one
    with the fewest jobs comes first, then the order of `pool`.
    """
    ranked: list[tuple[tuple[int, int, int], Seen]] = []
    for place, seen in enumerate(pool):
        record = records[seen.id]
        live = record.live(now, "job")
        others = [holder for holder in live if holder not in own]
        if seen.id == prefer or len(others) < len(live):
            rank = 0
        elif len(others) >= max_jobs or record.closed(now):
            continue
        else:
            rank = 1 if seen.state in UP_STATES else 2 if seen.state == "stopped" else 3
        ranked.append(((rank, len(others), place), seen))
    return [seen for _, seen in sorted(ranked, key=lambda entry: entry[0])]


def why_waiting(
    pool: Sequence[Seen], records: Mapping[str, Record], cooling: Collection[str], now: float, elapsed: float
) -> str:
    """A sentence for who waits: what each instance does. It changes only when that does, or a minute is over."""
    parts = []
    for seen in pool:
        record = records[seen.id]
        jobs = sorted(record.live(now, "job"))
        if seen.id in cooling:
            parts.append(f"{seen.id} has no capacity or is gone")
        elif record.closed(now):
            parts.append(f"{seen.id} is being stopped")
        elif jobs:
            parts.append(f"{seen.id} works for {', '.join(jobs[:3])}")
        else:
            parts.append(f"{seen.id} is {seen.state}")
    more = f" and {len(parts) - 8} more" if len(parts) > 8 else ""
    minutes = int(elapsed // 60)
    since = f" (for {minutes} min)" if minutes else ""
    return f"Waiting for an instance{since}: {'; '.join(parts[:8])}{more}."
