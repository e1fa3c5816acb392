"""Every error of the main work reaches its caller as its own kind, whatever the audit table does meanwhile (R2, R5).

A matrix: what breaks the work, against what breaks the record of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg2
import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from capecontrol import create_app, each_second
from capecontrol.audit import spilling
from capecontrol.config import libpq_url
from capecontrol.database import LOCK_MS
from capecontrol.extensions import db
from tests.audit.faults import NO_TRIGGER, locked, new_user, record_demo, run, trigger
from tests.conftest import dispose, settings_for
from tests.people import make_person

TABLES = """
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE work (
    id int PRIMARY KEY,
    parent_id int REFERENCES parents (id),
    later_id int REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED,
    amount int CHECK (amount >= 0)
);
INSERT INTO work (id, amount) VALUES (1, 1), (2, 2);
"""


@pytest.fixture(scope="module")
def shared_app(databases) -> Iterator[Flask]:
    """Yield an application with tables to break things with; every test leaves them as they were."""
    with databases.clone() as url:
        app = create_app(settings_for(url))
        each_second.of(app).close()
        make_person(app, email="taken@example.com")
        run(app, TABLES)
        yield app
        dispose(app)


Breakage = Callable[[Session, Flask], None]


def unique(session: Session, _app: Flask) -> None:
    session.add(new_user("taken@example.com"))


def foreign_key(session: Session, _app: Flask) -> None:
    session.execute(text("INSERT INTO work (id, parent_id) VALUES (10, 99)"))


def check(session: Session, _app: Flask) -> None:
    session.execute(text("INSERT INTO work (id, amount) VALUES (11, -1)"))


def deferred(session: Session, _app: Flask) -> None:
    session.execute(text("INSERT INTO work (id, later_id) VALUES (12, 99)"))


def serialisation(session: Session, app: Flask) -> None:
    """Read both, write one, while somebody else does it the other way round: only the commit finds out."""
    session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
    session.execute(text("SELECT sum(amount) FROM work"))
    with psycopg2.connect(libpq_url(app.config["SETTINGS"].database_url)) as other:
        other.set_session(isolation_level="SERIALIZABLE")
        with other.cursor() as cursor:
            cursor.execute("SELECT sum(amount) FROM work")
            cursor.execute("UPDATE work SET amount = amount + 1 WHERE id = 1")
            session.execute(text("UPDATE work SET amount = amount + 1 WHERE id = 2"))
        other.commit()
    other.close()


def statement_timeout(session: Session, _app: Flask) -> None:
    session.execute(text("SET LOCAL statement_timeout = 50"))
    session.execute(text("SELECT pg_sleep(5)"))


def lock_timeout(session: Session, app: Flask) -> None:
    with locked(app, "work"):
        session.execute(text(f"SET LOCAL lock_timeout = {LOCK_MS // 10}"))
        session.execute(text("UPDATE work SET amount = 5 WHERE id = 1"))


def killed(session: Session, app: Flask) -> None:
    pid = session.scalar(text("SELECT pg_backend_pid()"))
    run(app, "SELECT pg_terminate_backend(%(pid)s, 2000)", pid=pid)
    session.execute(text("SELECT 1"))


MAIN: dict[str, tuple[Breakage, type[DBAPIError], str | None]] = {
    "unique": (unique, IntegrityError, "23505"),
    "foreign key": (foreign_key, IntegrityError, "23503"),
    "check": (check, IntegrityError, "23514"),
    "deferred": (deferred, IntegrityError, "23503"),
    "serialisation": (serialisation, OperationalError, "40001"),
    "statement timeout": (statement_timeout, OperationalError, "57014"),
    "lock timeout": (lock_timeout, OperationalError, "55P03"),
    "connection killed": (killed, OperationalError, "57P01"),
}

AUDIT = {
    "well": "SELECT 1",
    "unique": trigger("RAISE 'no' USING ERRCODE = '23505';"),
    "foreign key": trigger("NEW.user_id := 'nobody';"),
    "check": "ALTER TABLE audit_logs ADD CONSTRAINT broken CHECK (event_type <> 'demo_filled') NOT VALID",
    "deferred": "ALTER TABLE audit_logs ADD CONSTRAINT broken FOREIGN KEY (subject_id) REFERENCES users_v2 "
    "DEFERRABLE INITIALLY DEFERRED NOT VALID",
    "serialisation": trigger("RAISE 'no' USING ERRCODE = '40001';"),
    "statement timeout": trigger("PERFORM pg_sleep(5);"),
    "lock timeout": "SELECT 1",
    "connection killed": trigger("PERFORM pg_terminate_backend(pg_backend_pid());"),
}

AT_THE_COMMIT = ("deferred", "serialisation")
"""What only the commit finds out; a transaction that dies before it never comes to that."""

DEADLY = {"serialisation": "40001", "connection killed": "57P01"}
"""What ends the transaction itself, and is for that reason not swallowed."""


@contextmanager
def broken(app: Flask, fault: str) -> Iterator[None]:
    run(app, AUDIT[fault])
    try:
        if fault == "lock timeout":
            with locked(app):
                yield
        else:
            yield
    finally:
        run(app, NO_TRIGGER)
        run(app, "ALTER TABLE audit_logs DROP CONSTRAINT IF EXISTS broken")


def do(breakage: Breakage, app: Flask) -> None:
    """Do the work, as a service does."""
    record_demo()
    breakage(db.session(), app)
    db.session.commit()


def successes(app: Flask) -> int:
    """Count the record's claims that the work was done."""
    (found,) = run(app, "SELECT count(*) FROM audit_logs WHERE event_type = 'demo_filled' AND success")
    return int(found[0])


@pytest.mark.parametrize("fault", AUDIT)
@pytest.mark.parametrize("work", MAIN)
def test_an_error_of_the_work_reaches_its_caller_as_its_own_kind(shared_app: Flask, work: str, fault: str) -> None:
    breakage, kind, state = MAIN[work]
    if work in AT_THE_COMMIT and fault in DEADLY:
        kind, state = OperationalError, DEADLY[fault]
    before = successes(shared_app)
    with broken(shared_app, fault), shared_app.app_context():
        with pytest.raises(DBAPIError) as caught:
            do(breakage, shared_app)
        db.session.rollback()
        assert type(caught.value) is kind
        assert getattr(caught.value.orig, "pgcode", None) == state or caught.value.connection_invalidated
        assert caught.value.connection_invalidated == (state == "57P01")
    assert successes(shared_app) == before


@pytest.mark.parametrize("fault", [fault for fault in AUDIT if fault not in DEADLY and fault != "deferred"])
def test_work_that_is_right_is_committed_whatever_the_table_does(shared_app: Flask, fault: str) -> None:
    """A deferred constraint would end it at the commit, which is why the record has none (R6, test_recorder.py)."""
    email = f"{fault.replace(' ', '-')}@example.com"
    with broken(shared_app, fault), shared_app.app_context():
        db.session.add(new_user(email))
        record_demo()
        db.session.commit()
    assert run(shared_app, "SELECT count(*) FROM users_v2 WHERE email = %(email)s", email=email) == [(1,)]
    assert spilling.health.is_degraded == (fault != "well")
