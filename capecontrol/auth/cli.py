"""Commands about people: `flask --app wsgi auth ...`."""

import json
import sys

import click
from flask import Flask

from capecontrol.auth import account
from capecontrol.commands import CommandGroup

auth = CommandGroup("auth", help="People and administrators.")


def register(app: Flask) -> None:
    """Add the commands to the application."""
    app.cli.add_command(auth)


@auth.command("create-admin")
@click.argument("email")
def create_admin(email: str) -> None:
    """Make EMAIL an administrator; opens the account when there is none.

    Asks for a password on a terminal, or reads it from the first line of standard input.
    """
    if account.has_account(email):
        person = account.promote(email, actor=None)
        click.echo(f"{person.email} is an administrator now.")
        click.echo("The account keeps its password and its sessions: make sure that the right person opened it.")
        return
    person = account.create_administrator(email, _read_password(email), actor=None)
    click.echo(f"{person.email} has an account and is an administrator. Sign in at /login.")


@auth.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def list_administrators(as_json: bool) -> None:
    """List the administrators."""
    people = account.list_administrators()
    if as_json:
        click.echo(json.dumps([{"id": person.id, "email": person.email} for person in people]))
    elif people:
        for person in people:
            click.echo(f"{person.email}  {person.full_name or ''}".rstrip())
    else:
        click.echo("There is no administrator yet: `flask --app wsgi auth create-admin you@example.com`.")


def _read_password(email: str) -> str:
    if sys.stdin.isatty():
        click.echo(f"{email} has no account yet, so one is opened. Choose a password of at least 12 characters.")
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise click.ClickException(f"{email} has no account yet: give a password on standard input.")
    return password
