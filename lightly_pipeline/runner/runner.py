"""InstanceRunner: run one command on an instance of the pool, and leave no instance behind.

The spine of the room: lease and start (`hold.py`), send and follow (`command.py`), release. Whatever happens
between, the instance is given back; what happens after this process is dead, `release_expired` (called by a
sensor) and the watchdog on the instance see to.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from botocore.exceptions import ClientError

from lightly_pipeline.runner import record as lease_record
from lightly_pipeline.runner.aws import Clients, code_of, said_plainly
from lightly_pipeline.runner.clock import Clock
from lightly_pipeline.runner.command import Commands, CommandSettings, Ended, Found, Sent, Stream
from lightly_pipeline.runner.cost import Price
from lightly_pipeline.runner.errors import InstanceGone, InstanceTaken, RunnerError
from lightly_pipeline.runner.hold import Hold, LeaseSettings
from lightly_pipeline.runner.instance import Deadlines, Instances, Seen
from lightly_pipeline.runner.interrupts import InterruptGate
from lightly_pipeline.runner.job import Attempt, Finished, Job, Watcher
from lightly_pipeline.runner.lease import LeaseStore, ServerClock
from lightly_pipeline.runner.record import Record
from lightly_pipeline.runner.script import command_text

_RUNS = ".lightly/runs/"
_ATTEMPT = "attempt.json"
# A sensor has a minute for its tick, and comes again: it does not wait out an instance that is still pending.
_SENSOR_PATIENCE = 10.0


@dataclass(frozen=True)
class RunnerSettings:
    """Everything about a runner that is a choice.

    `linger` are seconds for which an idle instance stays up.
    """

    lease: LeaseSettings = field(default_factory=LeaseSettings)
    command: CommandSettings = field(default_factory=CommandSettings)
    deadlines: Deadlines = field(default_factory=Deadlines)
    linger: float = 0.0
    attempts: int = 3
    price: Price | None = None


@dataclass(frozen=True)
class Status:
    """One instance with its lease record, and what its present start has cost so far."""

    seen: Seen
    record: Record
    now: float
    billed_seconds: float
    cost: float | None


@dataclass
class InstanceRunner:
    """Runs jobs on the instances of one pool. One per process is enough; every job has a hold of its own."""

    instances: Instances
    store: LeaseStore
    commands: Commands
    settings: RunnerSettings = field(default_factory=RunnerSettings)
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def open(
        cls,
        clients: Clients,
        *,
        instances: str,
        bucket: str,
        settings: RunnerSettings | None = None,
        clock: Clock | None = None,
    ) -> InstanceRunner:
        """A runner over `instances` as LIGHTLY_INSTANCES writes them; no call to AWS yet."""
        settings, clock = settings or RunnerSettings(), clock or Clock()
        pool = Instances.from_text(instances, clients, clock, settings.deadlines, settings.lease.max_jobs)
        store = LeaseStore(
            clients.s3, bucket, brisk=clients.brisk_s3, clock=ServerClock(clock.monotonic), sleep=clock.sleep
        )
        commands = Commands(clients, pool, bucket, settings.command, clock)
        return cls(pool, store, commands, settings, clock)

    def run(self, job: Job, watcher: Watcher | None = None) -> Finished:
        """Run the job to its end and give the instance back; raises what went wrong after giving it back.

        CommandError for a job that ended badly, InstanceTaken when its instance was lost `settings.attempts`
        times, and what `Hold.acquire` raises where there was none to have.
        """
        watcher = watcher or Watcher()
        with InterruptGate() as gate:
            hold = self._hold(job, watcher, gate)
            try:
                for number in range(1, self.settings.attempts + 1):
                    try:
                        return self._attempt(job, hold, watcher, number)
                    except InstanceTaken as error:
                        if number == self.settings.attempts:
                            raise
                        tries = f"{number + 1} of {self.settings.attempts}"
                        watcher.said(f"{error} The command is sent again ({tries}).")
                        hold.leave()
                raise AssertionError("a loop of at least one attempt returns or raises")
            finally:
                with _quietly(watcher):
                    hold.release()

    def release_expired(self) -> dict[str, str]:
        """Stop every instance of the pool that is up without a live lease; a sentence for each that was touched.

        The same release as a job's own. Instances with the tag `lightly:keep` are left alone.
        """
        told: dict[str, str] = {}
        errors: list[RunnerError] = []
        for seen in self.instances.describe():
            try:
                if not seen.kept and (sentence := self._release_if_expired(seen)) is not None:
                    told[seen.id] = sentence
            except RunnerError as error:
                # One instance that cannot be stopped must not keep the others running.
                errors.append(error)
        if errors:
            raise type(errors[0])(" ".join([*told.values(), *(str(error) for error in errors)]))
        return told

    def _release_if_expired(self, seen: Seen) -> str | None:
        record = self.store.read(seen.id)
        now = self.store.clock.now()
        if record.live(now) or record.closed(now):
            return None
        if seen.state == "stopping":
            since = record.stop_requested
            if since is None or now - since <= self.settings.deadlines.stopping:
                return None
            self.instances.stop_once(seen.id, force=True)
            return f"{seen.id} was stopping for {now - since:.0f} s: the stop was forced."
        if seen.state == "stopped" and not record.leases and record.door is None:
            return None
        if not self._reaper().reap(seen, patience=_SENSOR_PATIENCE):
            return None
        was = "was stopped already" if seen.state == "stopped" else f"was {seen.state}, is stopped"
        return f"{seen.id} {was}: its last lease ({', '.join(sorted(record.leases)) or 'nobody'}) has expired."

    def status(self) -> list[Status]:
        """The pool as it is now, with leases and costs."""
        statuses = []
        for seen in self.instances.describe():
            record = self.store.read(seen.id)
            now = self.store.clock.now()
            billed = 0.0
            if seen.state == "running" and seen.launched is not None:
                billed = max(lease_record.MINIMUM_BILLED_SECONDS, now - seen.launched)
            price = self.settings.price
            statuses.append(Status(seen, record, now, billed, price.of(billed) if price else None))
        return statuses

    def release(self, holder: str) -> list[str]:
        """Remove a holder's leases, of a run that is known to be dead, say; stops what nobody else holds."""
        released = []
        for seen in self.instances.describe():
            if holder in self.store.read(seen.id).leases:
                hold = replace(self._reaper(), holder=holder)
                hold.reap(seen)
                released.append(seen.id)
        return released

    def stop(self, instance_id: str) -> None:
        """Stop an instance now, whoever holds it: their jobs notice, and are sent again elsewhere or later."""
        seen = self.instances.look(instance_id)
        self._reaper().reap(seen, evict=True)

    def _attempt(self, job: Job, hold: Hold, watcher: Watcher, number: int) -> Finished:
        found = self._still_running(job, job.instance_hint) if number == 1 and job.instance_hint else None
        hold.acquire(prefer=found.instance_id if found else None)
        seen = hold.acquired
        watcher.chosen(seen.id)
        if found is not None and found.instance_id != seen.id:
            found = None
        if found is None and hold.resumed:
            found = self._still_running(job, seen.id)
        if found is not None and not self._is_same_work(job, found):
            watcher.said(f"Command {found.id} on {seen.id} is of an earlier try with other arguments: it is cancelled.")
            self.commands.cancel(found.id, seen.id)
            found = None
        attempt = self._attempt_of(job, found)
        with watcher.attempt(attempt) as environment, _released_unless_taken(hold, watcher):
            if found is not None:
                watcher.said(f"Command {found.id} of this job is still under way on {seen.id}: following it.")
                sent = Sent(found.id, seen.id, seen.launched, f"{attempt.prefix}output", job.timeout)
            else:
                # An interrupt that cuts off SSM's answer leaves a command of which only this is known.
                hold.sending = f"{_label(job.holder)} #{attempt.number}"
                sent = self.commands.send(
                    seen.id,
                    command_text(job.argv, {**job.environment, **environment}),
                    timeout=job.timeout,
                    comment=hold.sending,
                    output_prefix=f"{attempt.prefix}output",
                    launched=seen.launched,
                    tick=hold.tick,
                )
            begun = self.clock.monotonic()
            hold.command, hold.sending = sent.id, None
            watcher.sent(sent)
            hold.note(sent.id)
            ended = self._follow(sent, hold, watcher)
            hold.command = None
            ended_at = self.clock.monotonic()
            others = hold.release(linger=max(self.settings.linger, watcher.linger()))
            self._report(sent, ended, watcher)
        price = self.settings.price
        return Finished(
            instance=seen,
            command_id=sent.id,
            attempts=number,
            attached=found is not None,
            starts=hold.starts,
            command_seconds=ended_at - begun,
            seconds_to_send=begun - hold.usable_at,
            seconds_to_stop=hold.stopped_at - ended_at if hold.stopped_at is not None else None,
            billed_seconds=hold.seconds,
            cost=price.of(hold.seconds) if price else None,
            others=others,
        )

    def _follow(self, sent: Sent, hold: Hold, watcher: Watcher) -> Ended:
        def tick() -> None:
            hold.tick()
            watcher.tick(sent)

        def pause(seconds: float) -> bool:
            if self.clock.sleep is Clock.sleep:
                watcher.woken.wait(seconds)
            else:
                self.clock.sleep(seconds)
            woken = watcher.woken.is_set()
            if woken:
                watcher.woken.clear()
            return woken

        clock = replace(self.clock, sleep=pause)
        return replace(self.commands, clock=clock).follow(sent, tick)

    def _report(self, sent: Sent, ended: Ended, watcher: Watcher) -> None:
        streams: tuple[Stream, Stream] = ("stdout", "stderr")
        for stream in streams:
            try:
                with said_plainly(f"read the output of command {sent.id}"):
                    watcher.output(stream, self.commands.chunks(sent, ended, stream))
            except RunnerError as error:
                # What the command printed is no reason to lose what it did.
                watcher.said(str(error))
        if ended.status != "Success" or ended.exit_code:
            self.commands.check(sent, ended, self.commands.tail(sent, ended))

    def _still_running(self, job: Job, instance_id: str) -> Found | None:
        """A command of this job, or of a dead run of the same work, that has not ended on the instance."""
        try:
            seen = self.instances.look(instance_id)
        except InstanceGone:
            return None
        if seen.state != "running":
            return None
        labels = [f"{_label(holder)} #" for holder in (job.holder, *job.adopt)]
        return self.commands.find(instance_id, labels, since=seen.launched)

    def _is_same_work(self, job: Job, found: Found) -> bool:
        """Whether the command was sent with this job's arguments, as it was written down before it was sent."""
        key = f"{self._attempt_of(job, found).prefix}{_ATTEMPT}"
        with said_plainly(f"read s3://{self.store.bucket}/{key}", let=frozenset({"NoSuchKey"})):
            try:
                stored = self.commands.clients.s3.get_object(Bucket=self.store.bucket, Key=key)["Body"].read()
            except ClientError as error:
                if code_of(error) != "NoSuchKey":
                    raise
                return False
        return bool(json.loads(stored).get("argv") == list(job.argv))

    def _attempt_of(self, job: Job, found: Found | None) -> Attempt:
        """A number under which nothing is stored yet, as messages of an earlier command must not be read again."""
        if found is not None:
            label, _, number = found.comment.rpartition(" #")
            holder = next(name for name in (job.holder, *job.adopt) if _label(name) == label)
            return Attempt(int(number), f"{_RUNS}{holder}/{number}/", attached=True)
        prefix = f"{_RUNS}{job.holder}/"
        with said_plainly(f"list s3://{self.store.bucket}/{prefix}"):
            answer = self.commands.clients.s3.list_objects_v2(Bucket=self.store.bucket, Prefix=prefix, Delimiter="/")
        taken = [entry["Prefix"].rstrip("/").rpartition("/")[2] for entry in answer.get("CommonPrefixes", [])]
        attempt = 1 + max((int(name) for name in taken if name.isdigit()), default=0)
        # Written down at once: a command that has stored nothing yet has its number all the same.
        with said_plainly(f"write to s3://{self.store.bucket}/{prefix}"):
            self.commands.clients.s3.put_object(
                Bucket=self.store.bucket,
                Key=f"{prefix}{attempt}/{_ATTEMPT}",
                Body=json.dumps({"holder": job.holder, "argv": list(job.argv)}).encode(),
            )
        return Attempt(attempt, f"{prefix}{attempt}/", attached=False)

    def _hold(self, job: Job, watcher: Watcher, gate: InterruptGate) -> Hold:
        return Hold(
            holder=job.holder,
            instances=self.instances,
            store=self.store,
            commands=self.commands,
            settings=self.settings.lease,
            clock=self.clock,
            gate=gate,
            say=watcher.said,
            adopt=tuple(job.adopt),
        )

    def _reaper(self) -> Hold:
        return self._hold(Job(f"reaper/{uuid.uuid4().hex[:8]}", ["true"], 60), Watcher(), InterruptGate())


@contextmanager
def _released_unless_taken(hold: Hold, watcher: Watcher) -> Iterator[None]:
    """Give the instance back before anything else is closed, except where it is lost and the job goes on."""
    try:
        yield
    except InstanceTaken:
        raise
    except BaseException:
        with _quietly(watcher):
            hold.release()
        raise


@contextmanager
def _quietly(watcher: Watcher) -> Iterator[None]:
    """What fails in the clean-up is said, and does not hide what failed before."""
    try:
        yield
    except RunnerError as error:
        watcher.said(f"While giving the instance back: {error}")


def _label(holder: str) -> str:
    """The holder in a command's comment, which may have 100 characters in all."""
    if len(holder) > 80:
        holder = f"{holder[:60]}~{hashlib.sha256(holder.encode()).hexdigest()[:16]}"
    return f"lightly {holder}"
