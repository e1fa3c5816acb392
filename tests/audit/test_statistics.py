"""The log in numbers: the same whether the hours are counted or not."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from capecontrol import clock
from capecontrol.audit import hours, statistics
from capecontrol.audit.models import AuditHour
from capecontrol.extensions import db
from tests.audit.recorded import make_event


@pytest.fixture
def session(committed_app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Yield a session on a database that is really committed to, with the application round it."""
    monkeypatch.setattr(hours, "SLACK", timedelta(0))
    with committed_app.app_context(), Session(db.engine, expire_on_commit=False) as session:
        yield session


def numbers(days: int) -> tuple[object, ...]:
    found = statistics.over_days(days)
    db.session.rollback()
    return found.by_time, found.by_category, found.by_event, found.people, found.addresses


@pytest.mark.parametrize("days", [1, 2, 7, 90])
def test_counted_hours_and_the_rows_themselves_agree(session: Session, days: int) -> None:
    now = clock.now()
    for age in (0, 1, 3, 5, 26, 50, 24 * 6, 24 * 8, 24 * 89, 24 * 91):
        at = now - timedelta(hours=age)
        make_event(session, at=at, recorded_at=at, user_email="a@example.com")
        make_event(session, at=at, recorded_at=at, event_type="access_denied", success=False, ip_address="192.0.2.1")
    from_rows = numbers(days)
    hours.count_hours()
    assert hours.count_hours() > 0
    assert session.query(AuditHour).count() > 10
    assert numbers(days) == from_rows


def test_hours_that_are_counted_are_not_counted_again_from_the_rows(session: Session) -> None:
    at = clock.now() - timedelta(days=3)
    make_event(session, at=at, recorded_at=at)
    hours.count_hours()
    hours.count_hours()
    session.query(AuditHour).update({"count": 500})
    session.commit()
    assert statistics.over_days(7).total == 500


def test_every_column_is_there_whether_anything_happened_or_not(session: Session) -> None:
    assert len(statistics.over_days(1).by_time) == 24
    found = statistics.over_days(30)
    assert len(found.by_time) == 30
    assert (found.total, found.success_rate) == (0, 100.0)
    assert found.by_time[-1].at is not None and found.by_time[-1].at.date() == clock.now().date()


def test_the_most_are_looked_for_among_the_newest(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "LOOKED_THROUGH", 3)
    for number in range(5):
        make_event(session, user_email=f"person{number // 3}@example.com", success=False, ip_address="192.0.2.1")
    found = statistics.over_days(7)
    assert [(each.name, each.count) for each in found.people] == [("person0@example.com", 3)]
    assert found.people_among == found.addresses_among == 3
