"""What tests of the seals share: an application really committed, a superuser's hand, and rows of every kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from flask import Flask
from psycopg2.extensions import cursor
from sqlalchemy.engine import make_url

from capecontrol.audit import events, recorder
from capecontrol.audit.actor import Actor
from capecontrol.config import libpq_url
from capecontrol.extensions import db
from tests.postgres import SUPERUSER, Databases


@contextmanager
def connected(app: Flask) -> Iterator[cursor]:
    """Yield a cursor of the application's own role, committed at the end."""
    with psycopg2.connect(libpq_url(app.config["SETTINGS"].database_url)) as connection, connection.cursor() as found:
        yield found
    connection.close()


class Intruder:
    """Somebody with a superuser's rights, whom no trigger stops (P20)."""

    def __init__(self, databases: Databases, app: Flask) -> None:
        name = make_url(app.config["SETTINGS"].database_url).database
        assert name
        self._url = libpq_url(databases.url(name, role=SUPERUSER))

    def run(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement past the triggers."""
        with psycopg2.connect(self._url) as connection, connection.cursor() as found:
            found.execute("SET session_replication_role = replica")
            found.execute(statement, parameters)
            rows = found.fetchall() if found.description else []
        connection.close()
        return rows


def query(app: Flask, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Return what a statement of the application's own role finds."""
    with connected(app) as found:
        found.execute(statement, parameters)
        return found.fetchall() if found.description else []


def record_some(app: Flask, count: int = 1, actor: Actor | None = None) -> None:
    """Record events, each in a transaction of its own."""
    with app.app_context():
        for number in range(count):
            recorder.record(events.DEMO_FILLED, actor=actor, details={"people": number, "conversations": 1})
            db.session.commit()


def store_full_row(app: Flask, person_id: str, event_id: str = "full") -> int:
    """Store a row with something in every column, and return its number."""
    columns = {
        "event_id": event_id,
        "user_id": person_id,
        "actor_ref": person_id,
        "user_email": "zoë@example.com",
        "user_role": "client",
        "subject_id": "subject",
        "event_type": "kind",
        "event_category": "data",
        "event_level": "info",
        "event_description": 'said "so"\n\\ and \x01\x7f\u2028 \U0001f30a',
        "ip_address": "192.0.2.7",
        "user_agent": "Browser\t1.0",
        "endpoint": "a.b",
        "http_method": "POST",
        "request_id": "request",
        "session_id": "session",
        "status_code": 201,
        "response_time_ms": 12,
        "success": True,
        "error_message": "none",
        "event_metadata": '{"n": 1.10, "deep": [null, {"é": -0.5, "big": 123456789012345678901234567890}], "e": 1e3}',
        "risk_score": 7,
        "created_at": "2026-02-28 23:59:59.120+02",
    }
    names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
    return int(query(app, f"INSERT INTO audit_logs ({names}) VALUES ({places}) RETURNING id", *columns.values())[0][0])
