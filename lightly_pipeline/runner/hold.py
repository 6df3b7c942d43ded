"""One job's hold on an instance: choose one of the pool, lease it, get it ready, give it back.

The lease is written before the instance is started, and the door is closed before it is stopped, so that
there is no moment at which a crash leaves an instance running that no record tells of.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from lightly_pipeline.runner import record as lease_record
from lightly_pipeline.runner.choice import UP_STATES, in_order, why_waiting
from lightly_pipeline.runner.clock import QUEUED, STARTING, Clock, ticks
from lightly_pipeline.runner.command import Commands
from lightly_pipeline.runner.errors import (
    InstanceGone,
    InstanceTaken,
    NoCapacity,
    NotReady,
    PoolBusy,
    RunnerError,
)
from lightly_pipeline.runner.instance import GONE_STATES, Instances, Seen
from lightly_pipeline.runner.interrupts import InterruptGate
from lightly_pipeline.runner.lease import LeaseStore
from lightly_pipeline.runner.record import Record, Released

# Who waits for a slot reads the lease records, which may be asked as often as one likes, and EC2 at most so often.
_DESCRIBE_EVERY = 10.0
# Looks for a command that SSM's lists do not show yet.
_LAGGING = ((math.inf, 0.3),)


@dataclass(frozen=True)
class LeaseSettings:
    """Seconds, and slots, of the lease protocol.

    A lease that is not renewed (every `renew_every`) expires after `ttl`: a dead holder keeps an instance up
    for so long at most. `door` is how long a stopper that dies blocks the others. `queue` bounds the wait for
    a free slot.
    """

    max_jobs: int = 1
    ttl: float = 900.0
    renew_every: float = 180.0
    waiting_ttl: float = 60.0
    door: float = 60.0
    queue: float = 21600.0


@dataclass
class Hold:
    """A holder's leases, from the first that it asks for to the last that it gives back.

    `say` gets the sentences that a person who waits should see. `adopt` are holders whose place may be taken.
    """

    holder: str
    instances: Instances
    store: LeaseStore
    commands: Commands
    settings: LeaseSettings
    clock: Clock
    gate: InterruptGate
    say: Callable[[str], object]
    adopt: Collection[str] = ()
    seen: Seen | None = None
    command: str | None = None
    # The comment of a command that may be on its way, as long as its id is not known.
    sending: str | None = None
    resumed: bool = False
    starts: int = 0
    usable_at: float = 0.0
    stopped_at: float | None = None
    seconds: float = 0.0
    _touched: dict[str, None] = field(default_factory=dict)
    _claim: str = field(default_factory=lambda: uuid.uuid4().hex)
    # When the door of an instance was last known to be closed in this hold's name, by the monotonic clock.
    _closed: dict[str, float] = field(default_factory=dict)
    _renewed: float = 0.0
    _last_said: str = ""

    def acquire(self, prefer: str | None = None) -> Seen:
        """Lease an instance and return it running, with its SSM agent online.

        `prefer` is an instance to take whatever its load, as an own command runs there. PoolBusy after
        `settings.queue` seconds without a free slot, NoCapacity when EC2 has none for any instance within its
        deadline; otherwise what starting the instance raised.
        """
        cooling: dict[str, float] = {}
        no_capacity: NoCapacity | None = None
        no_capacity_since = 0.0
        failed: dict[str, RunnerError] = {}
        pool: list[Seen] = []
        described = -math.inf
        for look in ticks(self.clock, QUEUED, self.settings.queue):
            now = self.clock.monotonic()
            if now - described >= max(_DESCRIBE_EVERY, self.instances.least_pause):
                pool, described = self.instances.describe(), now
            records = {seen.id: self.store.read(seen.id) for seen in pool}
            order = self._worth_asking(pool, records, prefer, cooling)
            if order and described < now:
                pool, described = self.instances.describe(), now
                records = {seen.id: self.store.read(seen.id) for seen in pool}
                order = self._worth_asking(pool, records, prefer, cooling)
            for seen in order:
                if not self._lease(seen, force=seen.id == prefer):
                    continue
                try:
                    self._make_ready(seen)
                except NoCapacity as error:
                    no_capacity, no_capacity_since = error, no_capacity_since or now
                    cooling[seen.id] = now + min(60.0, 10.0 + (now - no_capacity_since) / 4)
                    self._tell(f"{error} Trying the next instance of the pool.")
                    self._leave(seen.id)
                    continue
                except (InstanceGone, NotReady) as error:
                    # The next instance may do; when each has failed once, nothing is left to hope for.
                    self._leave(seen.id)
                    failed[seen.id] = error
                    if all(other.id in failed for other in pool):
                        raise
                    cooling[seen.id] = now + 600.0
                    self._tell(f"{error} Trying the next instance of the pool.")
                    continue
                except InstanceTaken as error:
                    self._leave(seen.id)
                    self._tell(str(error))
                    continue
                for other in [name for name in self._touched if name != seen.id]:
                    self._leave(other)
                return self._ready()
            if no_capacity is not None and now - no_capacity_since >= self.instances.deadlines.capacity:
                raise no_capacity
            self._queue_up(pool, records)
            self._tell(why_waiting(pool, records, cooling, self.store.clock.now(), look.elapsed))
        raise PoolBusy(
            f"No instance of the pool had a free slot for {self.settings.queue:.0f} s (max_jobs_per_instance is "
            f"{self.settings.max_jobs}): add instances to LIGHTLY_INSTANCES, or raise the queue timeout."
        )

    def tick(self) -> None:
        """Renew the lease when it is time.

        Call it at every look. InstanceTaken where it was lost meanwhile.
        """
        if self.seen is not None and self.clock.monotonic() - self._renewed >= self.settings.renew_every:
            self.note(None)

    def note(self, command: str | None) -> None:
        """Renew the lease now, and write down which command runs under it."""
        seen = self._ready()
        # A lease counts from before its write, however long that took.
        before = self.clock.monotonic()
        refusal = self.store.update(
            seen.id,
            lambda record, now: lease_record.renew(record, self.holder, now, ttl=self.settings.ttl, command=command),
        )
        if refusal is not None:
            raise InstanceTaken(f"The lease of {self.holder} on {seen.id} expired, and the instance is being stopped.")
        self._renewed = before

    def leave(self) -> None:
        """Give back the instance that was lost or is not wanted, and be ready to acquire another."""
        if self.seen is not None and self.command is not None:
            # It may still be on its way, or run on an instance whose agent is silent: not beside the one that follows.
            try:
                self.commands.cancel(self.command, self.seen.id)
            except RunnerError as error:
                self.say(str(error))
        for instance_id in list(self._touched):
            self._leave(instance_id)
        self.seen = self.command = self.sending = None

    def release(self, *, linger: float = 0.0) -> tuple[str, ...]:
        """Give everything back; stop what nobody else holds. Returns the other holders of the own instance.

        Idempotent, and short: no interrupt cuts it, and it waits for nothing but, some seconds at most, for SSM to
        tell of a command of which an interrupt cut off the id. Only where EC2 refuses to stop an instance that is
        still pending does it go on asking, and then a further interrupt may end it: the door stays closed for a
        while, and the sensor or the watchdog stops what is left.
        """
        others: tuple[str, ...] = ()
        refused: list[str] = []
        errors: list[RunnerError] = []
        with self.gate.shield():
            own = self.seen.id if self.seen is not None else None
            command, sending = self.command, self.sending
            self.command = self.sending = None
            if own is not None:
                try:
                    if command is None and sending is not None:
                        command = self._cut_off(own, sending)
                    if command is not None:
                        self.commands.cancel(command, own)
                except RunnerError as error:
                    errors.append(error)
            for instance_id in list(self._touched):
                try:
                    released = self._give_back(instance_id, linger)
                    if instance_id == own:
                        others = released.others
                        if others and command is not None:
                            self.commands.kill_container(command, own)
                    if released.must_stop and self._door_is_ours(instance_id) and not self._stopped(instance_id):
                        refused.append(instance_id)
                except RunnerError as error:
                    errors.append(error)
        if refused:
            self.gate.reopen()
        for instance_id in refused:
            self._tell(f"EC2 does not stop {instance_id} yet; asking again until it does.")
            try:
                self._stop_until_accepted(instance_id)
            except RunnerError as error:
                errors.append(error)
        self.seen = None
        for further in errors[1:]:
            self.say(str(further))
        if errors:
            raise errors[0]
        return others

    def reap(self, seen: Seen, *, evict: bool = False, patience: float | None = None) -> bool:
        """Release an instance as its last holder would, on behalf of those that are dead; whether it is stopped now.

        `evict` drops live leases as well. After `patience` seconds in which EC2 does not accept the stop it is left to
        the next try.
        """
        self._touched[seen.id] = None
        if evict:
            self.store.update(seen.id, lambda record, now: (replace(record, leases={}, door=None), None))
        if not self._give_back(seen.id, 0.0).must_stop:
            return False
        return self._stop_until_accepted(seen.id, patience)

    @property
    def acquired(self) -> Seen:
        """The instance that is leased and ready; InstanceTaken where there is none."""
        return self._ready()

    def _worth_asking(
        self, pool: list[Seen], records: dict[str, Record], prefer: str | None, cooling: dict[str, float]
    ) -> list[Seen]:
        warm = [seen for seen in pool if cooling.get(seen.id, 0.0) <= self.clock.monotonic()]
        return in_order(
            warm,
            records,
            self.store.clock.now(),
            own={self.holder, *self.adopt},
            max_jobs=self.settings.max_jobs,
            prefer=prefer,
        )

    def _lease(self, seen: Seen, *, force: bool) -> bool:
        # Before the write: an interrupt in its middle must find here that there may be something to give
        # back.
        known = seen.id in self._touched
        self._touched[seen.id] = None

        def change(record: Record, now: float) -> tuple[Record, tuple[bool, bool]]:
            held = {self.holder, *self.adopt} & set(record.leases)
            new, refusal = lease_record.acquire(
                record,
                self.holder,
                now,
                ttl=self.settings.ttl,
                max_jobs=len(record.leases) + 1 if force else self.settings.max_jobs,
                adopt=self.adopt,
            )
            return new, (refusal is None, any(record.leases[name].kind == "job" for name in held))

        before = self.clock.monotonic()
        taken, self.resumed = self.store.update(seen.id, change)
        if taken:
            self.seen = seen
            self._renewed = before
        elif not known:
            del self._touched[seen.id]
        return taken

    def _make_ready(self, seen: Seen) -> None:
        if seen.state != "running":
            self._tell(f"Starting instance {seen.id} ({seen.type or 'type unknown'}, {seen.state}).")
        running = self.instances.start(seen.id, self.tick)
        self.seen = running
        # LaunchTime has whole seconds: two starts within one second look alike, a state left behind does not.
        self.starts += running.launched != seen.launched or seen.state in {"stopped", "stopping"}
        if running.launched is not None:
            launched = running.launched
            self.store.update(seen.id, lambda record, now: (lease_record.started(record, now, launched), None))
        self.instances.wait_for_agent(running, self.tick)
        self.usable_at = self.clock.monotonic()

    def _queue_up(self, pool: list[Seen], records: dict[str, Record]) -> None:
        """Be known to the holders of one busy instance, so that it is not stopped just before this job's turn."""
        now = self.store.clock.now()
        busy = [seen for seen in pool if seen.state in UP_STATES and records[seen.id].live(now, "job")]
        if not busy:
            return
        own = [seen for seen in busy if self.holder in records[seen.id].live(now, "waiting")]
        chosen = own[0] if own else min(busy, key=lambda seen: len(records[seen.id].live(now, "waiting")))
        noted = records[chosen.id].leases.get(self.holder)
        if noted is not None and noted.expires - now > self.settings.waiting_ttl * 2 / 3:
            return
        self._touched[chosen.id] = None
        self.store.update(
            chosen.id,
            lambda record, at: lease_record.wait(record, self.holder, at, ttl=self.settings.waiting_ttl),
        )

    def _leave(self, instance_id: str) -> None:
        if self._give_back(instance_id, 0.0).must_stop:
            self._stop_until_accepted(instance_id)
        if self.seen is not None and self.seen.id == instance_id:
            self.seen = None

    def _give_back(self, instance_id: str, linger: float) -> Released:
        """Remove the own lease in one write, which also closes the door when no other is left."""
        before = self.clock.monotonic()
        released = self.store.update(
            instance_id,
            lambda record, now: lease_record.release(
                record, self.holder, now, claim=self._claim, linger=linger, door=self.settings.door
            ),
            client=self.store.brisk,
        )
        self.seconds += released.seconds
        if released.must_stop:
            self._closed[instance_id] = before
        else:
            del self._touched[instance_id]
        return released

    def _cut_off(self, instance_id: str, comment: str) -> str | None:
        """The id of a command on its way when an interrupt came; None where SSM does not tell of any.

        SSM's lists lag behind, which matters where others keep the instance up: elsewhere it is stopped, and the
        command with it.
        """
        for _ in ticks(self.clock, _LAGGING, self.commands.settings.visible_within):
            found = self.commands.sent_before(instance_id, comment, since=self._launched(), brisk=True)
            if found is not None:
                return found.id
            if set(self.store.read(instance_id).leases) <= {self.holder}:
                break
        return None

    def _door_is_ours(self, instance_id: str) -> bool:
        """Whether nobody else can have got the instance since this hold closed its door.

        A host may have stood still meanwhile: once half of the door's time is over the record is asked, and the door
        kept closed for as long again.
        """
        while self.clock.monotonic() - self._closed[instance_id] > self.settings.door / 2:
            before = self.clock.monotonic()
            if not self.store.update(
                instance_id,
                lambda record, now: lease_record.keep_door(record, self._claim, now, door=self.settings.door),
                client=self.store.brisk,
            ):
                self._touched.pop(instance_id, None)
                return False
            self._closed[instance_id] = before
        return True

    def _stopped(self, instance_id: str) -> bool:
        """Ask EC2 once; open the door and forget the instance where it says that it stops."""
        if self.instances.stop_once(instance_id) is None and not self.instances.is_stopped(instance_id):
            return False
        self.stopped_at = self.clock.monotonic()
        self.store.update(
            instance_id,
            lambda record, now: (lease_record.open_door(record, self._claim, now), None),
            client=self.store.brisk,
        )
        self._touched.pop(instance_id, None)
        return True

    def _stop_until_accepted(self, instance_id: str, patience: float | None = None) -> bool:
        """Repeat the stop until EC2 stops the instance, as it refuses while `pending`; never under a new holder.

        NotReady where EC2 has not accepted it within `deadlines.start`; with `patience` seconds, False after these.
        """
        deadline = self.instances.deadlines.start if patience is None else patience
        for _ in ticks(self.clock, STARTING, deadline, least=self.instances.least_pause):
            if not self._door_is_ours(instance_id):
                return False
            if self._stopped(instance_id):
                return True
        if patience is not None:
            return False
        raise NotReady(
            f"EC2 has not accepted to stop instance {instance_id} for {deadline:.0f} s: stop it in the EC2 console. "
            f"The sensor release_expired_instances and the instance's own watchdog try as well."
        )

    def _launched(self) -> float | None:
        return self.seen.launched if self.seen is not None else None

    def _ready(self) -> Seen:
        if self.seen is None or self.seen.state in GONE_STATES:
            raise InstanceTaken(f"{self.holder} holds no instance.")
        return self.seen

    def _tell(self, sentence: str) -> None:
        """Say something once, not at every look."""
        if sentence != self._last_said:
            self._last_said = sentence
            self.say(sentence)
