"""Commands about the record: `flask --app wsgi audit ...`."""

import json
import sys
from typing import IO

import click
from flask import Flask
from flask.cli import AppGroup

from capecontrol.audit import replay as replaying
from capecontrol.audit.replay import Replayed

audit = AppGroup("audit", help="The audit log.")


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
