"""The lease record of one instance: who may use it until when, and who is just stopping it.

Pure values and transitions, no AWS: every function takes a record and the time, and returns the record that
should be written instead. `lease.py` writes them by compare-and-swap, so that what is decided here is decided
once, whatever number of processes and hosts share the instance. This module is the only place that knows the
record's format:

    {"schema": 1,
     "leases": {"<holder>": {"kind": "job" | "waiting" | "linger", "since": s, "expires": s, "command": id | null}},
     "door": {"until": s, "claim": "<who is stopping it>"} | null,
     "meter": {"launched": s | null, "at": s, "shares": {"<holder>": seconds}, "settled": seconds, "idle": seconds},
     "stop_requested": s | null}

Times are seconds since 1970 by the clock of S3 (see `lease.py`). Expired leases count as absent everywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

SCHEMA = 1
# AWS bills every start for at least so many seconds.
MINIMUM_BILLED_SECONDS = 60.0

Kind = Literal["job", "waiting", "linger"]


class UnreadableRecord(ValueError):
    """The stored text is no lease record of a version that this release understands."""


@dataclass(frozen=True)
class Lease:
    """One holder's right to the instance.

    A `job` runs on it. A `waiting` one takes no slot but keeps the instance up, as its holder wants the next
    free slot. A `linger` is what a finished job leaves behind so that the next one finds the instance
    running.
    """

    kind: Kind
    since: float
    expires: float
    command: str | None = None


@dataclass(frozen=True)
class Door:
    """Closed while somebody stops the instance: nobody gets a lease before `until`, unless the claim is cleared."""

    until: float
    claim: str


@dataclass(frozen=True)
class Meter:
    """Running seconds since the last start, shared out over the jobs that held the instance meanwhile.

    `shares` has what each present job owes so far, `settled` what past ones were told that they owed, `idle`
    what nobody owes yet: the next job takes it over.
    """

    launched: float | None = None
    at: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)
    settled: float = 0.0
    idle: float = 0.0


@dataclass(frozen=True)
class Record:
    """Everything that the holders of one instance know of each other."""

    leases: Mapping[str, Lease] = field(default_factory=dict)
    door: Door | None = None
    meter: Meter = field(default_factory=Meter)
    stop_requested: float | None = None

    def live(self, now: float, *kinds: Kind) -> dict[str, Lease]:
        """The leases that have not expired, of the given kinds or of any."""
        return {
            holder: lease
            for holder, lease in self.leases.items()
            if lease.expires > now and (not kinds or lease.kind in kinds)
        }

    def closed(self, now: float) -> bool:
        """Whether somebody is stopping the instance right now."""
        return self.door is not None and self.door.until > now

    def to_json(self) -> str:
        """The record as it is stored."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """Read what `to_json` wrote; UnreadableRecord for anything else."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data["schema"] != SCHEMA:
                raise UnreadableRecord(f"its schema is {data['schema']!r}, this release reads {SCHEMA}")
            leases = {str(holder): Lease(**lease) for holder, lease in data["leases"].items()}
            record = cls(
                leases=leases,
                door=Door(**data["door"]) if data["door"] else None,
                meter=Meter(**data["meter"]),
                stop_requested=data["stop_requested"],
            )
            times = [lease.expires for lease in leases.values()]
            times += [record.door.until] if record.door else []
            if not all(isinstance(time, int | float) and math.isfinite(time) for time in times):
                raise UnreadableRecord("a time in it is no number")
        except UnreadableRecord:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableRecord(f"it is no lease record ({error})") from error
        return record


@dataclass(frozen=True)
class Refusal:
    """Why no lease was given: the door is closed, or every slot is taken by `holders`."""

    reason: Literal["closing", "full"]
    until: float
    holders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Released:
    """What leaving means: whether this holder has to stop the instance, and the seconds that it owes."""

    must_stop: bool
    seconds: float
    others: tuple[str, ...]


def acquire(
    record: Record, holder: str, now: float, *, ttl: float, max_jobs: int, adopt: Collection[str] = ()
) -> tuple[Record, Refusal | None]:
    """Add a job lease for `holder`, or say why not; a holder that has one already gets it renewed.

    `adopt` names holders (dead runs of the same work) whose place this one takes.
    """
    unchanged = record
    record = _purged(_accrued(record, now), now)
    own = record.leases.get(holder)
    if own is not None and own.kind == "job":
        return _with_lease(record, holder, replace(own, expires=now + ttl)), None
    if record.door is not None and record.door.until > now:
        return unchanged, Refusal("closing", record.door.until)
    leases = {name: lease for name, lease in record.leases.items() if name not in adopt}
    jobs = {name: lease for name, lease in leases.items() if lease.kind == "job"}
    if len(jobs) >= max_jobs:
        return unchanged, Refusal("full", min(lease.expires for lease in jobs.values()), tuple(sorted(jobs)))
    # This job now decides how long the instance stays: whoever lingered for it has done so.
    leases = {name: lease for name, lease in leases.items() if lease.kind != "linger"}
    leases[holder] = Lease("job", since=now, expires=now + ttl)
    shares = dict(record.meter.shares)
    inherited = record.meter.idle + sum(shares.pop(name, 0.0) for name in adopt)
    shares[holder] = shares.get(holder, 0.0) + inherited
    meter = replace(record.meter, shares=shares, idle=0.0)
    # An expired door goes: its stopper died, or will find its claim gone.
    return replace(record, leases=leases, door=None, meter=meter), None


def wait(record: Record, holder: str, now: float, *, ttl: float) -> tuple[Record, Refusal | None]:
    """Note that `holder` wants the next free slot, so that nobody stops the instance between two jobs."""
    unchanged = record
    record = _purged(_accrued(record, now), now)
    if record.door is not None and record.door.until > now:
        return unchanged, Refusal("closing", record.door.until)
    own = record.leases.get(holder)
    if own is not None and own.kind == "job":
        return record, None
    since = own.since if own is not None else now
    return _with_lease(record, holder, Lease("waiting", since=since, expires=now + ttl)), None


def renew(
    record: Record, holder: str, now: float, *, ttl: float, command: str | None = None
) -> tuple[Record, Refusal | None]:
    """Push the own lease's end away, and note the command that runs under it.

    A lease that has expired meanwhile is added again, beyond any number of slots, as its job is running:
    unless the door is closed, when the instance is being stopped and the job will find it taken.
    """
    own = record.leases.get(holder)
    if (own is None or own.expires <= now) and record.door is not None and record.door.until > now:
        return record, Refusal("closing", record.door.until)
    record = _purged(_accrued(record, now), now)
    own = record.leases.get(holder) or Lease("job", since=now, expires=now)
    lease = Lease("job", since=own.since, expires=now + ttl, command=command or own.command)
    door = record.door if record.closed(now) else None
    return replace(_with_lease(record, holder, lease), door=door), None


def started(record: Record, now: float, launched: float) -> Record:
    """Begin a new meter where EC2 says that the instance was started anew."""
    meter = record.meter
    if meter.launched is not None and abs(meter.launched - launched) < 1.0:
        return _accrued(record, now)
    jobs = record.live(now, "job")
    fresh = Meter(launched=launched, at=min(now, launched), shares=dict.fromkeys(jobs, 0.0))
    return _accrued(replace(record, meter=fresh, stop_requested=None), now)


def release(
    record: Record, holder: str, now: float, *, claim: str, linger: float = 0.0, door: float = 60.0
) -> tuple[Record, Released]:
    """Give the own lease back; the last one out closes the door in the same write and has to stop the instance.

    With `linger` the last one leaves a lease behind that expires so many seconds later, and stops nothing.
    """
    record = _accrued(record, now)
    leases = dict(record.leases)
    own = leases.pop(holder, None)
    record = _purged(replace(record, leases=leases), now)
    shares = dict(record.meter.shares)
    seconds = shares.pop(holder, 0.0)
    others = tuple(sorted(record.leases))
    door_now = record.door
    leases = dict(record.leases)
    must_stop = False
    if not others and linger > 0 and own is not None and own.kind == "job":
        leases[holder] = Lease("linger", since=now, expires=now + linger)
    elif not others and (not record.closed(now) or (door_now is not None and door_now.claim == claim)):
        must_stop = True
        door_now = Door(until=now + door, claim=claim)
        if own is not None and own.kind == "job" and record.meter.launched is not None:
            known = seconds + sum(shares.values()) + record.meter.settled + record.meter.idle
            seconds += max(0.0, MINIMUM_BILLED_SECONDS - known)
    meter = replace(record.meter, shares=shares, settled=record.meter.settled + seconds)
    return replace(record, leases=leases, door=door_now, meter=meter), Released(must_stop, seconds, others)


def keep_door(record: Record, claim: str, now: float, *, door: float = 60.0) -> tuple[Record, bool]:
    """Keep the door closed for as long again; False when the claim is gone and the instance is another's."""
    if record.door is None or record.door.claim != claim:
        return record, False
    return replace(record, door=Door(until=now + door, claim=claim)), True


def open_door(record: Record, claim: str, now: float) -> Record:
    """Open the door again once EC2 has accepted the stop; a record whose door is another's stays as it is."""
    if record.door is None or record.door.claim != claim:
        return record
    meter = replace(_accrued(record, now).meter, launched=None)
    return replace(record, door=None, meter=meter, stop_requested=now)


def _with_lease(record: Record, holder: str, lease: Lease) -> Record:
    return replace(record, leases={**record.leases, holder: lease})


def _purged(record: Record, now: float) -> Record:
    """Without expired leases; what dead jobs owed is settled."""
    leases = record.live(now)
    if len(leases) == len(record.leases):
        return record
    jobs = {holder for holder, lease in leases.items() if lease.kind == "job"}
    shares = {holder: seconds for holder, seconds in record.meter.shares.items() if holder in jobs}
    settled = record.meter.settled + sum(record.meter.shares.values()) - sum(shares.values())
    return replace(record, leases=leases, meter=replace(record.meter, shares=shares, settled=settled))


def _accrued(record: Record, now: float) -> Record:
    """The meter brought to `now`: the time since the last write is owed by the jobs that held leases then."""
    meter = record.meter
    if meter.launched is None or now <= meter.at:
        return record
    passed = now - max(meter.at, meter.launched)
    if passed <= 0:
        return replace(record, meter=replace(meter, at=now))
    jobs = [holder for holder, lease in record.leases.items() if lease.kind == "job"]
    if not jobs:
        return replace(record, meter=replace(meter, at=now, idle=meter.idle + passed))
    shares = dict(meter.shares)
    for holder in jobs:
        shares[holder] = shares.get(holder, 0.0) + passed / len(jobs)
    return replace(record, meter=replace(meter, at=now, shares=shares))
