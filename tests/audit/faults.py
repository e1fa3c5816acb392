"""What goes wrong with an audit table, and what a process has swallowed, as the tests of the record need them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from flask import Flask
from sqlalchemy import text

from capecontrol import ids
from capecontrol.audit import events, recorder
from capecontrol.audit.actor import Actor
from capecontrol.auth.models import User
from capecontrol.config import libpq_url
from capecontrol.extensions import db

AWAY = "ALTER TABLE audit_logs RENAME TO audit_logs_away"
BACK = "ALTER TABLE audit_logs_away RENAME TO audit_logs"


def trigger(body: str) -> str:
    """Return the statements that let something happen before each row of the audit table."""
    return (
        f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$; "
        "CREATE TRIGGER meddle BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION meddle()"
    )


NO_TRIGGER = "DROP FUNCTION IF EXISTS meddle() CASCADE"


def run(app: Flask, statement: str, **values: Any) -> list[Any]:
    """Run a statement on a connection apart from the application's, committed; return its rows."""
    with (
        psycopg2.connect(libpq_url(app.config["SETTINGS"].database_url)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement, values or None)
        rows = list(cursor.fetchall()) if cursor.description else []
    connection.close()
    return rows


@contextmanager
def locked(app: Flask, table: str = "audit_logs") -> Iterator[None]:
    """Hold a table so that nobody can read or write it."""
    connection = psycopg2.connect(libpq_url(app.config["SETTINGS"].database_url))
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        connection.close()


@contextmanager
def away(app: Flask) -> Iterator[None]:
    """Let the audit table be missing."""
    run(app, AWAY)
    try:
        yield
    finally:
        run(app, BACK)


def spilled(text_on_stderr: str) -> list[dict[str, Any]]:
    """Return the events that were printed as swallowed."""
    return [
        json.loads(line.removeprefix("AUDIT_SPILL "))
        for line in text_on_stderr.splitlines()
        if line.startswith("AUDIT_SPILL ")
    ]


def spooled(folder: Path) -> list[dict[str, Any]]:
    """Return the events in the files of a spool."""
    paths = sorted(path for path in folder.glob("*") if path.suffix in (".spool", ".replaying"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def new_user(email: str = "lerato@example.com") -> User:
    """Return an account that is not stored yet."""
    return User(id=ids.new_id(), email=email, email_key=email, password_hash="-", user_role="client")


def record_demo(actor: Actor | None = None, people: int = 1) -> None:
    """Record an event for the next commit."""
    recorder.record(events.DEMO_FILLED, actor=actor, details={"people": people, "conversations": 2})


def act(app: Flask, number: int = 1, *, actor: Actor | None = None) -> None:
    """Do something that is worth an event: store an account; the event carries the number."""
    with app.app_context():
        db.session.add(new_user(f"act{number}-{ids.new_id()}@example.com"))
        record_demo(actor, people=number)
        db.session.commit()


def acts_recorded(app: Flask) -> list[tuple[int, bool]]:
    """Return the number of each act that is in the record, in order, and whether it is said to have succeeded."""
    found = run(
        app,
        "SELECT (event_metadata->>'people')::int, success FROM audit_logs WHERE event_type = 'demo_filled' ORDER BY 1",
    )
    return [(number, success) for number, success in found]


def value(app: Flask, statement: str) -> Any:
    """Return what a query of the application's own connection finds."""
    with app.app_context():
        return db.session.scalar(text(statement))
