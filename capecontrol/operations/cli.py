"""Commands for running the product: doctor, settings, worker, demo."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from capecontrol.commands import in_sentences
from capecontrol.operations import demo as demonstration
from capecontrol.operations import doctor as medicine
from capecontrol.operations import setting_list
from capecontrol.operations.worker import run_worker

_MARKS = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}


def register(app: Flask) -> None:
    """Add the commands to the application."""
    for command in (doctor, settings, worker, demo):
        app.cli.add_command(command)


@click.command
@click.option("--release", "is_release", is_flag=True, help="Before a deploy: warn of what may still be to come.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@with_appcontext
def doctor(is_release: bool, as_json: bool) -> None:
    """Look whether everything is well, and say what to do where it is not."""
    findings = medicine.examine(current_app)
    is_well = medicine.is_well(findings, is_release=is_release)
    if as_json:
        click.echo(json.dumps({"ok": is_well, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            click.echo(f"{_MARKS[finding.state]}  {finding.check}: {finding.sentence}")
    sys.exit(0 if is_well else 1)


@click.command
@click.option(
    "--check",
    "readme",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead of printing the table, fail when this file does not hold it.",
)
def settings(readme: Path | None) -> None:
    """Print every setting with its default and meaning, as a Markdown table."""
    if readme is None:
        click.echo(setting_list.markdown_table())
    elif setting_list.is_in(readme.read_text(encoding="utf-8")):
        click.echo(f"{readme} lists the settings as they are.")
    else:
        raise click.ClickException(
            f"{readme} does not list the settings as they are: put the output of `flask --app wsgi settings` into it."
        )


@click.command
@with_appcontext
def worker() -> None:
    """Make replies and keep house until told to stop."""
    run_worker(current_app._get_current_object())  # type: ignore[attr-defined]


@click.command
@with_appcontext
def demo() -> None:
    """Fill an empty database with invented people, conversations and history."""
    with in_sentences():
        filled = demonstration.fill(actor=None)
    click.echo(
        f"{filled.people} people, {filled.conversations} conversations and {filled.events} events are there to look at."
    )
    click.echo(f"Administrator: {filled.administrator}   somebody else: {filled.person}   password: {filled.password}")
