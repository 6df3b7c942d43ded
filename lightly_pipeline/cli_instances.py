"""`lightly-pipeline instances`: what the pool is doing, who holds it, what it has cost, and two ways to end that."""

import time
from datetime import datetime, timezone

import click


@click.command()
@click.option(
    "--release", "holders", multiple=True, metavar="HOLDER", help="Remove the leases of a holder that is dead."
)
@click.option("--stop", "stopped", multiple=True, metavar="INSTANCE", help="Stop an instance, whoever holds it.")
@click.option("--expired", is_flag=True, help="Stop every instance without a live lease, as the sensor does.")
@click.option("--yes", is_flag=True, help="Do not ask before stopping an instance that has a live lease.")
def instances(holders: tuple[str, ...], stopped: tuple[str, ...], expired: bool, yes: bool) -> None:
    """Show the instances that select frames: state, leases and their holders, cost so far.

    A job whose instance is stopped under it notices, and is sent again.
    """
    # Dagster and boto3 take a second to import: only for who asks.
    from lightly_pipeline.resources.runner import RunnerResource

    runner = RunnerResource().open()
    for holder in holders:
        released = runner.release(holder)
        if not released:
            raise click.ClickException(f"{holder} holds no instance of the pool.")
        click.echo(f"Released {holder} on {', '.join(released)}.")
    for instance_id in stopped:
        record = runner.store.read(instance_id)
        live = sorted(record.live(runner.store.clock.now(), "job"))
        if live and not yes:
            click.confirm(f"{instance_id} works for {', '.join(live)}. Stop it all the same?", abort=True)
        runner.stop(instance_id)
        click.echo(f"Stopped {instance_id}.")
    if expired:
        for sentence in runner.release_expired().values():
            click.echo(sentence)
    rows = [("INSTANCE", "NAME", "TYPE", "STATE", "UP", "COST", "HOLDER")]
    for status in runner.status():
        seen, record, now = status.seen, status.record, status.now
        holding = [
            f"{holder} ({lease.kind} since {_clock(lease.since)}, expires in {_span(lease.expires - now)})"
            for holder, lease in sorted(record.live(now).items())
        ]
        if record.closed(now):
            holding.append("being stopped")
        up = _span(now - seen.launched) if seen.state == "running" and seen.launched is not None else ""
        cost = f"${status.cost:.4f}" if status.cost else ""
        first, *more = holding or [""]
        rows.append((seen.id, seen.name, seen.type, seen.state, up, cost, first))
        rows += [("", "", "", "", "", "", holder) for holder in more]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).astimezone().strftime("%H:%M:%S")


def _span(seconds: float) -> str:
    whole = max(0, round(seconds))
    return time.strftime("%H:%M:%S", time.gmtime(whole)) if whole < 86400 else f"{whole / 86400:.1f} d"
