"""Commands about the record: `flask --app wsgi audit ...`."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO

import click
import psycopg
from flask import Flask

from capecontrol import clock
from capecontrol.audit import delivery, erasure, evidence, hours, offline, retention, seals, verification
from capecontrol.audit import export as exporting
from capecontrol.audit import replay as replaying
from capecontrol.audit.delivery_state import delivery_states
from capecontrol.audit.evidence import Unreadable
from capecontrol.audit.export_formats import FORMATS, Format
from capecontrol.audit.export_rows import Wanted
from capecontrol.audit.findings import Report
from capecontrol.audit.replay import Replayed
from capecontrol.audit.schemas import ExportQuery
from capecontrol.commands import CommandGroup
from capecontrol.config import current_settings, libpq_url
from capecontrol.errors import DomainError
from capecontrol.web.json_requests import check_shape

audit = CommandGroup("audit", help="The record: seals, proofs, exports, retention, and events that wait.")

_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


def register(app: Flask) -> None:
    """Add the commands to the application."""
    app.cli.add_command(audit)


@audit.command("replay")
@click.option(
    "--from-log",
    "log",
    type=click.File("r", encoding="utf-8", errors="replace"),
    help="Read AUDIT_SPILL lines from a drained log instead of the spool; - for standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def replay(log: IO[str] | None, as_json: bool) -> None:
    """Store the events that the table would not take, each exactly once; ends with 0 when none is left."""
    done = replaying.replay() if log is None else replaying.replay_log(log)
    click.echo(json.dumps(done.as_json(), indent=2) if as_json else "\n".join(_in_words(done)))
    sys.exit(0 if done.is_all_well else 1)


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
    left = seals.why_unsealed()
    done = f"Sealed {_events(count)}." if count else "Nothing was sealed." if left else "There is nothing to seal."
    click.echo(f"{done} {left or ''}".rstrip())


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
        url = libpq_url(current_settings().database_url)
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
    click.echo(evidence.json_text(seals.prove(event)))


@audit.command("export")
@click.option("--format", "file_format", type=click.Choice(list(FORMATS)), default="ndjson", show_default=True)
@click.option("--start", metavar="DAY", help="From this day or moment on, such as 2026-11-24.")
@click.option("--end", metavar="DAY", help="Until this day or moment, itself included.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; standard output by default.")
@click.option(
    "--sealed",
    "is_sealed",
    is_flag=True,
    help="All rows with all they need for `audit verify --file`; a file gets the seals of the same moment beside it, "
    "in OUTPUT.seals.",
)
@click.option("--seals", "is_chain", is_flag=True, help="The public keys and the chain of seals instead of events.")
def export(
    file_format: Format,
    start: str | None,
    end: str | None,
    output: Path | None,
    is_sealed: bool,
    is_chain: bool,
) -> None:
    """Write the record to a file, oldest event first. That it was exported is recorded too.

    A file gets its name when it is whole; until then it ends in `.part`.
    """
    if is_sealed and is_chain:
        raise click.UsageError("--sealed writes the seals too, into a file beside its own; --seals writes only them.")
    if (is_sealed or is_chain) and (file_format != "ndjson" or start or end):
        raise click.UsageError("--sealed and --seals write everything, as NDJSON.")
    try:
        fields = {"format": file_format, "start_date": start, "end_date": end}
        query = check_shape(ExportQuery, {name: value for name, value in fields.items() if value})
        wanted = Wanted.of(query.format, start=query.start_date, end=query.end_date)
        wanted = replace(wanted, is_sealed=is_sealed, is_chain=is_chain)
        begun = exporting.begin(wanted, actor=None, scope=nullcontext)
    except DomainError as refusal:
        raise click.ClickException(refusal.detail) from None
    try:
        if output is None:
            _write(begun.chunks(), sys.stdout.buffer)
        elif is_sealed:
            _write_files({output.with_name(f"{output.name}.seals"): begun.seals(), output: begun.chunks()})
        else:
            _write_files({output: begun.chunks()})
    except (exporting.ExportInterrupted, OSError) as failure:
        raise click.ClickException(f"The export is not complete. {failure}") from None
    finally:
        begun.close()
    click.echo(f"{begun.events} {'lines' if is_chain else 'events'}, {begun.bytes} bytes.", err=True)


@audit.command("deliver")
def deliver() -> None:
    """Deliver now what waits for other systems, and say how far each of them is."""
    if not delivery.receivers():
        raise click.ClickException("There is no receiver: set AUDIT_STREAM_URL or AUDIT_SYSLOG_ADDRESS.")
    for receiver in delivery.receivers():
        while delivery.deliver(receiver, is_patient=False):
            pass
    states = [state for state in delivery_states() if state.is_configured]
    for state in states:
        error = f", failing: {state.last_error}" if state.last_error else ""
        click.echo(f"{state.name} ({state.destination}): {state.delivered} delivered, {state.waiting} waiting{error}")
    sys.exit(1 if any(state.last_error for state in states) else 0)


@audit.command("recount")
def recount() -> None:
    """Forget the counts by the hour; the worker makes all of them anew from the log, within minutes."""
    hours.recount()
    click.echo("The counts by the hour are forgotten. Until the worker has made them anew, statistics take longer.")


@audit.command("purge")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only say what would be deleted.")
def purge(is_dry_run: bool) -> None:
    """Delete the events whose time is over; AUDIT_RETENTION_DAYS says when that is."""
    counts = retention.purge(actor=None, is_dry_run=is_dry_run)
    for category, before in sorted(retention.cutoffs().items()):
        click.echo(f"{counts[category]:>12,}  {category}, before {before:%Y-%m-%d %H:%M} UTC")
    click.echo(f"{'Would delete' if is_dry_run else 'Deleted'} {_events(counts.total())}.")


@audit.command("erase")
@click.argument("person_id")
def erase(person_id: str) -> None:
    """Erase what is personal in everything that PERSON_ID, the id of an account, did; for good.

    The events themselves stay, and every proof over them. Do it before the account is deleted.
    """
    count = erasure.pseudonymise(person_id, actor=None)
    click.echo(f"Erased what was personal in {_events(count)}.")


def _write(chunks: Iterable[bytes], file: IO[bytes]) -> None:
    for chunk in chunks:
        file.write(chunk)
    file.flush()


def _write_files(contents: Mapping[Path, Iterable[bytes]]) -> None:
    """Write files, which get their names when all of them are whole."""
    parts = {path.with_name(f"{path.name}.part"): path for path in contents}
    for part, path in parts.items():
        with part.open("wb") as file:
            _write(contents[path], file)
    for part, path in parts.items():
        part.replace(path)


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


def _in_words(done: Replayed) -> list[str]:
    words = [f"{done.stored} events stored, {done.known} were there already."]
    if done.not_committed:
        words.append(f"{done.not_committed} of them did not succeed: their transaction was not committed.")
    if done.unknown:
        words.append(f"{done.unknown} of them are marked as unknown: nobody can say whether they succeeded.")
    if done.trouble is not None:
        words.append(f"The table takes no events ({done.trouble}); see `flask --app wsgi doctor`.")
    if done.in_progress:
        words.append(f"{done.in_progress} wait for their transaction to end: try again in a moment.")
    if done.refused or done.untried:
        words.append(f"{done.refused} were refused and {done.untried} not tried; they still wait.")
    if done.unreadable:
        aside = f"; see {', '.join(done.set_aside)}" if done.set_aside else ""
        words.append(f"{done.unreadable} lines could not be read{aside}.")
    words += [f"{count} belong to installation {owner} and were left alone." for owner, count in done.foreign.items()]
    return words
