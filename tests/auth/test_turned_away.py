"""What is recorded of registrations there was no room for: one by its address, the rest by their number."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from capecontrol import clock, each_second
from capecontrol.audit.models import AuditLog
from capecontrol.auth import turned_away, waiting_room
from capecontrol.auth.turned_away import TurnedAway
from capecontrol.extensions import db
from tests.auth.test_waiting_room import full_gate
from tests.people import PASSWORD


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the clock, in seconds."""
    monkeypatch.setattr(turned_away, "turned_away", TurnedAway())

    def is_now(seconds: float) -> None:
        monkeypatch.setattr(clock, "monotonic", lambda: seconds)

    return is_now


def register(client: FlaskClient, number: int) -> int:
    waiting_room.forget_figure()
    body = {"email": f"p{number}@example.com", "password": PASSWORD, "full_name": "Lerato Dube"}
    return client.post("/api/auth/v2/register", json=body).status_code


def recorded(session: Session) -> list[tuple[str, str | None, dict, bool]]:
    rows = session.scalars(select(AuditLog).order_by(AuditLog.id))
    return [(row.event_type, row.user_email, row.event_metadata, row.success) for row in rows]


def named(number: int) -> tuple[str, str, dict, bool]:
    details = {"method": "api", "reason": "overloaded"}
    return ("user_registration_failed", f"p{number}@example.com", details, False)


@pytest.mark.parametrize("path", ["/api/auth/v2/register", "/api/auth/register", "/register"])
def test_what_came_too_late_to_be_read_is_recorded_by_its_number(
    app: Flask, client: FlaskClient, db_session: Session, now, path: str
) -> None:
    late = {"X-Request-Start": str(int((time.time() - 9) * 1000))}
    csrf = {"csrf_token": "none"}
    assert [client.post(path, data=csrf, headers=late).status_code for _ in range(3)] == [503] * 3
    assert client.get("/register", headers=late).status_code == 503
    with app.app_context():
        turned_away.record_others()
    assert recorded(db_session) == [("registrations_turned_away", None, {"number": 3}, False)]


def test_without_a_waiting_room_one_a_second_is_named_and_the_others_counted(
    app: Flask, client: FlaskClient, db_session: Session, now, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "_room", replace(waiting_room._ready(), is_open=False))
    now(1000.0)
    with full_gate():
        assert [register(client, number) for number in range(4)] == [503] * 4
        now(1001.0)
        assert register(client, 4) == 503
    for _ in range(2):  # the second time there is nothing to record
        with app.app_context():
            turned_away.record_others()
    counted = ("registrations_turned_away", None, {"number": 3}, False)
    assert recorded(db_session) == [named(0), named(4), counted]


def test_a_full_waiting_room_is_a_refusal(
    client: FlaskClient, db_session: Session, now, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "MOST_WAITING", 0)
    now(1000.0)
    with full_gate():
        assert register(client, 1) == 503
    assert recorded(db_session) == [named(1)]


def test_being_asked_to_wait_is_no_refusal(client: FlaskClient, db_session: Session, now) -> None:
    now(1000.0)
    with full_gate():
        assert register(client, 1) == 503
    assert recorded(db_session) == []
    assert turned_away.turned_away.take() == 0


def test_what_was_counted_is_written_when_the_process_ends(committed_app: Flask, now) -> None:
    now(1000.0)
    with committed_app.app_context():
        assert [turned_away.count_unless_first() for _ in range(3)] == [False, True, True]
    each_second.of(committed_app).close()
    with committed_app.app_context():
        counted = select(AuditLog.event_metadata).where(AuditLog.event_type == "registrations_turned_away")
        assert db.session.scalars(counted).all() == [{"number": 2}]
