"""The check of an address: one look-up that nothing else holds up, recorded by the minute, with typing mistakes."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
import structlog
from bs4 import BeautifulSoup
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from capecontrol import clock, create_app, database, each_second
from capecontrol.audit.models import AuditLog
from capecontrol.auth import availability
from capecontrol.auth.availability import Checks
from capecontrol.config import libpq_url
from capecontrol.extensions import db
from tests.conftest import dispose, settings_for
from tests.people import Person, make_person

PATH = "/api/auth/v2/validate-email"
FREE = "free@example.com"


@pytest.fixture(autouse=True)
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    """Return counts of this test alone; the process keeps one for all of its life."""
    fresh = Checks()
    monkeypatch.setattr(availability, "checks", fresh)
    return fresh


def check(client: FlaskClient, email: str) -> dict:
    answer = client.get(PATH, query_string={"email": email})
    assert answer.status_code == 200
    assert answer.mimetype == "application/json"
    return answer.json


def record_now(app: Flask) -> None:
    with app.app_context():
        availability.record_checks(is_last=True)


def recorded(app: Flask) -> list[dict]:
    with app.app_context():
        found = db.session.scalars(select(AuditLog).where(AuditLog.event_type == "email_checks"))
        return [row.event_metadata for row in found]


# Typing mistakes.


def test_a_free_address_that_looks_mistyped_is_free_and_asked_about(client: FlaskClient) -> None:
    assert check(client, "naledi@gmail.con") == {
        "available": True,
        "message": "This address is available. Did you mean naledi@gmail.com?",
        "suggestion": "naledi@gmail.com",
    }


def test_what_is_no_address_for_a_slip_is_still_none_and_asked_about(client: FlaskClient) -> None:
    answer = check(client, "naledi@gmail,com")
    assert (answer["available"], answer["reason"]) == (False, "invalid_format")
    assert answer["suggestion"] == "naledi@gmail.com"
    assert answer["message"].endswith(". Did you mean naledi@gmail.com?")


def test_an_account_with_an_odd_address_is_no_mistake(app: Flask, client: FlaskClient) -> None:
    make_person(app, email="naledi@gmial.com")
    assert check(client, "naledi@gmial.com") == {
        "available": False,
        "reason": "already_exists",
        "message": "This address already has an account.",
    }


def test_nothing_is_suggested_where_nothing_is_odd(client: FlaskClient) -> None:
    assert check(client, FREE) == {"available": True, "message": "This address is available."}


@pytest.mark.parametrize("email", ["", "   "])
def test_an_empty_address_gets_one_answer_by_both_methods(client: FlaskClient, email: str) -> None:
    asked = [client.get(PATH, query_string={"email": email}), client.post(PATH, json={"email": email})]
    answer = {"available": False, "reason": "invalid_format", "message": "Enter your e-mail address."}
    assert [(got.status_code, got.json) for got in asked] == [(200, answer)] * 2
    assert [client.get(PATH).status_code, client.post(PATH, json={}).status_code] == [422] * 2, (
        "a mistake of the client"
    )


def test_an_address_that_cannot_be_read_is_none(client: FlaskClient) -> None:
    answer = client.get(f"{PATH}?email=%ff%fe@example.org").json
    assert (answer["available"], answer["reason"]) == (False, "invalid_format")
    assert answer["message"] == "A character of this address could not be read. Please type it again."


def test_the_form_says_it_in_the_servers_words(client: FlaskClient) -> None:
    form = BeautifulSoup(client.get("/register").text, "html.parser")
    assert form.find(id="email-availability")["data-free"] == check(client, FREE)["message"]


def test_the_older_page_is_asked_too(client: FlaskClient) -> None:
    answer = client.post("/api/auth/register/step1", json={"email": "naledi@hotmial.com"}).json
    assert (answer["success"], answer["suggestion"]) == (True, "naledi@hotmail.com")


# Errors, in the vocabulary of a check.


@pytest.mark.parametrize("email", ["a" * 2_000 + "@example.com", "a" * 300_000, "@", " "])
def test_what_is_too_long_or_odd_for_an_address_is_an_answer_and_no_error(client: FlaskClient, email: str) -> None:
    for path in (PATH, "/api/auth/register/step1"):
        answer = client.post(path, json={"email": email})
        assert (answer.status_code, answer.json["available"], answer.json["reason"]) == (200, False, "invalid_format")
        assert answer.json["message"]
    assert check(client, email[:5_000])["reason"] == "invalid_format"


@pytest.mark.parametrize("body", [{}, {"email": None}, {"email": 5}])
def test_a_check_without_an_address_says_so_in_both_forms(client: FlaskClient, body: dict) -> None:
    answers = [client.get(PATH), client.post(PATH, json=body), client.post("/api/auth/register/step1", json=body)]
    for answer in answers:
        assert answer.status_code == 422
        assert (answer.json["available"], answer.json["reason"]) == (False, "invalid_format")
        assert answer.json["errors"].keys() == {"email"}
        assert answer.json["detail"] == answer.json["message"]
    assert answers[2].json["success"] is False


def test_a_check_that_came_too_late_blocks_nobody(client: FlaskClient) -> None:
    """The budget is looked at before any view is reached."""
    late = {"X-Request-Start": str(int((time.time() - 9) * 1000))}
    answers = [
        client.get(PATH, query_string={"email": FREE}, headers=late),
        client.post(PATH, json={"email": FREE}, headers=late),
        client.post("/api/auth/register/step1", json={"email": FREE}, headers=late),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json["available"], answer.json["reason"]) == (503, None, "validation_error")
        assert answer.json["detail"] == answer.json["message"]
        assert int(answer.headers["Retry-After"]) >= 1
    assert answers[2].json["success"] is False


# The look-up.


def test_a_check_is_one_statement_and_one_round_trip_on_a_pool_of_its_own(
    committed_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = make_person(committed_app)
    client = committed_app.test_client()
    check(client, FREE)
    with committed_app.app_context():
        seen: list[str] = []
        original = database._first_row
        monkeypatch.setattr(
            database, "_first_row", lambda connection, *rest: seen.append(rest[0]) or original(connection, *rest)
        )
        held = [db.engines[None].connect() for _ in range(committed_app.config["SETTINGS"].database_pool)]
        held.append(db.engines[database.AUDIT].connect())
        assert check(client, person.email)["available"] is False
        assert seen == ["SET LOCAL statement_timeout = 1000; SELECT 1 FROM users_v2 WHERE email_key = %s"]
        for connection in held:
            connection.close()


def test_a_neutral_answer_is_the_same_for_known_and_unknown_and_takes_the_same_look_up(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = make_person(app)
    asked: list[object] = []
    original = availability.look_up
    monkeypatch.setattr(availability, "look_up", lambda *call: asked.append(call) or original(*call))
    with app.app_context():
        known, unknown = (
            availability.check_email(address, admit=lambda _: None, is_neutral=True) for address in (person.email, FREE)
        )
    assert known == unknown
    assert known.available
    assert len(asked) == 2


def test_a_look_up_uses_the_unique_index(committed_app: Flask) -> None:
    with committed_app.app_context():
        db.session.execute(
            text(
                "INSERT INTO users_v2 (id, email, email_key, user_role) "
                "SELECT 'p' || n, 'p' || n || '@example.com', 'p' || n || '@example.com', 'client' "
                "FROM generate_series(1, 2000) AS n"
            )
        )
        db.session.execute(text("ANALYZE users_v2"))
        plan = "\n".join(db.session.scalars(text("EXPLAIN SELECT 1 FROM users_v2 WHERE email_key = 'p7@example.com'")))
        db.session.rollback()
    assert "uq_users_v2_email_key" in plan
    assert "Seq Scan" not in plan


def test_a_connection_of_the_check_is_autocommit_and_keeps_no_limit(committed_app: Flask) -> None:
    with committed_app.app_context():
        assert database.look_up("SELECT current_setting('statement_timeout')", ()) == ("1s",)
        committed_app.extensions[database.KEPT_FOR_LOOK_UPS].close()
        with closing(db.engines[database.CHECK].raw_connection()) as connection:
            assert connection.driver_connection is not None
            assert connection.driver_connection.autocommit
            cursor = connection.cursor()
            cursor.execute("SELECT current_setting('statement_timeout')")
            assert cursor.fetchone() == ("0",), "a limit of the session would go astray behind a transaction pooler"
            assert connection.driver_connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE


def test_a_look_up_that_has_to_wait_gives_up_after_its_second(committed_app: Flask) -> None:
    url = libpq_url(committed_app.config["SETTINGS"].database_url)
    client = committed_app.test_client()
    with closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE users_v2 IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        answer = client.get(PATH, query_string={"email": FREE})
        assert time.monotonic() - started < 3
    assert answer.status_code == 503
    assert (answer.json["available"], answer.json["reason"]) == (None, "validation_error")
    assert answer.headers["Retry-After"]
    assert check(client, FREE)["available"] is True


def test_a_killed_connection_does_not_show(committed_app: Flask) -> None:
    client = committed_app.test_client()
    check(client, FREE)
    with committed_app.app_context():
        (process,) = database.look_up("SELECT pg_backend_pid()", ()) or (0,)
        db.session.execute(text("SELECT pg_terminate_backend(:process, 5000)"), {"process": process})
        db.session.rollback()
    assert check(client, FREE)["available"] is True
    with committed_app.app_context():
        assert database.look_up("SELECT pg_backend_pid()", ()) != (process,)


def test_a_database_that_is_away_is_said_once_and_not_tried_for_long() -> None:
    app = create_app(settings_for("postgresql://nobody@127.0.0.1:1/nothing"))
    started = time.monotonic()
    with structlog.testing.capture_logs() as lines:
        answer = app.test_client().get(PATH, query_string={"email": FREE})
    assert time.monotonic() - started < 3
    assert answer.status_code == 503
    assert [line["kind"] for line in lines if line["event"] == "email_not_checked"] == ["OperationalError"]
    assert FREE not in str(lines)
    dispose(app)


def test_many_at_once_share_the_small_pool(committed_app: Flask) -> None:
    person = make_person(committed_app)
    found: list[bool] = []

    def ask() -> None:
        client = committed_app.test_client()
        found.extend(check(client, email)["available"] for email in (person.email, FREE) * 10)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(False) == found.count(True) == 120


# The record: a minute's checks are one event.


def test_checks_are_not_recorded_one_by_one(client: FlaskClient, db_session: Session, person: Person) -> None:
    before = db_session.query(AuditLog).count()
    for email in (person.email, FREE, "no address"):
        check(client, email)
    assert db_session.query(AuditLog).count() == before


def test_a_minutes_checks_are_one_event(
    app: Flask, client: FlaskClient, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    for email in (person.email, FREE, "no address", person.email):
        check(client, email)
    client.post(PATH, json={"email": FREE})
    client.post("/api/auth/register/step1", json={"email": FREE})
    with app.app_context():
        availability.record_checks()
    assert recorded(app) == [], "the minute is not over"
    later = clock.monotonic() + availability.RECORDED_EVERY_SECONDS
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    with app.app_context():
        availability.record_checks()
        availability.record_checks()
    assert recorded(app) == [{"checked": 6, "taken": 2, "refused": 0}]


def test_the_event_names_nobody(app: Flask, client: FlaskClient, person: Person) -> None:
    check(client, person.email)
    record_now(app)
    with app.app_context():
        row = db.session.scalars(select(AuditLog).where(AuditLog.event_type == "email_checks")).one()
    assert row.success
    assert (row.user_id, row.user_email, row.ip_address, row.request_id) == (None, None, None, None)


def test_checks_turned_away_are_counted(committed_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    from capecontrol.web import rate_limits

    each_second.of(committed_app).close()
    committed_app.config["SETTINGS"].ratelimit_enabled = True
    monkeypatch.setattr(rate_limits, "CHECK_EMAIL", rate_limits.Limit("check_email", hits=2, seconds=600, is_hot=True))
    client = committed_app.test_client()
    statuses = [client.get(PATH, query_string={"email": FREE}).status_code for _ in range(5)]
    assert statuses == [200, 200, 429, 429, 429]
    record_now(committed_app)
    assert recorded(committed_app) == [{"checked": 2, "taken": 0, "refused": 3}]


def test_nobody_asking_is_no_event(app: Flask) -> None:
    record_now(app)
    assert recorded(app) == []


def test_counts_that_cannot_be_recorded_wait(committed_app: Flask) -> None:
    each_second.of(committed_app).close()
    client = committed_app.test_client()
    check(client, FREE)
    with committed_app.app_context():
        settings = committed_app.config["SETTINGS"]
        held = [db.engines[None].connect() for _ in range(settings.database_pool)]
        with structlog.testing.capture_logs() as lines:
            availability.record_checks(is_last=True)
        for connection in held:
            connection.close()
    assert [line["checked"] for line in lines if line["event"] == "email_checks_not_recorded"] == [1]
    check(client, FREE)
    record_now(committed_app)
    assert recorded(committed_app) == [{"checked": 2, "taken": 0, "refused": 0}]


def test_a_broken_record_spills_the_counts_like_any_event(
    committed_app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    each_second.of(committed_app).close()
    check(committed_app.test_client(), FREE)
    with committed_app.app_context():
        db.session.execute(text("ALTER TABLE audit_logs RENAME TO audit_logs_away"))
        db.session.commit()
    record_now(committed_app)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("AUDIT_SPILL")]
    assert json.loads(lines[0].removeprefix("AUDIT_SPILL "))["event_metadata"] == {
        "checked": 1,
        "taken": 0,
        "refused": 0,
    }


# What happens each second, beside the requests.


@pytest.fixture
def quick_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(each_second, "_PAUSE_SECONDS", 0.01)


@pytest.fixture
def rounds(committed_app: Flask, quick_second: None) -> Iterator[list[bool]]:
    """Give the application a work that only notes its rounds."""
    noted: list[bool] = []
    each_second.init_app(committed_app, (noted.append,))
    yield noted
    each_second.of(committed_app).close()


def until(true: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.01)
    assert true()  # type: ignore[operator]


def test_the_thread_begins_with_the_first_count_and_ends_with_a_last_round(
    committed_app: Flask, rounds: list[bool]
) -> None:
    own = each_second.of(committed_app)
    assert own._thread is None, "a process that checks no address has no thread"
    check(committed_app.test_client(), FREE)
    until(lambda: len(rounds) > 2)
    thread = own._thread
    own.wake()
    assert own._thread is thread, "one for all"
    own.close()
    assert thread is not None
    assert not thread.is_alive()
    assert rounds[-1] is True
    assert not any(rounds[:-1])
    before = len(rounds)
    check(committed_app.test_client(), FREE)
    own.close()
    assert len(rounds) == before, "what is closed stays closed"


def test_a_round_that_fails_is_said_and_ends_nothing(committed_app: Flask, quick_second: None) -> None:
    noted: list[bool] = []

    def broken(_is_last: bool) -> None:
        raise ZeroDivisionError

    each_second.init_app(committed_app, (broken, noted.append))
    own = each_second.of(committed_app)
    with structlog.testing.capture_logs() as lines:
        with committed_app.app_context():
            each_second.wake()
        until(lambda: len(noted) > 2)
        own.close()
    assert {line["work"] for line in lines if line["event"] == "each_second_failed"} == {"broken"}


def test_a_round_that_hangs_holds_no_process_up_and_is_said(
    committed_app: Flask, quick_second: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(each_second, "_LONGEST_END_SECONDS", 0.2)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(_is_last: bool) -> None:
        hangs.set()
        goes_on.wait(10)

    each_second.init_app(committed_app, (hang,))
    own = each_second.of(committed_app)
    own.wake()
    thread = own._thread
    assert thread is not None
    assert hangs.wait(10)
    with structlog.testing.capture_logs() as lines:
        own.close()
    assert not goes_on.is_set(), "nobody waited for it"
    assert [line["event"] for line in lines] == ["each_second_hangs"]
    goes_on.set()
    thread.join(10)


def test_a_round_whose_connection_ends_is_said_and_ends_nothing(committed_app: Flask, quick_second: None) -> None:
    noted: list[bool] = []

    def cut_off(_is_last: bool) -> None:
        pid = db.session.scalar(text("SELECT pg_backend_pid()"))
        database.run_alone("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        raise ZeroDivisionError

    each_second.init_app(committed_app, (cut_off, noted.append))
    own = each_second.of(committed_app)
    with structlog.testing.capture_logs() as lines:
        own.wake()
        until(lambda: len(noted) > 2)
        own.close()
    assert {line["work"] for line in lines if line["event"] == "each_second_failed"} == {"cut_off"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_is_followed_by_another(committed_app: Flask, quick_second: None) -> None:
    noted: list[bool] = []

    def ends_the_first(is_last: bool) -> None:
        noted.append(is_last)
        if len(noted) == 1:
            raise SystemExit

    each_second.init_app(committed_app, (ends_the_first,))
    own = each_second.of(committed_app)
    own.wake()
    first = own._thread
    assert first is not None
    first.join(10)
    assert noted == [False]
    own.wake()
    until(lambda: len(noted) > 2)
    own.close()


def test_a_child_of_a_fork_starts_a_thread_of_its_own(committed_app: Flask, rounds: list[bool]) -> None:
    own = each_second.of(committed_app)
    own.wake()
    until(lambda: rounds)
    parents = own._thread
    own._process = -1  # as a child finds it: the parent's thread was not copied
    own.wake()
    assert own._thread is not parents
    assert own._thread is not None
    assert own._thread.is_alive()


def test_a_server_that_is_stopped_records_its_last_checks(start_server) -> None:
    import requests

    server = start_server(worker=False, WEB_CONCURRENCY="1")
    for _ in range(3):
        assert requests.get(f"{server.url}{PATH}?email={FREE}", timeout=10).json()["available"] is True
    server.stop()
    with closing(psycopg2.connect(libpq_url(server.database_url))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT event_metadata FROM audit_logs WHERE event_type = 'email_checks'")
        assert cursor.fetchall() == [({"checked": 3, "taken": 0, "refused": 0},)]
