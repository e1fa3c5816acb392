"""The record as a file: complete, in order, harmless to open, in constant memory, and on record itself."""

import csv
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import psycopg2
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from capecontrol import create_app, each_second
from capecontrol.audit import export, filtering, replay
from capecontrol.audit.export_rows import Wanted
from capecontrol.audit.models import AuditLog
from capecontrol.config import libpq_url
from capecontrol.database import AUDIT
from capecontrol.errors import Unavailable
from capecontrol.extensions import db
from tests.audit import faults
from tests.audit.recorded import make_event
from tests.conftest import dispose, settings_for
from tests.live_server import REPOSITORY, LiveServer, environment_of_processes
from tests.people import PASSWORD, Person, make_person
from tests.postgres import Databases
from tests.visitor import Visitor

EXPORT = "/api/audit/export"


_days = count()


@pytest.fixture(scope="module")
def exported(databases: Databases) -> Iterator[Flask]:
    """Yield an application on a database of this module, where COPY sees what is stored: each test keeps to its day."""
    with databases.clone() as url:
        app = create_app(settings_for(url))
        each_second.of(app).close()  # it would replay what tests with another database have swallowed
        yield app
        dispose(app)


@pytest.fixture(scope="module")
def staff(exported: Flask) -> Person:
    """Return an administrator of it."""
    return make_person(exported, name="Ayanda Dlamini", role="admin")


@pytest.fixture
def client(exported: Flask) -> FlaskClient:
    return exported.test_client()


@pytest.fixture
def day() -> datetime:
    """Return the first moment of a day of this test alone, with another empty day on either side."""
    return datetime(2001, 1, 2, tzinfo=UTC) + timedelta(days=3 * next(_days))


@pytest.fixture
def stored(exported: Flask) -> Iterator[Session]:
    """Yield a session of the test's own on that database, without the product's limits."""
    engine = create_engine(exported.config["SETTINGS"].database_url, poolclass=NullPool)
    with Session(engine, expire_on_commit=False) as session:
        yield session


@pytest.fixture
def fetch(client: FlaskClient, staff: Person, day: datetime) -> Callable[..., str]:
    """Return a function that exports the test's day, or what it is asked for, and gives the file."""

    def fetched(**query: object) -> str:
        query = {"start_date": day.date(), "end_date": day.date()} | query
        answer = client.get(EXPORT, headers=staff.bearer, query_string=query)
        assert answer.status_code == 200, answer.text
        return answer.text

    return fetched


def lines(file: str) -> list[dict]:
    assert not file or file.endswith("\n")
    return [json.loads(line) for line in file.split("\n")[:-1]]


def recorded(session: Session, name: str) -> list[AuditLog]:
    session.rollback()
    return list(session.scalars(select(AuditLog).where(AuditLog.event_type == name).order_by(AuditLog.id)))


def fill(session: Session, count: int, day: datetime, **columns: str) -> None:
    """Store many events of one day at once, in order."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", %({name})s" for name in columns)
    session.connection().exec_driver_sql(
        f"""INSERT INTO audit_logs (event_id, event_type, event_category, event_level, success, created_at{names})
        SELECT gen_random_uuid()::text, 'user_login', 'authentication', 'info', true,
        %(day)s::timestamptz + g * interval '1 millisecond'{values} FROM generate_series(1, {count}) AS g""",
        columns | {"day": day.isoformat()},
    )
    session.commit()


# What is in it


def test_ndjson_has_every_event_oldest_first_as_it_is_stored(fetch, stored: Session, day: datetime) -> None:
    later = make_event(stored, at=day + timedelta(hours=2), user_email="later@example.com")
    first = make_event(
        stored,
        at=day + timedelta(hours=1, microseconds=123456),
        user_email="Zoë\n=1@example.com",
        event_metadata={"method": "page", "tags": ["a", {"b": None}]},
        status_code=200,
    )
    rows = lines(fetch(end_date="2100-01-01"))
    assert [row["event_id"] for row in rows[:2]] == [first.event_id, later.event_id]
    assert rows[0]["user_email"] == "Zoë\n=1@example.com"
    assert rows[0]["metadata"] == {"method": "page", "tags": ["a", {"b": None}]}
    assert rows[0]["status_code"] == 200
    assert datetime.fromisoformat(rows[0]["created_at"]) == first.created_at
    assert [row["created_at"] for row in rows] == sorted(row["created_at"] for row in rows)
    assert {row["event_type"] for row in rows} >= {"user_registration", "role_changed", "data_export"}
    assert rows[-1]["metadata"]["export_id"], "its own announcement is in it, and is the last"


def test_the_three_formats_say_the_same(fetch, stored: Session, day: datetime) -> None:
    fill(stored, 50, day, user_email="person@example.com")
    ndjson = lines(fetch(format="ndjson"))
    whole = json.loads(fetch(format="json"))
    table = list(csv.DictReader(io.StringIO(fetch(format="csv"), newline="")))
    assert whole["audit_logs"] == ndjson
    assert whole["export_info"]["total_records"] == 50 == len(table)
    assert whole["export_info"]["start_date"] == day.isoformat()
    assert list(table[0]) == list(ndjson[0])
    assert [row["event_id"] for row in table] == [row["event_id"] for row in ndjson]
    assert [row["created_at"] for row in table] == [row["created_at"] for row in ndjson]
    assert table[0]["success"] == "true"


def test_files_are_named_and_typed(client: FlaskClient, staff: Person) -> None:
    for name, kind in (("ndjson", "application/x-ndjson"), ("csv", "text/csv"), ("json", "application/json")):
        answer = client.get(f"{EXPORT}?format={name}", headers=staff.bearer)
        assert answer.mimetype == kind
        assert answer.headers["Content-Disposition"].endswith(f'.{name}"')
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.data


def test_an_export_of_nothing_is_whole_too(fetch) -> None:
    assert fetch(format="ndjson") == ""
    assert json.loads(fetch(format="json"))["audit_logs"] == []
    assert fetch(format="csv").count("\n") == 1


def test_filters_narrow(fetch, stored: Session, day: datetime) -> None:
    eve, first, last = (day.date() + timedelta(days=number) for number in (-1, 0, 1))
    evening = day + timedelta(hours=23, minutes=30)
    make_event(stored, at=day - timedelta(minutes=1), user_email="a@example.com")
    make_event(stored, at=evening, user_email="b@example.com")
    make_event(
        stored, at=day + timedelta(days=1), user_email="c@example.com", event_type="user_login_failed", success=False
    )
    span = {"start_date": eve, "end_date": last}
    for query, found in (
        (span, "abc"),
        ({"start_date": eve, "end_date": first}, "ab"),
        ({"start_date": eve, "end_date": eve}, "a"),
        ({"start_date": first, "end_date": last}, "bc"),
        ({"start_date": evening.isoformat(), "end_date": evening.isoformat()}, "b"),
        (span | {"event_type": "user_login_failed"}, "c"),
        (span | {"success_only": "false"}, "c"),
        (span | {"success_only": "true"}, "ab"),
        (span | {"user_id": "B@EXAMPLE.COM"}, "b"),
        (span | {"user_id": "' OR 1=1 --"}, ""),
        (span | {"user_id": "%s %(x)s \\' @"}, ""),
    ):
        assert "".join(row["user_email"][0] for row in lines(fetch(**query))) == found, query


# Harmless

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "  =1",
    "\u00a0=cmd|'/C calc'!A0",
    "\x01=1",
    "\x1b=1",
    "\x7f=1",
    "\x85=1",
    "\x9b+1",
    "\u061c=1",
    "\u200e=1",
    "\u2028-1",
    "\u2029=1",
    "\u202e=1",
    "\u2069=1",
    "\ufeff=1",
    "\u200f \x85\x01@SUM(A1)",
    "\uff1d1",
    "\uff0b1",
    '=HYPERLINK("http://evil.example","x")',
]
STRANGE = [
    *map(chr, (*range(1, 32), *range(0x7F, 0xA0))),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff",
]


def test_no_cell_is_a_formula(fetch, stored: Session, day: datetime) -> None:
    columns = ("user_email", "user_agent", "event_description", "error_message", "endpoint", "user_role", "subject_id")
    for number, text in enumerate(FORMULAS):
        make_event(stored, at=day + timedelta(seconds=number), **dict.fromkeys(columns, text))
    rows = list(csv.DictReader(io.StringIO(fetch(format="csv"), newline="")))
    for text, row in zip(FORMULAS, rows, strict=True):
        for column in columns:
            assert row[column].startswith("'"), f"{column} is {row[column]!r}"
            assert row[column].lstrip("' \u00a0") == text.lstrip(" \u00a0" + "".join(STRANGE))


def test_other_cells_are_as_they_are(fetch, stored: Session, day: datetime) -> None:
    harmless = ["a=1", "'=1", "person@example.com", "", "7", "0-1", " a", 'say "=1", twice']
    for number, text in enumerate(harmless):
        make_event(stored, at=day + timedelta(seconds=number), user_agent=text)
    rows = csv.DictReader(io.StringIO(fetch(format="csv"), newline=""))
    assert [row["user_agent"] for row in rows] == harmless


@pytest.mark.parametrize("file_format", ["ndjson", "json", "csv"])
def test_nothing_breaks_a_line_or_steers_a_terminal(fetch, stored: Session, day: datetime, file_format: str) -> None:
    texts = [f"beginning{strange}user_login success ending" for strange in STRANGE]
    for number, text in enumerate(texts):
        make_event(
            stored, at=day + timedelta(seconds=number), user_agent=text, event_metadata={"method": text, text: "x"}
        )
    file = fetch(format=file_format)
    assert not [character for character in file if character != "\n" and not character.isprintable()]
    carrying = [line for line in file.splitlines() if "beginning" in line]
    assert len(carrying) == len(texts)
    assert all("ending" in line for line in carrying)
    if file_format == "ndjson":
        assert [row["user_agent"] for row in lines(file)] == texts, "JSON keeps what was there"
        assert all(text in row["metadata"] for text, row in zip(texts, lines(file), strict=True))


INHERITED = [
    ({"password": "hunter2", "token": "hunter2", "method": "page"}, {"method": "page"}),
    (
        {"request": {"headers": {"authorization": "hunter2", "accept": "*"}, "json": [1, {"token": "hunter2"}, "x"]}},
        {"request": {"headers": {"accept": "*"}, "json": [1, {}, "x"]}},
    ),
    (
        ["no object", {"secret": {"token": "hunter2"}}, [{"cookie": "hunter2", "0": "kept"}]],
        ["no object", {}, [{"0": "kept"}]],
    ),
    ({"said": 'a "password": is no key', "tokens": 3}, {"said": 'a "password": is no key', "tokens": 3}),
    ("a text", "a text"),
    ({}, {}),
]


def test_secrets_of_an_inherited_row_stay_inside(fetch, stored: Session, day: datetime) -> None:
    for number, (details, _) in enumerate(INHERITED):
        make_event(stored, at=day + timedelta(seconds=number), event_metadata=details)
    for file_format in ("ndjson", "json", "csv"):
        assert "hunter2" not in fetch(format=file_format)
    assert [row["metadata"] for row in lines(fetch())] == [left for _, left in INHERITED]
    table = csv.DictReader(io.StringIO(fetch(format="csv"), newline=""))
    assert [json.loads(row["metadata"]) for row in table] == [left for _, left in INHERITED]


# On record


def test_an_export_is_on_record_before_its_first_byte(client, staff: Person, stored: Session, day: datetime) -> None:
    fill(stored, 3, day)
    query = {"format": "csv", "start_date": day.date(), "end_date": day.date(), "event_type": "user_login"}
    before = len(recorded(stored, "data_export_ended"))
    answer = client.get(EXPORT, headers=staff.bearer, query_string=query, buffered=False)
    announced = recorded(stored, "data_export")[-1]
    assert (announced.user_id, announced.success) == (staff.id, True)
    assert announced.event_metadata["filters"] == {
        "after": day.isoformat(),
        "before": (day + timedelta(days=1)).isoformat(),
        "event": "user_login",
    }
    assert announced.event_metadata["events"] == 3
    assert announced.endpoint == "audit_api.export_logs"
    assert len(recorded(stored, "data_export_ended")) == before
    size = len(answer.data)
    ended = recorded(stored, "data_export_ended")[-1]
    assert ended.success
    assert ended.event_metadata == {
        "export_id": announced.event_metadata["export_id"],
        "format": "csv",
        "events": 3,
        "bytes": size,
    }


def test_what_cannot_be_recorded_does_not_leave(committed_app: Flask) -> None:
    somebody = make_person(committed_app, role="admin")
    faults.run(committed_app, "ALTER TABLE audit_logs ADD CONSTRAINT no CHECK (event_type <> 'data_export') NOT VALID")
    answer = committed_app.test_client().get(EXPORT, headers=somebody.bearer)
    assert answer.status_code == 503
    assert "put on record" in answer.json["detail"]
    assert somebody.email not in answer.text
    faults.run(committed_app, "ALTER TABLE audit_logs DROP CONSTRAINT no")
    assert told_of_the_refused_export(committed_app) == "Nothing was exported: it could not be put on record."


def test_a_refused_export_is_never_told_as_one_that_was_made(committed_app: Flask) -> None:
    """Its announcement waits in the spool with a transaction that was committed."""
    somebody = make_person(committed_app, role="admin")
    with faults.locked(committed_app):
        assert committed_app.test_client().get(EXPORT, headers=somebody.bearer).status_code == 503
    assert told_of_the_refused_export(committed_app) == (
        "Nothing was exported: the database could not be read (55P03)."
    )


def test_an_export_for_which_there_was_no_connection_is_on_record_as_refused(committed_app: Flask) -> None:
    with committed_app.app_context():
        held = [db.engine.connect() for _ in range(committed_app.config["SETTINGS"].database_pool)]
        with pytest.raises(Unavailable):
            export.begin(Wanted("csv"), actor=None, scope=nullcontext)
        for connection in held:
            connection.close()
    assert faults.run(committed_app, "SELECT event_type, success, error_message FROM audit_logs") == [
        ("data_export_ended", False, "Nothing was exported: the database could not be read (TimeoutError).")
    ]


def told_of_the_refused_export(app: Flask) -> str:
    """Replay what was swallowed and return why the one export that was announced left nothing."""
    with app.app_context():
        replay.replay()
    announced, ended = faults.run(
        app,
        "SELECT event_type, success, error_message, event_metadata->>'export_id', event_metadata->'bytes' "
        "FROM audit_logs WHERE event_type LIKE 'data_export%' ORDER BY created_at, event_id",
    )
    assert (announced[0], ended[0]) == ("data_export", "data_export_ended")
    assert ended[3] == announced[3]
    assert (ended[1], ended[4]) == (False, 0)
    return str(ended[2])


def test_a_locked_log_is_an_answer_and_not_a_file(client: FlaskClient, staff: Person, stored: Session) -> None:
    stored.connection().exec_driver_sql("LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE")
    answer = client.get(EXPORT, headers=staff.bearer)
    stored.rollback()
    assert answer.status_code == 503
    assert answer.is_json
    answer = client.get(EXPORT, headers=staff.bearer)
    assert answer.status_code == 200, "its place is free again"
    assert answer.data


def test_a_persons_file_holds_what_their_page_shows(fetch, exported: Flask, stored: Session, day: datetime) -> None:
    somebody = make_person(exported)
    theirs = [
        make_event(stored, at=day, user_id=somebody.id, actor_ref=somebody.id),
        make_event(stored, at=day, user_email=somebody.email.upper(), success=False),
    ]
    gone = make_event(stored, at=day, actor_ref="somebody-who-is-gone")
    make_event(stored, at=day, user_email="other@example.com")
    assert {line["event_id"] for line in lines(fetch(user_id=somebody.id))} == {event.event_id for event in theirs}
    assert [line["event_id"] for line in lines(fetch(user_id="somebody-who-is-gone"))] == [gone.event_id]


def test_an_address_is_asked_for_only_where_it_can_be_erased(fetch, exported: Flask, stored: Session, day) -> None:
    """Details are sealed for good; the description has a salt that can be forgotten."""
    somebody = make_person(exported)
    for asked in (somebody.email.upper(), somebody.id):
        fetch(user_id=asked)
        told = recorded(stored, "data_export")[-1]
        assert (told.event_metadata["filters"]["person"], told.event_description) == (somebody.id, None)
    make_event(stored, at=day, user_email="claimed@example.com")
    file = json.loads(fetch(user_id="claimed@example.com", format="json"))
    assert file["export_info"]["filters"]["person"] == "claimed@example.com"
    told = recorded(stored, "data_export")[-1]
    assert told.event_metadata["filters"]["person"] == "no account"
    assert told.event_description == "An export of the audit log: only the events of claimed@example.com."
    assert "example.com" not in json.dumps(told.event_metadata)


def test_counting_leaves_the_connection_for_failures_alone(
    client, exported: Flask, staff, stored: Session, day
) -> None:
    fill(stored, 3, day)
    with exported.app_context():
        engine = db.engines[AUDIT]
    with engine.connect():
        answer = client.get(
            EXPORT, headers=staff.bearer, query_string={"start_date": day.date(), "end_date": day.date()}
        )
    assert len(lines(answer.text)) == 3
    assert recorded(stored, "data_export")[-1].event_metadata["events"] == 3


def test_a_reader_who_leaves_ends_the_export_on_record(client, staff, stored: Session, day: datetime) -> None:
    fill(stored, 20_000, day, user_agent="x" * 200)
    answer = client.get(EXPORT, headers=staff.bearer, buffered=False)
    next(answer.response)
    answer.close()
    ended = recorded(stored, "data_export_ended")[-1]
    assert not ended.success
    assert "went away" in (ended.error_message or "")
    assert 0 < ended.event_metadata["events"] < 20_000
    assert exports_running(stored) == 0


def test_a_reader_who_never_begins_ends_it_too(client: FlaskClient, staff: Person, stored: Session) -> None:
    answer = client.get(EXPORT, headers=staff.bearer, buffered=False)
    answer.close()
    assert not recorded(stored, "data_export_ended")[-1].success
    assert exports_running(stored) == 0


def test_asking_only_for_the_headers_exports_nothing(client: FlaskClient, staff: Person, stored: Session) -> None:
    before = len(recorded(stored, "data_export"))
    assert client.head(EXPORT, headers=staff.bearer).status_code == 200
    assert len(recorded(stored, "data_export")) == before


@pytest.mark.parametrize("file_format", ["ndjson", "csv", "json"])
def test_a_database_lost_in_the_middle_shows_in_the_file_and_on_record(
    client: FlaskClient, staff: Person, stored: Session, day: datetime, file_format: str
) -> None:
    fill(stored, 40_000, day, user_agent="x" * 200)
    query = {"format": file_format, "start_date": day.date(), "end_date": day.date()}
    answer = client.get(EXPORT, headers=staff.bearer, query_string=query, buffered=False)
    chunks = [next(answer.response)]
    stored.connection().exec_driver_sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'capecontrol-export'"
    )
    with pytest.raises(export.ExportInterrupted):
        chunks.extend(answer.response)
    answer.close()
    last = b"".join(chunks).decode().splitlines()[-1]
    assert "not complete" in last.lower()
    if file_format == "ndjson":
        assert json.loads(last)["error"]
    if file_format == "json":
        with pytest.raises(ValueError, match="delimiter"):
            json.loads(b"".join(chunks))
    ended = recorded(stored, "data_export_ended")[-1]
    assert not ended.success
    assert "database" in (ended.error_message or "")
    assert 0 < ended.event_metadata["events"] < 40_000


def exports_running(session: Session) -> int:
    """Count the exports the server is at, giving one that was just left a moment to notice."""
    deadline = time.monotonic() + 10
    while True:
        session.rollback()
        running = (
            session.connection()
            .exec_driver_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'capecontrol-export'")
            .scalar_one()
        )
        if not running or time.monotonic() > deadline:
            return running
        time.sleep(0.05)


# Places


def test_one_export_at_a_time_and_the_next_is_told_to_come_again(client, exported: Flask, staff, stored, day) -> None:
    fill(stored, 20_000, day, user_agent="x" * 200)
    first = client.get(EXPORT, headers=staff.bearer, buffered=False)
    refused = exported.test_client().get(EXPORT, headers=staff.bearer)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert exported.extensions["streams"].taken == 1
    first.close()
    assert exported.extensions["streams"].taken == 0
    again = exported.test_client().get(EXPORT, headers=staff.bearer)
    assert again.status_code == 200
    again.close()


def test_an_export_borrows_one_of_the_requests_connections(client, exported: Flask, staff, stored, day) -> None:
    fill(stored, 20_000, day, user_agent="x" * 200)
    with exported.app_context():
        pool = db.engines[None].pool
    lent = pool.checkedout()
    answer = client.get(EXPORT, headers=staff.bearer, buffered=False)
    assert pool.checkedout() == lent + 1
    answer.close()
    assert pool.checkedout() == lent
    assert client.get("/api/audit/logs", headers=staff.bearer).status_code == 200


def test_an_answer_that_is_never_sent_gives_everything_back(
    client, exported: Flask, staff, stored, monkeypatch
) -> None:
    def broken(_response: object) -> object:
        raise RuntimeError("broken on the way out")

    monkeypatch.setitem(exported.after_request_funcs, "audit_api", [broken])
    assert client.get(EXPORT, headers=staff.bearer).status_code == 500
    assert exported.extensions["streams"].taken == 0
    assert exports_running(stored) == 0


# Rights and words


def test_only_administrators_export(exported: Flask, client: FlaskClient, stored: Session) -> None:
    before = len(recorded(stored, "data_export"))
    somebody = make_person(exported)
    assert client.get(EXPORT, headers=somebody.bearer).status_code == 403
    assert client.get(EXPORT).status_code == 401
    assert len(recorded(stored, "data_export")) == before


@pytest.mark.parametrize("query", ["format=xml", "start_date=yesterday", "user_id=a%00b", "success_only=perhaps"])
def test_what_cannot_be_asked_for_is_told(client: FlaskClient, staff: Person, query: str) -> None:
    answer = client.get(f"{EXPORT}?{query}", headers=staff.bearer)
    assert answer.status_code == 422
    assert answer.json["errors"]


# The page


@pytest.fixture
def browser(exported: Flask, staff: Person) -> Visitor:
    """Return a browser in which the administrator is signed in."""
    visitor = Visitor(exported)
    visitor.visit("/login")
    visitor.send("/login", email=staff.email, password=PASSWORD)
    return visitor


def test_the_page_says_what_will_be_in_the_file_and_sends_it(browser: Visitor, stored: Session, day) -> None:
    make_event(stored, at=day, user_email="wanted@example.com")
    make_event(stored, at=day, user_email="other@example.com")
    page = browser.visit(f"/audit/export?person=wanted%40example.com&after={day.date()}")
    assert "What will be in the file" in page.words
    assert page.form("/audit/export").find("input", attrs={"name": "person"})["value"] == "wanted@example.com"
    fields = {"csrf_token": page.find("input", attrs={"name": "csrf_token"})["value"], "format": "csv"}
    answer = browser.client.post(
        "/audit/export", data=fields | {"person": "wanted@example.com", "after": f"{day.date()}"}
    )
    assert answer.mimetype == "text/csv"
    assert [row["user_email"] for row in csv.DictReader(io.StringIO(answer.text))] == ["wanted@example.com"]
    assert recorded(stored, "data_export")[-1].event_metadata["filters"]["person"] == "no account"


def test_the_audit_page_leads_there_with_its_filters(browser: Visitor) -> None:
    page = browser.visit("/audit?event=user_login&outcome=success")
    link = next(a for a in page.find_all("a") if a.get_text() == "Export it")
    exported = browser.visit(str(link["href"]))
    assert exported.form("/audit/export").find("option", selected=True, value="user_login")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("format", "xml", "Choose CSV, NDJSON or JSON."),
        ("after", "yesterday", "Give a day such as 2026-11-24."),
        ("event", "no_such_event", "There is no event of that name."),
    ],
)
def test_a_mistake_is_told_beside_its_field(browser: Visitor, field: str, value: str, words: str) -> None:
    browser.visit("/audit/export")
    page = browser.send("/audit/export", status=422, **{"format": "csv", field: value})
    assert words in page.words


def test_a_form_without_its_token_exports_nothing(browser: Visitor, stored: Session) -> None:
    before = len(recorded(stored, "data_export"))
    assert browser.client.post("/audit/export", data={"format": "csv"}).status_code == 400
    assert len(recorded(stored, "data_export")) == before


# The command


def run(exported: Flask, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    url = exported.config["SETTINGS"].database_url
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "audit", "export", *arguments],
        cwd=REPOSITORY,
        env=environment_of_processes(url),
        capture_output=True,
        timeout=90,
        check=False,
    )


def test_the_command_writes_the_same_file(exported: Flask, stored: Session, tmp_path: Path, day) -> None:
    fill(stored, 300, day, user_email="person@example.com")
    file = tmp_path / "audit.ndjson"
    done = run(exported, "--start", f"{day.date()}", "--end", f"{day.date()}", "--output", str(file))
    assert done.returncode == 0, done.stderr
    assert b"300 events" in done.stderr
    assert len(lines(file.read_text())) == 300
    assert [path.name for path in tmp_path.iterdir()] == ["audit.ndjson"]
    announced, ended = recorded(stored, "data_export")[-1], recorded(stored, "data_export_ended")[-1]
    assert announced.event_metadata["events"] == ended.event_metadata["events"] == 300
    assert announced.user_id is None
    printed = run(exported, "--format", "csv", "--start", f"{day.date()}", "--end", f"{day.date()}")
    assert printed.stdout.count(b"\n") == 301


def test_the_command_refuses_in_words(exported: Flask) -> None:
    refused = exported.test_cli_runner().invoke(args=["audit", "export", "--start", "yesterday"])
    assert refused.exit_code == 1
    assert "Give a day such as" in refused.output
    assert isinstance(refused.exception, SystemExit), "no traceback"


def test_the_command_leaves_no_file_that_looks_whole(exported: Flask, tmp_path: Path) -> None:
    output = str(tmp_path / "no" / "such" / "folder.csv")
    refused = exported.test_cli_runner().invoke(args=["audit", "export", "--output", output])
    assert refused.exit_code == 1
    assert "not complete" in refused.output
    assert isinstance(refused.exception, SystemExit), "no traceback"
    assert list(tmp_path.iterdir()) == []


# As it runs


@contextmanager
def reading_slowly(server: LiveServer, token: str) -> Iterator[socket.socket]:
    """Yield a connection that asked for everything and has read a little."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            f"GET {EXPORT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        yield connection


@pytest.fixture
def export_server(start_server) -> LiveServer:
    return start_server(worker=False, WEB_CONCURRENCY="1", DATABASE_CONNECTION_LIMIT="40")


def administrator_of(server: LiveServer) -> str:
    """Make an administrator of a running server and return a token."""
    made = requests.post(
        f"{server.url}/api/auth/v2/register",
        json={
            "full_name": "Ayanda Dlamini",
            "email": "ayanda@example.com",
            "password": PASSWORD,
            "user_role": "client",
        },
        timeout=20,
    )
    assert made.status_code == 201, made.text
    with psycopg2.connect(libpq_url(server.database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE users_v2 SET user_role = 'admin'")
    return str(made.json()["access_token"])


def fill_server(server: LiveServer, count: int) -> None:
    with psycopg2.connect(libpq_url(server.database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO audit_logs
            (event_id, event_type, event_category, event_level, success, created_at, user_agent)
            SELECT gen_random_uuid()::text, 'user_login', 'authentication', 'info', true,
            '2020-01-01'::timestamptz + g * interval '1 second', repeat('x', 300) FROM generate_series(1, %s) AS g""",
            (count,),
        )


def ended_on(server: LiveServer) -> list[tuple[bool, str | None]]:
    deadline = time.monotonic() + 20
    while True:
        with psycopg2.connect(libpq_url(server.database_url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT success, error_message FROM audit_logs WHERE event_type = 'data_export_ended'")
            found = cursor.fetchall()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def peak_memory_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def web_process(server: LiveServer) -> int:
    assert server.web is not None
    children = Path(f"/proc/{server.web.pid}/task/{server.web.pid}/children").read_text().split()
    return int(children[0])


def test_a_long_export_takes_no_more_memory_than_a_short_one(export_server: LiveServer) -> None:
    token = administrator_of(export_server)
    headers = {"Authorization": f"Bearer {token}"}
    requests.get(f"{export_server.url}{EXPORT}", headers=headers, timeout=60)
    process = web_process(export_server)
    before = peak_memory_kb(process)
    fill_server(export_server, 100_000)
    received = 0
    with requests.get(f"{export_server.url}{EXPORT}", headers=headers, timeout=60, stream=True) as answer:
        for chunk in answer.iter_content(1 << 16):
            received += len(chunk)
    assert received > 80_000_000
    assert peak_memory_kb(process) - before < 8_000, "kB more for 80 MB"


def test_a_reader_who_hangs_up_frees_the_thread(export_server: LiveServer) -> None:
    token = administrator_of(export_server)
    fill_server(export_server, 60_000)
    with reading_slowly(export_server, token):
        time.sleep(0.2)
    assert [success for success, _ in ended_on(export_server)] == [False]
    again = requests.get(
        f"{export_server.url}{EXPORT}?start_date=2026-01-01", headers={"Authorization": f"Bearer {token}"}, timeout=20
    )
    assert again.status_code == 200


def test_a_file_that_breaks_off_cuts_the_connection(export_server: LiveServer) -> None:
    token = administrator_of(export_server)
    fill_server(export_server, 60_000)
    headers = {"Authorization": f"Bearer {token}"}
    received = b""
    with requests.get(f"{export_server.url}{EXPORT}", headers=headers, timeout=60, stream=True) as answer:
        chunks = answer.iter_content(1 << 14)
        received += next(chunks)
        with psycopg2.connect(libpq_url(export_server.database_url)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'capecontrol-export'"
            )
        with pytest.raises(requests.exceptions.ChunkedEncodingError):  # noqa: PT012 -- what came before it counts
            for chunk in chunks:
                received += chunk
    assert json.loads(received.splitlines()[-1])["error"].startswith("Not complete")
    assert [success for success, _ in ended_on(export_server)] == [False]


def test_moments_round_to_what_postgresql_keeps() -> None:
    last = datetime(2021, 6, 16, 23, 30, tzinfo=UTC)
    wanted = Wanted.of("csv", start=last, end=last)
    assert wanted.after == last
    assert wanted.before == last + timedelta(microseconds=1)
    assert Wanted.of("csv", start=None, end=last.date()).before == filtering.end_of(last.date())
