"""Commands about the record: `flask --app wsgi audit ...`."""

import click
from flask import Flask
from flask.cli import AppGroup

from capecontrol.audit import retention, seals

audit = AppGroup("audit", help="The record: seals, proofs, retention.")


def register(app: Flask) -> None:
    """Add the commands to the application."""
    app.cli.add_command(audit)


@audit.command("seal")
def seal_now() -> None:
    """Seal now what the worker would seal within the minute."""
    count = seals.seal()
    click.echo("There is nothing to seal." if not count else f"Sealed {_events(count)}.")


@audit.command("purge")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only say what would be deleted.")
def purge(is_dry_run: bool) -> None:
    """Delete the events whose time is over; AUDIT_RETENTION_DAYS says when that is."""
    counts = retention.purge(actor=None, is_dry_run=is_dry_run)
    for category, before in sorted(retention.cutoffs().items()):
        click.echo(f"{counts[category]:>12,}  {category}, before {before:%Y-%m-%d %H:%M} UTC")
    click.echo(f"{'Would delete' if is_dry_run else 'Deleted'} {_events(counts.total())}.")


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"
