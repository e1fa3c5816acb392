"""Connections that are proved alive before their use, and statements that run alone: a transaction each, in one round
trip, within the ladder's limits."""

import math
import time
from contextlib import closing

import psycopg2
import psycopg2.extensions
import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from capecontrol import clock
from capecontrol.config import libpq_url
from capecontrol.database import LOCK_MS, STATEMENT_MS, TRUSTED_SECONDS, is_passing, release_connection, run_alone
from capecontrol.extensions import db

COUNT = "INSERT INTO rate_limit_counters VALUES (%s, 0, 1, 0) RETURNING hits"


def counters(app: Flask) -> list[str]:
    """Return what another connection sees of the table."""
    with closing(psycopg2.connect(libpq_url(app.config["SETTINGS"].database_url))) as other, other.cursor() as cursor:
        cursor.execute("SELECT bucket FROM rate_limit_counters ORDER BY 1")
        return [bucket for (bucket,) in cursor.fetchall()]


def test_what_runs_alone_is_committed_when_it_returns(committed_app: Flask) -> None:
    with committed_app.app_context():
        assert run_alone(COUNT, ("a",)) == (1,)
        assert counters(committed_app) == ["a"]
        assert run_alone("DELETE FROM rate_limit_counters", ()) is None
    assert counters(committed_app) == []


def test_what_runs_alone_has_the_limits_of_the_ladder_and_leaves_none(committed_app: Flask) -> None:
    asked = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
    with committed_app.app_context():
        assert run_alone(asked, ()) == (f"{STATEMENT_MS // 1000}s", f"{LOCK_MS // 1000}s")
        with closing(db.engines[None].raw_connection()) as connection:
            driver = connection.driver_connection
            assert driver is not None and not driver.autocommit, "the next transaction on it is one"
            cursor = connection.cursor()
            cursor.execute(asked)
            assert cursor.fetchone() == ("0", "0")


def test_what_runs_alone_does_not_wait_for_the_disk_and_all_else_does(committed_app: Flask) -> None:
    asked = "SELECT current_setting('synchronous_commit')"
    waits = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET synchronous_commit = on', current_database()); END $$"
    with committed_app.app_context():
        run_alone(waits, ())
        db.engines[None].dispose()
        assert run_alone(asked, ()) == ("off",)
        assert db.session.scalar(text(asked)) == "on", "on the same connection"


def test_what_runs_alone_may_not_take_longer_than_its_caller_waits(committed_app: Flask) -> None:
    started = clock.monotonic()
    clock.set_deadline(started + 0.1)
    try:
        with committed_app.app_context(), pytest.raises(OperationalError) as refused:
            run_alone("SELECT pg_sleep(10)", ())
    finally:
        clock.set_deadline(math.inf)
    assert is_passing(refused.value), "the server's own limit and ours end it in the same moment"
    assert clock.monotonic() - started < 3


@pytest.mark.parametrize(("over", "seconds"), [(-2.0, 2.0), (-0.1, 0.5), (0.3, 0.5), (0.7, 0.05)])
def test_the_steps_after_the_budget_get_half_a_second_together_and_then_next_to_nothing(
    over: float, seconds: float
) -> None:
    clock.set_deadline(clock.monotonic() - over)
    try:
        assert clock.within_budget(3.0) == pytest.approx(seconds, abs=0.05)
    finally:
        clock.set_deadline(math.inf)


def test_what_runs_alone_waits_a_second_for_a_lock(committed_app: Flask) -> None:
    url = libpq_url(committed_app.config["SETTINGS"].database_url)
    with closing(psycopg2.connect(url)) as other, other.cursor() as cursor, committed_app.app_context():
        cursor.execute("LOCK TABLE rate_limit_counters IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(OperationalError) as refused:
            run_alone(COUNT, ("a",))
        other.rollback()
        assert getattr(refused.value.orig, "pgcode", None) == "55P03"
        assert run_alone(COUNT, ("a",)) == (1,), "and the connection is as good as before"


def test_a_refusal_keeps_its_kind_and_hides_what_was_sent(committed_app: Flask) -> None:
    with committed_app.app_context():
        run_alone(COUNT, ("somebody@example.com",))
        with pytest.raises(IntegrityError) as refused:
            run_alone(COUNT, ("somebody@example.com",))
        assert "somebody" not in str(refused.value.statement) + str(refused.value.params)
        assert run_alone("SELECT 1", ()) == (1,)


def test_a_database_that_can_only_be_read_for_a_while_is_trouble_that_passes(committed_app: Flask) -> None:
    with committed_app.app_context():
        db.session.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(DBAPIError) as refused:
            db.session.execute(text("DELETE FROM idempotency_keys"))
        assert is_passing(refused.value)
        db.session.rollback()


def test_a_connection_that_is_cut_meanwhile_is_not_given_to_the_next(committed_app: Flask) -> None:
    with committed_app.app_context():
        with pytest.raises(DBAPIError) as refused:
            run_alone("SELECT pg_terminate_backend(pg_backend_pid())", ())
        assert is_passing(refused.value)
        assert run_alone("SELECT 1", ()) == (1,)
        assert db.session.scalar(text("SELECT 1")) == 1


def ask_elsewhere(app: Flask, statement: str, *values: object) -> object:
    """Return what one statement on a connection apart from the application's says."""
    with closing(psycopg2.connect(libpq_url(app.config["SETTINGS"].database_url))) as other, other.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchone()[0]  # type: ignore[index]


def borrow_one(app: Flask) -> tuple[int, object]:
    """Take a connection and give it back unused; return its server process and the last statement that reached it."""
    with app.app_context(), closing(db.engines[None].raw_connection()) as connection:
        pid = connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
        return pid, ask_elsewhere(app, "SELECT query FROM pg_stat_activity WHERE pid = %s", pid)


def test_a_connection_that_has_just_answered_is_not_asked_whether_it_lives(committed_app: Flask) -> None:
    with committed_app.app_context():
        run_alone("SELECT 'the last'", ())
    pid, last = borrow_one(committed_app)
    assert "the last" in str(last)
    time.sleep(TRUSTED_SECONDS + 0.1)
    assert borrow_one(committed_app) == (pid, "SELECT 1"), "after a while it is"


@pytest.mark.parametrize("later", [0, TRUSTED_SECONDS + 0.1])
def test_nobody_meets_a_connection_that_ended_while_it_was_idle(committed_app: Flask, later: float) -> None:
    with committed_app.app_context():
        run_alone("SELECT 1", ())
    pid, _ = borrow_one(committed_app)
    ask_elsewhere(committed_app, "SELECT pg_terminate_backend(%s, 5000)", pid)
    time.sleep(later)
    with committed_app.app_context():
        assert run_alone("SELECT 'here'", ()) == ("here",)
        assert db.session.scalar(text("SELECT 1")) == 1
    assert borrow_one(committed_app)[0] != pid


def end_own_connection(app: Flask) -> None:
    """Use the session, and have the server end its connection."""
    ask_elsewhere(app, "SELECT pg_terminate_backend(%s, 5000)", db.session.scalar(text("SELECT pg_backend_pid()")))


def test_an_answer_stands_though_its_connection_ends_after_the_last_statement(committed_app: Flask) -> None:
    @committed_app.get("/read")
    def read() -> str:
        end_own_connection(committed_app)
        return "read"

    before = len(db.session.registry.registry)
    answer = committed_app.test_client().get("/read")
    assert (answer.status_code, answer.text) == (200, "read")
    assert len(db.session.registry.registry) == before, "and its session is gone with it"
    with committed_app.app_context():
        assert db.session.scalar(text("SELECT 1")) == 1
        assert db.engines[None].pool.checkedout() == 1  # type: ignore[attr-defined]


def test_what_a_lost_connection_had_not_committed_is_said_to_be_lost(committed_app: Flask) -> None:
    with committed_app.app_context():
        end_own_connection(committed_app)
        with pytest.raises(OperationalError) as refused:
            db.session.commit()
        assert is_passing(refused.value)
        release_connection()
        end_own_connection(committed_app)
        release_connection()
        assert db.session.scalar(text("SELECT 1")) == 1


def test_no_connection_is_held_afterwards(committed_app: Flask) -> None:
    with committed_app.app_context():
        for _ in range(committed_app.config["SETTINGS"].database_pool * 2):
            run_alone("SELECT 1", ())
        assert db.engines[None].pool.checkedout() == 0  # type: ignore[attr-defined]


def test_where_no_connection_is_free_it_says_so_within_a_second_or_so(committed_app: Flask) -> None:
    with committed_app.app_context():
        held = [db.engines[None].connect() for _ in range(committed_app.config["SETTINGS"].database_pool)]
        started = time.monotonic()
        with pytest.raises(Exception, match="QueuePool") as refused:
            run_alone("SELECT 1", ())
        assert time.monotonic() - started < 3
        assert is_passing(refused.value)  # type: ignore[arg-type]
        for connection in held:
            connection.close()
