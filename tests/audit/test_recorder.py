"""The recorder: its rules (R) and the pitfalls it was built around (P), each as a sentence."""

import secrets
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from flask import Flask
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from capecontrol import clock, ids
from capecontrol.audit import events, inserts, recorder, spilling, spool
from capecontrol.audit.actor import Actor
from capecontrol.audit.models import AuditLog
from capecontrol.auth.models import User
from capecontrol.config import libpq_url
from capecontrol.extensions import db
from tests.audit.faults import act, acts_recorded, away, new_user, record_demo, run, spilled, trigger, value
from tests.people import make_person

THANDI = Actor("0", "thandi@example.com", "client", "Thandi Nkosi")


def rows(session: Session) -> list[AuditLog]:
    return list(session.scalars(select(AuditLog).order_by(AuditLog.id)))


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
    """P14: the hooks of a transaction run for its savepoints as well."""
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
    """P7: after RELEASE a limit of the savepoint would hold for the rest of the transaction."""
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
        before = spilling.health.swallowed
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
    assert spilling.health.swallowed == before + 1
    assert spilling.health.is_degraded


@pytest.mark.parametrize(
    "limit",
    [
        "CREATE INDEX ON audit_logs (event_description)",
        "ALTER TABLE audit_logs ALTER COLUMN event_description SET STORAGE PLAIN",
    ],
    ids=["for an index", "for a page"],
)
def test_a_row_that_is_too_large_costs_the_work_nothing(
    committed_app: Flask, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    """54000: the transaction goes on all the same."""
    with committed_app.app_context():
        db.session.execute(text(limit))
        db.session.commit()
        db.session.add(new_user())
        recorder.record(
            events.DEMO_FILLED,
            actor=None,
            description=secrets.token_hex(10_000),  # what does not compress
            details={"people": 1, "conversations": 2},
        )
        db.session.commit()
        assert db.session.scalar(select(User.email)) == "lerato@example.com"
    (line,) = spilled(capsys.readouterr().err)
    assert line["reason"] == "54000"


def test_a_locked_audit_table_costs_a_tenth_of_a_second(
    committed_app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    """P5, P6: without a limit of its own it would wait as long as the lock is held."""
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


def test_an_object_added_while_the_events_are_written_is_stored(committed_app: Flask) -> None:
    """P2: inside a savepoint that is rolled back it would go with it, and the commit would still succeed."""

    def add(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "SAVEPOINT audit" in statement and not db.session.new:
            db.session.add(new_user("late@example.com"))

    with committed_app.app_context():
        engine = db.engine
        event.listen(engine, "before_cursor_execute", add)
        try:
            with away(committed_app):
                db.session.add(new_user())
                record_demo()
                db.session.commit()
        finally:
            event.remove(engine, "before_cursor_execute", add)
    assert value(committed_app, "SELECT count(*) FROM users_v2") == 2


def test_the_main_works_own_error_rises_as_itself_without_autoflush(committed_app: Flask) -> None:
    """P1, P3: what is not flushed yet must not fail inside the recorder's own try."""
    make_person(committed_app, email="taken@example.com")
    with committed_app.app_context(), db.session.no_autoflush:
        record_demo()
        db.session.add(new_user("taken@example.com"))
        with pytest.raises(IntegrityError):
            db.session.commit()
        db.session.rollback()
        db.session.add(new_user("free@example.com"))
        db.session.commit()  # and no PendingRollbackError
    assert acts_recorded(committed_app) == []


def test_a_failing_audit_keeps_everything_the_main_work_did(committed_app: Flask) -> None:
    """P4: what was flushed, what was not yet, and what a statement did."""
    make_person(committed_app, email="old@example.com")
    with away(committed_app), committed_app.app_context():
        flushed, changed = new_user("flushed@example.com"), new_user("changed@example.com")
        db.session.add_all([flushed, changed])
        db.session.flush()
        changed.full_name = "Changed Later"
        db.session.execute(text("UPDATE users_v2 SET full_name = 'By Statement' WHERE email = 'old@example.com'"))
        record_demo()
        db.session.commit()
        names = db.session.scalars(select(User.full_name).order_by(User.email)).all()
    assert names == ["Changed Later", None, "By Statement"]


@pytest.mark.parametrize("fault", ["swallowed", "with the breaker open", "written"])
def test_a_limit_on_the_whole_transaction_still_holds_after_it(committed_app: Flask, fault: str) -> None:
    """P8: PostgreSQL forgets transaction_timeout after an error that was rolled back to a savepoint."""
    if value(committed_app, "SELECT current_setting('transaction_timeout', true)") is None:
        pytest.skip("before PostgreSQL 17 there is no such limit")

    def linger(session: Session) -> None:
        session.execute(text("SELECT pg_sleep(2)"))

    if fault != "written":
        run(committed_app, trigger("RAISE 'no';"))
    if fault == "with the breaker open":
        for number in range(6):
            act(committed_app, number)
    with committed_app.app_context():
        db.session.execute(text("SET LOCAL transaction_timeout = '700ms'"))
        db.session.add(new_user())
        record_demo()
        event.listen(db.session, "before_commit", linger)  # runs after the recorder's own
        try:
            with pytest.raises(DBAPIError) as caught:
                db.session.commit()
        finally:
            event.remove(db.session, "before_commit", linger)
        assert getattr(caught.value.orig, "pgcode", None) in ("25P04", None)
        assert caught.value.connection_invalidated
        db.session.rollback()


def test_without_a_limit_on_the_whole_transaction_none_appears(committed_app: Flask) -> None:
    found = []

    def look(session: Session) -> None:
        found.append(session.scalar(text("SELECT current_setting('transaction_timeout', true)")))

    with away(committed_app), committed_app.app_context():
        db.session.add(new_user())
        record_demo()
        event.listen(db.session, "before_commit", look)
        try:
            db.session.commit()
        finally:
            event.remove(db.session, "before_commit", look)
    assert found in (["0"], [None])


def test_the_lock_on_a_persons_row_costs_a_tenth_of_a_second_and_no_act(
    committed_app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    """P9: the foreign key makes the event wait for whoever changes the person, also where the table is free."""
    person = make_person(committed_app)
    url = libpq_url(committed_app.config["SETTINGS"].database_url)
    with psycopg2.connect(url) as other, other.cursor() as cursor:
        cursor.execute("SELECT 1 FROM users_v2 WHERE id = %s FOR UPDATE", (person.id,))
        act(committed_app, actor=person.actor)
        other.rollback()
    assert [line["reason"] for line in spilled(capsys.readouterr().err)] == ["55P03"]
    assert value(committed_app, "SELECT count(*) FROM users_v2 WHERE email LIKE 'act%'") == 1


def test_no_foreign_key_of_the_record_fails_only_at_the_commit(committed_app: Flask) -> None:
    """P10: a deferred one would be released with the savepoint, and then take the main work with it."""
    deferrable = run(
        committed_app,
        "SELECT conname FROM pg_constraint WHERE conrelid = 'audit_logs'::regclass AND (condeferrable OR condeferred)",
    )
    assert deferrable == []


def test_an_act_of_thousands_of_events_takes_one_savepoint(app: Flask, statements: list[str]) -> None:
    """P11, R14: beyond 64 subtransactions PostgreSQL's snapshots become slow for everybody."""
    with app.app_context():
        for number in range(5001):
            record_demo(people=number)
        db.session.commit()
        assert db.session.scalar(text("SELECT count(*) FROM audit_logs")) == 5001
    sent = [statement for statement in statements if "audit_logs" in statement and "INSERT" in statement]
    assert sum(statement.count("SAVEPOINT audit;") for statement in sent) == 1
    assert sum(statement.count("RELEASE SAVEPOINT audit") for statement in sent) == 1
    assert max(statement.count("(%s") for statement in "".join(sent).split("INSERT INTO")) == inserts.ROWS_A_STATEMENT
    assert len(sent) == 3


def test_an_act_of_thousands_of_events_is_recorded_as_a_whole_or_waits_as_a_whole(
    committed_app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    run(committed_app, trigger("IF NEW.event_metadata->>'people' = '4999' THEN RAISE 'no'; END IF;"))
    with committed_app.app_context():
        for number in range(5000):
            record_demo(people=number)
        db.session.commit()
    assert acts_recorded(committed_app) == []
    assert len(spilled(capsys.readouterr().err)) == 5000


def test_a_serialisation_failure_is_raised_for_whoever_tries_again(
    committed_app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    """P13: swallowed, it would come back at the commit, where nobody tries again."""
    run(committed_app, trigger("RAISE 'no' USING ERRCODE = '40001';"))
    with pytest.raises(OperationalError) as caught:
        act(committed_app)
    assert getattr(caught.value.orig, "pgcode", None) == "40001"
    assert spilled(capsys.readouterr().err) == []
    assert value(committed_app, "SELECT count(*) FROM users_v2") == 0


@pytest.mark.parametrize("state", ["57P01", "25P02", "08006", "XX000", "40001", "72000"])
def test_what_dooms_the_transaction_or_nobody_knows_is_raised(committed_app: Flask, state: str) -> None:
    run(committed_app, trigger(f"RAISE 'no' USING ERRCODE = '{state}';"))
    with pytest.raises(DBAPIError) as caught:
        act(committed_app)
    assert getattr(caught.value.orig, "pgcode", None) == state


@pytest.mark.parametrize(
    "state",
    ["22001", "23502", "23503", "23505", "23514", "42501", "53100", "53200", "0A000", "40P01", "55P03", "P0001"],
)
def test_what_leaves_the_transaction_usable_is_swallowed(
    committed_app: Flask, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    run(committed_app, trigger(f"RAISE 'no' USING ERRCODE = '{state}';"))
    act(committed_app)
    assert [line["reason"] for line in spilled(capsys.readouterr().err)] == [state]
    assert value(committed_app, "SELECT count(*) FROM users_v2") == 1


def test_recording_a_failure_commits_nobody_elses_work(committed_app: Flask) -> None:
    """P24, P18: the event of what failed is stored, and the work that failed is not."""
    with committed_app.app_context():
        db.session.add(new_user())
        db.session.flush()
        recorder.record_failure(events.ACCESS_DENIED, actor=None, error="no", details={"wanted": "audit.search"})
        assert db.session().in_transaction()
        db.session.rollback()
    assert value(committed_app, "SELECT count(*) FROM users_v2") == 0
    assert value(committed_app, "SELECT count(*) FROM audit_logs") == 1


def test_the_time_is_that_of_the_act_and_not_of_its_transaction(committed_app: Flask) -> None:
    """P25: PostgreSQL's now() is when the transaction began."""
    with committed_app.app_context():
        db.session.execute(text("SELECT pg_sleep(0.05)"))
        before = clock.now().replace(microsecond=0)
        record_demo()
        after = clock.now()
        db.session.commit()
        (row,) = rows(db.session())
    assert before <= row.created_at <= after
    assert row.recorded_at >= row.created_at


def test_the_breakers_place_is_given_back_whatever_happens(committed_app: Flask) -> None:
    """A try that ends with the transaction's death must not count as under way for ever."""
    run(committed_app, trigger("RAISE 'no' USING ERRCODE = '40001';"))
    for _ in range(20):
        with pytest.raises(OperationalError):
            act(committed_app)
    assert recorder.breaker._trying == 0
    assert recorder.breaker.seconds_open == 0


@pytest.mark.parametrize("kind", sorted(events.all_events()))
def test_every_event_says_what_happens_when_it_cannot_be_written(kind: str) -> None:
    durability = events.durability_of(kind)
    assert durability in ("must", "durable", "best-effort")
    if events.all_events()[kind].category == "admin":
        assert durability == "must", "what administrators do to people is on record, or not done (R11)"
