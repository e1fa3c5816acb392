"""Commands about the record: `flask --app wsgi audit ...`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import click
import psycopg
from flask import Flask, current_app
from flask.cli import AppGroup

from capecontrol import clock
from capecontrol.audit import evidence, offline, retention, seals, verification
from capecontrol.audit.evidence import Unreadable
from capecontrol.audit.findings import Report
from capecontrol.config import libpq_url
from capecontrol.errors import DomainError

audit = AppGroup("audit", help="The record: seals, proofs, retention.")

_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


def register(app: Flask) -> None:
    """Add the commands to the application."""
    app.cli.add_command(audit)


def needs_no_settings(arguments: Sequence[str]) -> bool:
    """Say whether a command line only wants files verified: an auditor has neither settings nor database."""
    return "verify" in arguments and any(each.startswith(("--file", "--proof")) for each in arguments)


def without_settings() -> Flask:
    """Return an application that has these commands and nothing else."""
    app = Flask(__name__, static_folder=None)
    register(app)
    return app


@audit.command("seal")
def seal_now() -> None:
    """Seal now what the worker would seal within the minute."""
    count = seals.seal()
    click.echo("There is nothing to seal." if not count else f"Sealed {_events(count)}.")


@audit.command("verify")
@click.option("--file", "rows", type=_EXISTING, help="Exported rows (NDJSON) instead of the database's.")
@click.option("--seals", "chain", type=_EXISTING, help="The exported seals that belong to them.")
@click.option("--part", "is_part", is_flag=True, help="The exported rows are only a part of the record.")
@click.option("--proof", type=_EXISTING, help="The proof of one event, as `audit prove` prints it.")
@click.option("--key", "trusted", multiple=True, help="Believe only this key; may be given more than once.")
@click.option("--anchor", "anchors", multiple=True, help="NUMBER:HASH of a seal that you kept; may be repeated.")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1, 64), help="For a large database.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def verify(
    rows: Path | None,
    chain: Path | None,
    is_part: bool,
    proof: Path | None,
    trusted: tuple[str, ...],
    anchors: tuple[str, ...],
    processes: int,
    as_json: bool,
) -> None:
    """Compare every event with its seal and every seal with the chain; fails when anything is not as it was."""
    kept = _anchors(anchors)
    if proof:
        report = _verify_proof(proof, trusted)
    elif rows and chain:
        with rows.open(encoding="utf-8") as events, chain.open(encoding="utf-8") as links:
            report = offline.verify_files(events, links, is_part=is_part, trusted=trusted, anchors=kept)
    elif rows or chain:
        raise click.UsageError("--file and --seals belong together.")
    else:
        url = libpq_url(current_app.config["SETTINGS"].database_url)
        try:
            report = verification.verify(url, processes=processes, trusted=trusted, anchors=kept)
        except psycopg.Error as error:
            raise click.ClickException(f"The database could not be read ({error.sqlstate or 'no answer'}).") from None
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        for line in report.lines(clock.now()):
            click.echo(line)
    sys.exit(0 if report.is_well else 1)


@audit.command("prove")
@click.argument("event")
def prove(event: str) -> None:
    """Print the proof that EVENT, a number or an event id, is in its seal: JSON for `audit verify --proof`."""
    try:
        click.echo(evidence.json_text(seals.prove(event)))
    except DomainError as refusal:
        raise click.ClickException(refusal.detail) from None


@audit.command("export")
@click.option("--seals", "is_chain", is_flag=True, required=True, help="The public keys and the chain of seals.")
@click.option(
    "--output", type=click.File("w", encoding="utf-8", lazy=True), default="-", help="Default: standard output."
)
def export(is_chain: bool, output: TextIO) -> None:  # noqa: ARG001 -- the only thing there is to export here
    """Write the seals as NDJSON, for `audit verify --file ROWS --seals SEALS` where there is no database."""
    for line in seals.export_lines():
        output.write(f"{line}\n")


@audit.command("purge")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only say what would be deleted.")
def purge(is_dry_run: bool) -> None:
    """Delete the events whose time is over; AUDIT_RETENTION_DAYS says when that is."""
    counts = retention.purge(actor=None, is_dry_run=is_dry_run)
    for category, before in sorted(retention.cutoffs().items()):
        click.echo(f"{counts[category]:>12,}  {category}, before {before:%Y-%m-%d %H:%M} UTC")
    click.echo(f"{'Would delete' if is_dry_run else 'Deleted'} {_events(counts.total())}.")


def _verify_proof(path: Path, trusted: Sequence[str]) -> Report:
    try:
        proof = evidence.read_line(path.read_text(encoding="utf-8"))
    except Unreadable as fault:
        raise click.ClickException(f"{path} {fault}.") from None
    return offline.check_proof(proof, trusted=trusted)


def _anchors(given: Sequence[str]) -> dict[int, str]:
    anchors = {}
    for each in given:
        number, _, hash_of_seal = each.partition(":")
        if not number.isdigit() or len(hash_of_seal) != 64:
            raise click.BadParameter(f"{each!r} is not NUMBER:HASH, with the hash in 64 hexadecimal digits.")
        anchors[int(number)] = hash_of_seal.lower()
    return anchors


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"
