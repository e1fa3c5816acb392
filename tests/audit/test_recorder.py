"""The recorder: rules R1 to R7, each as a sentence."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from flask import Flask
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from capecontrol import ids
from capecontrol.audit import events, recorder, spool
from capecontrol.audit.actor import Actor
from capecontrol.audit.models import AuditLog
from capecontrol.auth.models import User
from capecontrol.config import libpq_url
from capecontrol.extensions import db
from tests.people import make_person

THANDI = Actor("0", "thandi@example.com", "client", "Thandi Nkosi")


def rows(session: Session) -> list[AuditLog]:
    return list(session.scalars(select(AuditLog).order_by(AuditLog.id)))


def spilled(text_on_stderr: str) -> list[dict[str, Any]]:
    return [
        json.loads(line.removeprefix("AUDIT_SPILL "))
        for line in text_on_stderr.splitlines()
        if line.startswith("AUDIT_SPILL ")
    ]


def new_user(email: str = "lerato@example.com") -> User:
    return User(id=ids.new_id(), email=email, email_key=email, password_hash="-", user_role="client")


def record_demo(actor: Actor | None = None) -> None:
    recorder.record(events.DEMO_FILLED, actor=actor, details={"people": 1, "conversations": 2})


@pytest.fixture
def statements(app: Flask) -> Iterator[list[str]]:
    """Collect every statement the application's connection sends."""
    with app.app_context():
        target = db.engines[None]
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(target, "before_cursor_execute", note)
    yield seen
    event.remove(target, "before_cursor_execute", note)


def test_recording_runs_no_sql(app: Flask, statements: list[str]) -> None:
    with app.app_context():
        record_demo()
        assert statements == []
        db.session.rollback()


def test_an_event_takes_exactly_its_own_details(app: Flask) -> None:
    with app.app_context():
        for details in ({}, {"people": 1}, {"people": 1, "conversations": 2, "more": 3}):
            with pytest.raises(ValueError, match="demo_filled takes the details"):
                recorder.record(events.DEMO_FILLED, actor=None, details=details)


def test_an_event_is_written_with_the_commit_of_its_work(app: Flask, db_session: Session) -> None:
    with app.app_context():
        record_demo()
        db.session.commit()
    (row,) = rows(db_session)
    assert (row.event_type, row.event_category, row.success) == ("demo_filled", "system", True)
    assert row.event_metadata == {"people": 1, "conversations": 2}
    assert row.created_at == ids.created_at(row.event_id)


def test_an_event_goes_with_the_rollback_of_its_work(app: Flask, db_session: Session) -> None:
    with app.app_context():
        record_demo()
        db.session.rollback()
        db.session.add(new_user())
        db.session.commit()
    assert rows(db_session) == []


def test_an_event_survives_the_rollback_of_an_inner_savepoint(app: Flask, db_session: Session) -> None:
    with app.app_context():
        record_demo()
        db.session.begin_nested().rollback()
        db.session.commit()
    assert len(rows(db_session)) == 1


def test_many_events_share_one_savepoint_and_one_round_trip(app: Flask, statements: list[str]) -> None:
    with app.app_context():
        for _ in range(70):
            record_demo()
        db.session.commit()
    (sent,) = [statement for statement in statements if "audit_logs" in statement]
    assert sent.count("SAVEPOINT audit;") == 1
    assert sent.count("INSERT INTO audit_logs") == 1


def test_the_main_works_own_error_rises_as_itself(app: Flask, db_session: Session) -> None:
    with app.app_context():
        make_person(app, email="taken@example.com")
        db.session.add(new_user("taken@example.com"))
        record_demo()
        with pytest.raises(IntegrityError):
            db.session.commit()
        db.session.rollback()
    assert "demo_filled" not in [row.event_type for row in rows(db_session)]


def test_the_callers_own_limits_are_put_back(app: Flask) -> None:
    with app.app_context():
        db.session.execute(text("SET LOCAL lock_timeout = '7s'"))
        db.session.execute(text("SET LOCAL statement_timeout = '9s'"))
        limits = []

        def look(session: Session) -> None:
            limits.append(session.scalar(text("SELECT current_setting('lock_timeout')")))
            limits.append(session.scalar(text("SELECT current_setting('statement_timeout')")))

        record_demo()
        event.listen(db.session, "before_commit", look)  # runs after the recorder's own
        try:
            db.session.commit()
        finally:
            event.remove(db.session, "before_commit", look)
    assert limits == ["7s", "9s"]


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        ("ALTER TABLE audit_logs RENAME TO audit_logs_away", "42P01"),
        ("ALTER TABLE audit_logs ADD CHECK (event_type <> 'demo_filled') NOT VALID", "23514"),
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P0001'; END $$; "
            "CREATE TRIGGER refuse BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION refuse()",
            "P0001",
        ),
        ("ALTER TABLE audit_logs DROP COLUMN actor_ref", "42703"),
    ],
    ids=["renamed", "refused by a check", "refused by a trigger", "another shape"],
)
def test_a_failing_audit_table_costs_the_work_nothing_and_hides_nothing(
    committed_app: Flask, capsys: pytest.CaptureFixture[str], fault: str, state: str
) -> None:
    with committed_app.app_context():
        db.session.execute(text(fault))
        db.session.commit()
        before = recorder.health.swallowed
        db.session.add(new_user())
        record_demo(THANDI)
        db.session.commit()
        assert db.session.scalar(select(User.email)) == "lerato@example.com"
        db.session.rollback()
        installation = db.session.scalar(text("SELECT id FROM installation"))
    (line,) = spilled(capsys.readouterr().err)
    assert line["reason"] == state
    assert line["event_type"] == "demo_filled"
    assert line["user_email"] == "thandi@example.com"
    assert line["event_metadata"] == {"people": 1, "conversations": 2}
    assert int(line["xid"]) > 0, "whoever puts it back asks whether this transaction committed"
    assert line["installation"] == installation
    assert recorder.health.swallowed == before + 1
    assert recorder.health.is_degraded


def test_a_locked_audit_table_costs_a_tenth_of_a_second(
    committed_app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    url = libpq_url(committed_app.config["SETTINGS"].database_url)
    with psycopg2.connect(url) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE")
        with committed_app.app_context():
            db.session.add(new_user())
            record_demo()
            db.session.commit()
            assert db.session.scalar(select(User.email)) == "lerato@example.com"
        other.rollback()
    (line,) = spilled(capsys.readouterr().err)
    assert line["reason"] == "55P03"


def test_a_killed_connection_is_never_taken_for_an_audit_failure(
    committed_app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    """P12: nothing was stored, so the caller must hear of it, and no event may claim a success."""
    url = libpq_url(committed_app.config["SETTINGS"].database_url)
    with committed_app.app_context():
        db.session.add(new_user())
        db.session.flush()
        mine = db.session.scalar(text("SELECT pg_backend_pid()"))
        with psycopg2.connect(url) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 2000)", (mine,))
        record_demo()
        with pytest.raises(OperationalError):
            db.session.commit()
        db.session.rollback()
        assert db.session.scalar(select(User.id)) is None
    assert spilled(capsys.readouterr().err) == []


def test_an_operators_cancel_is_raised_and_not_swallowed(committed_app: Flask) -> None:
    """57014 from outside is somebody's wish to stop the work; only the savepoint's own limit is swallowed."""
    url = libpq_url(committed_app.config["SETTINGS"].database_url)
    with committed_app.app_context():
        db.session.execute(
            text(
                "CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_sleep(0.4); RETURN NEW; END $$; "
                "CREATE TRIGGER doze BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION doze()"
            )
        )
        db.session.commit()
        db.session.add(new_user())
        db.session.flush()
        mine = db.session.scalar(text("SELECT pg_backend_pid()"))

        def cancel() -> None:
            with psycopg2.connect(url) as other, other.cursor() as cursor:
                cursor.execute("SELECT pg_cancel_backend(%s)", (mine,))

        timer = threading.Timer(0.15, cancel)
        timer.start()
        record_demo()
        with pytest.raises(DBAPIError) as caught:
            db.session.commit()
        timer.join()
        assert caught.value.orig is not None
        assert caught.value.orig.pgcode == "57014"
        db.session.rollback()


def test_a_slow_audit_table_is_given_up_after_half_a_second(
    committed_app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    with committed_app.app_context():
        db.session.execute(
            text(
                "CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_sleep(5); RETURN NEW; END $$; "
                "CREATE TRIGGER doze BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION doze()"
            )
        )
        db.session.commit()
        db.session.add(new_user())
        record_demo()
        db.session.commit()
        assert db.session.scalar(select(User.id)) is not None
    (line,) = spilled(capsys.readouterr().err)
    assert line["reason"] == "57014"


def test_a_failure_is_written_apart_from_the_work_that_failed(committed_app: Flask) -> None:
    with committed_app.app_context():
        db.session.add(new_user())
        recorder.record_failure(
            events.USER_LOGIN_FAILED,
            actor=None,
            email="thandi@example.com",
            error="wrong",
            details={"method": "page", "reason": "unknown_address"},
        )
        db.session.rollback()
        (row,) = rows(db.session())
        assert (row.success, row.user_email, row.error_message) == (False, "thandi@example.com", "wrong")


def test_recording_a_failure_never_fails_itself(committed_app: Flask, capsys: pytest.CaptureFixture[str]) -> None:
    with committed_app.app_context():
        db.session.execute(text("ALTER TABLE audit_logs RENAME TO audit_logs_away"))
        db.session.commit()
        recorder.record_failure(events.ACCESS_DENIED, actor=THANDI, error="no", details={"wanted": "audit.search"})
    (line,) = spilled(capsys.readouterr().err)
    assert (line["event_type"], line["success"], line["xid"]) == ("access_denied", False, None)


def test_text_that_postgresql_cannot_hold_is_cleaned(app: Flask, db_session: Session) -> None:
    with app.test_request_context("/", headers={"User-Agent": "Odd" * 1000}):
        recorder.record_failure(
            events.ACCESS_DENIED,
            actor=None,
            email="a\x00b\ud800",
            error="x\x00" * 900,
            details={"wanted": "\x00\ud800"},
        )
    (row,) = rows(db_session)
    assert row.user_agent == ("Odd" * 1000)[:1000]
    assert row.event_metadata == {"wanted": "?"}
    assert row.user_email == "ab?"
    assert len(row.error_message or "") == 900


def test_the_record_outlives_the_person(app: Flask, db_session: Session) -> None:
    person = make_person(app)
    db_session.execute(text("DELETE FROM users_v2 WHERE id = :id"), {"id": person.id})
    (row,) = [row for row in rows(db_session) if row.event_type == "user_registration"]
    assert row.user_id is None
    assert (row.actor_ref, row.user_email) == (person.id, person.email)


def test_an_event_knows_its_person(app: Flask, db_session: Session) -> None:
    person = make_person(app)
    (row,) = rows(db_session)
    assert row.user is not None
    assert row.user.email == person.email


def test_a_full_disk_behind_standard_error_undoes_nothing(
    committed_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk:
        def write(self, _text: str) -> None:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    with committed_app.app_context():
        db.session.execute(text("ALTER TABLE audit_logs RENAME TO audit_logs_away"))
        db.session.commit()
        db.session.add(new_user())
        record_demo()
        before = spool.unprinted_total._value.get()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr", FullDisk())
            db.session.commit()
        assert db.session.scalar(select(User.email)) == "lerato@example.com"
        assert spool.unprinted_total._value.get() == before + 1
