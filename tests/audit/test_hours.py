"""The log by the hour: every event counted once, however late it comes and however often it is counted."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session

from capecontrol import clock
from capecontrol.audit import hours
from capecontrol.audit.models import AuditHour, AuditHoursProgress
from capecontrol.extensions import db
from tests.audit.recorded import make_event

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def session(committed_app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Yield a session on a database that is really committed to, with the application round it."""
    monkeypatch.setattr(hours, "SLACK", timedelta(0))  # nobody wants to wait a minute
    with committed_app.app_context(), Session(db.engine, expire_on_commit=False) as session:
        yield session


def on_time(session: Session, at: datetime, **columns: object) -> None:
    make_event(session, at=at, recorded_at=at + timedelta(seconds=1), **columns)


def counted(session: Session) -> Counter[tuple[datetime, str, bool]]:
    session.expire_all()
    found: Counter[tuple[datetime, str, bool]] = Counter()
    for row in session.query(AuditHour):
        found[row.hour, row.event_type, row.success] += row.count
    session.rollback()
    return found


def in_log(session: Session, *, before: datetime) -> Counter[tuple[datetime, str, bool]]:
    rows = session.execute(
        text(
            "SELECT date_trunc('hour', created_at, 'UTC') AS hour, event_type, success, count(*) AS often "
            "FROM audit_logs WHERE created_at < :before GROUP BY 1, 2, 3"
        ),
        {"before": before},
    ).all()
    session.rollback()
    return Counter({(row.hour, row.event_type, row.success): row.often for row in rows})


def settle() -> None:
    """Let two rounds go by: one makes a mark, the next finds it passed."""
    hours.count_hours()
    hours.count_hours()


def test_hours_that_are_over_are_counted(session: Session) -> None:
    for minute in (0, 30, 59):
        on_time(session, NOON + timedelta(minutes=minute))
    on_time(session, NOON + timedelta(hours=1))
    on_time(session, NOON, success=False, event_type="user_login_failed")
    on_time(session, NOON - timedelta(days=40))
    on_time(session, clock.now())
    settle()
    assert counted(session) == {
        (NOON, "user_login", True): 3,
        (NOON, "user_login_failed", False): 1,
        (NOON + timedelta(hours=1), "user_login", True): 1,
        (NOON - timedelta(days=40), "user_login", True): 1,
    }


def test_the_running_hour_stays_open(session: Session) -> None:
    on_time(session, NOON)
    on_time(session, clock.now())
    settle()
    progress = session.query(AuditHoursProgress).one()
    assert progress.closed_before <= clock.now() - timedelta(minutes=5)
    assert progress.closed_before >= clock.now() - timedelta(hours=3)
    assert (progress.closed_before.minute, progress.closed_before.second) == (0, 0)


def test_what_comes_late_is_counted_too_and_once(session: Session) -> None:
    on_time(session, NOON)
    settle()
    before = session.query(AuditHoursProgress).one().closed_before
    session.rollback()
    for at in (NOON, NOON, NOON - timedelta(days=90), NOON + timedelta(hours=5)):
        make_event(session, at=at)  # stored now
    for _ in range(3):
        settle()
    assert counted(session)[NOON, "user_login", True] == 3
    assert counted(session) == in_log(session, before=before)


def test_many_late_events_are_counted_batch_by_batch(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    on_time(session, NOON)
    settle()
    monkeypatch.setattr(hours, "LATE_ROWS_AT_ONCE", 3)
    stored = clock.now()
    for hour in range(10):
        make_event(session, at=NOON + timedelta(hours=hour % 4), recorded_at=stored)  # all in the same moment
    settle()
    assert counted(session) == in_log(session, before=NOON + timedelta(days=1))


def test_an_event_of_an_open_transaction_is_waited_for(session: Session) -> None:
    on_time(session, NOON - timedelta(hours=1))
    settle()
    with db.engine.connect() as other:
        transaction = other.begin()
        other.execute(
            text(
                "INSERT INTO audit_logs (event_id, event_type, event_category, event_level, success, created_at) "
                "VALUES ('slow', 'user_logout', 'authentication', 'info', true, :at)"
            ),
            {"at": NOON},
        )
        settle()
        assert (NOON, "user_logout", True) not in counted(session)
        transaction.commit()
    for _ in range(2):
        settle()
    assert counted(session)[NOON, "user_logout", True] == 1


def test_an_hour_is_not_closed_before_an_open_transaction_that_may_hold_some_of_it(session: Session) -> None:
    on_time(session, clock.now() - timedelta(hours=4))
    with db.engine.connect() as other:
        transaction = other.begin()
        other.execute(text("SELECT pg_current_xact_id()"))
        for _ in range(3):
            hours.count_hours()
        assert counted(session) == {}
        transaction.commit()
    settle()
    assert sum(counted(session).values()) == 1


def test_a_mark_of_another_server_is_made_again(session: Session) -> None:
    on_time(session, NOON)
    hours.count_hours()
    session.execute(text("UPDATE audit_hours_progress SET mark_xid = '99999999999'"))
    session.commit()
    settle()
    assert sum(counted(session).values()) == 1


def test_it_can_all_be_counted_again(session: Session, committed_app: Flask) -> None:
    on_time(session, NOON)
    settle()
    session.execute(text("UPDATE audit_hours SET count = 77"))
    session.commit()
    result = committed_app.test_cli_runner().invoke(args=["audit", "recount"])
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("Until the worker has made them anew, statistics take longer.\n")
    assert counted(session) == {}
    settle()
    assert counted(session) == {(NOON, "user_login", True): 1}


def test_a_log_without_events_is_no_trouble(session: Session) -> None:
    settle()
    assert counted(session) == {}


def test_only_one_counts_at_a_time(session: Session) -> None:
    on_time(session, NOON)
    with db.engine.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": hours._LOCK})
        assert hours.count_hours() == 0
        assert session.query(AuditHoursProgress).count() == 0
        session.rollback()
        other.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": hours._LOCK})
