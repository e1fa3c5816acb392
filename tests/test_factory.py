"""The factory: assembles only, and refuses a mapping that cannot work."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import psycopg2
import pytest
from flask import Flask
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from capecontrol import create_app, database
from capecontrol.auth.models import User
from capecontrol.config import libpq_url
from capecontrol.conversations.models import Conversation
from capecontrol.extensions import db
from tests.conftest import dispose, settings_for
from tests.live_server import REPOSITORY, SECRET_KEY, environment_of_processes
from tests.people import make_person

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
INCIDENT = """
from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship
import capecontrol
from capecontrol.config import Settings
from capecontrol.extensions import db

class Report(db.Model):
    __tablename__ = "reports"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[str] = mapped_column(Text, ForeignKey("{table}.id"))
    {relationship}

capecontrol.create_app(Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing", secret_key="{key}"))
print("started")
"""


def start_with(table: str, relationship: str = "") -> subprocess.CompletedProcess[str]:
    program = INCIDENT.format(table=table, relationship=relationship, key=SECRET_KEY)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("table", "relationship"),
    [
        ("users", ""),
        ("users", 'user: Mapped["User"] = relationship("User")'),
        ("users_v2", 'user: Mapped["Person"] = relationship("Person")'),
    ],
    ids=["a key to a table nobody defines", "and a relationship over it", "a relationship to nobody"],
)
def test_the_incidents_mapping_cannot_start(table: str, relationship: str) -> None:
    done = start_with(table, relationship)
    assert done.returncode != 0
    assert "started" not in done.stdout


def test_the_same_mapping_put_right_starts() -> None:
    assert "started" in start_with("users_v2", 'user: Mapped["User"] = relationship("User")').stdout


def test_building_touches_no_database() -> None:
    app = create_app(settings_for(NOWHERE))
    assert app.test_client().get("/healthz").status_code == 200
    dispose(app)


def test_a_conversation_knows_its_person(app: Flask) -> None:
    person = make_person(app)
    with app.app_context():
        db.session.add(Conversation(user_id=person.id, title="Tides"))
        db.session.commit()
        conversation = db.session.scalars(select(Conversation)).one()
        assert conversation.user.email == person.email


def test_each_transaction_has_its_limits_and_no_connection_keeps_them(committed_app: Flask) -> None:
    with committed_app.app_context():
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        inside = [db.session.scalar(text(f"SHOW {name}")) for name in names]
        db.session.rollback()
        assert inside == ["3s", "1s", "5s"]
        with database.short_transaction() as connection:
            assert connection.scalar(text("SHOW statement_timeout")) == "3s"
    with psycopg2.connect(libpq_url(committed_app.config["SETTINGS"].database_url)) as other, other.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


def test_moments_come_in_utc_whatever_zone_the_server_is_in(committed_app: Flask) -> None:
    url = committed_app.config["SETTINGS"].database_url
    with psycopg2.connect(libpq_url(url)) as other, other.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {make_url(url).database} SET timezone = 'Asia/Tokyo'")
    with committed_app.app_context():
        db.engine.dispose()
        moment = db.session.scalar(text("SELECT timestamptz '2026-11-24 23:30:00Z'"))
    assert (moment.day, moment.utcoffset()) == (24, timedelta(0))


def test_a_statement_that_takes_too_long_is_cancelled(committed_app: Flask) -> None:
    with committed_app.app_context(), pytest.raises(DBAPIError, match="statement timeout"):
        db.session.execute(text("SELECT pg_sleep(20)"))


def test_a_lock_that_is_not_given_is_given_up(committed_app: Flask) -> None:
    person = make_person(committed_app)
    url = libpq_url(committed_app.config["SETTINGS"].database_url)
    with psycopg2.connect(url) as other, other.cursor() as cursor:
        cursor.execute("SELECT 1 FROM users_v2 FOR UPDATE")
        with committed_app.app_context(), pytest.raises(DBAPIError, match="lock timeout"):
            db.session.get(User, person.id, with_for_update=True)
        other.rollback()


def test_a_pool_that_is_used_up_says_so_within_its_second(committed_app: Flask) -> None:
    with committed_app.app_context():
        size = committed_app.config["SETTINGS"].database_pool
        held = [db.engine.connect() for _ in range(size)]
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            db.engine.connect()
        assert time.monotonic() - started < 5, "nobody waits the library's thirty seconds"
        for connection in held:
            connection.close()


def test_the_separate_pool_answers_while_the_requests_pool_is_used_up(committed_app: Flask) -> None:
    with committed_app.app_context():
        held = [db.engine.connect() for _ in range(committed_app.config["SETTINGS"].database_pool)]
        with database.short_transaction() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        for connection in held:
            connection.close()


def test_the_workers_driver_is_the_binary_one() -> None:
    import psycopg

    assert psycopg.pq.__impl__ == "binary"


def test_a_database_that_freezes_is_waited_for_only_so_long(committed_app: Flask) -> None:
    """No limit of the server's holds while the server itself stands still."""
    with committed_app.app_context():
        process = db.session.scalar(text("SELECT pg_backend_pid()"))
        os.kill(process, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(DBAPIError) as caught:
                db.session.execute(text("SELECT 1"))
            assert time.monotonic() - started < 8
            assert caught.value.connection_invalidated
            assert database.is_passing(caught.value)
        finally:
            os.kill(process, signal.SIGCONT)
        db.session.rollback()
        assert db.session.scalar(text("SELECT 1")) == 1, "the next one gets a connection that answers"


def test_a_database_errors_text_stays_out_of_the_log(committed_app: Flask) -> None:
    """PostgreSQL's DETAIL quotes the row, and SQLAlchemy the parameters; both hold what people wrote."""
    person = make_person(committed_app)
    with committed_app.app_context():
        with pytest.raises(DBAPIError) as caught:
            db.session.execute(
                text("UPDATE users_v2 SET user_role = 'king' WHERE email = :email"), {"email": person.email}
            )
        words = str(database.in_safe_words(caught.value))
        assert "23514" in words
        for private in (person.email, "argon2id", "king"):
            assert private not in words
        wrapped = RuntimeError("outside")
        wrapped.__cause__ = caught.value
        assert person.email not in str(database.in_safe_words(wrapped))


def test_the_garbage_collector_leaves_alone_what_stood_before_the_first_request() -> None:
    program = "import gc, wsgi; print(gc.isenabled(), gc.get_freeze_count() > 100_000)"
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=environment_of_processes(NOWHERE),
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "True True\n"
