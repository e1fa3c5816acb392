"""Commands about the record: `flask --app wsgi audit ...`."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import IO

import click
from flask import Flask
from flask.cli import AppGroup

from capecontrol.audit import delivery
from capecontrol.audit import export as exporting
from capecontrol.audit.schemas import ExportQuery
from capecontrol.errors import DomainError
from capecontrol.web.json_requests import check_shape

audit = AppGroup("audit", help="The record of who did what.")


def register(app: Flask) -> None:
    """Add the commands to the application."""
    app.cli.add_command(audit)


@audit.command("export")
@click.option(
    "--format", "file_format", type=click.Choice(list(exporting.FORMATS)), default="ndjson", show_default=True
)
@click.option("--start", metavar="DAY", help="From this day or moment on, such as 2026-11-24.")
@click.option("--end", metavar="DAY", help="Until this day or moment, itself included.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; standard output by default.")
def export(file_format: exporting.Format, start: str | None, end: str | None, output: Path | None) -> None:
    """Write the record to a file, oldest event first. That it was exported is recorded too.

    A file gets its name when it is whole; until then it ends in `.part`.
    """
    try:
        fields = {"format": file_format, "start_date": start, "end_date": end}
        query = check_shape(ExportQuery, {name: value for name, value in fields.items() if value})
        wanted = exporting.Wanted.of(query.format, start=query.start_date, end=query.end_date)
        begun = exporting.begin(wanted, actor=None, scope=nullcontext)
    except DomainError as refusal:
        raise click.ClickException(refusal.detail) from None
    try:
        if output is None:
            _write(begun, sys.stdout.buffer)
        else:
            part = output.with_name(f"{output.name}.part")
            with part.open("wb") as file:
                _write(begun, file)
            part.replace(output)
    except (exporting.ExportInterrupted, OSError) as failure:
        raise click.ClickException(f"The export is not complete. {failure}") from None
    finally:
        begun.close()
    click.echo(f"{begun.events} events, {begun.bytes} bytes.", err=True)


@audit.command("deliver")
def deliver() -> None:
    """Deliver now what waits for other systems, and say how far each of them is."""
    if not delivery.receivers():
        raise click.ClickException("There is no receiver: set AUDIT_STREAM_URL or AUDIT_SYSLOG_ADDRESS.")
    for receiver in delivery.receivers():
        while delivery.deliver(receiver, is_patient=False):
            pass
    states = [state for state in delivery.delivery_states() if state.is_configured]
    for state in states:
        error = f", failing: {state.last_error}" if state.last_error else ""
        click.echo(f"{state.name} ({state.destination}): {state.delivered} delivered, {state.waiting} waiting{error}")
    sys.exit(1 if any(state.last_error for state in states) else 0)


def _write(begun: exporting.Export, file: IO[bytes]) -> None:
    for chunk in begun.chunks():
        file.write(chunk)
    file.flush()
