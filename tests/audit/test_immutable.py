"""The record is only ever added to: what the triggers refuse, and the three narrow ways that pass."""

import json
from datetime import timedelta

import psycopg2
import pytest
from flask import Flask

from capecontrol import clock
from capecontrol.audit import events, evidence, recorder
from capecontrol.audit.models import AuditLog
from capecontrol.extensions import db
from tests.audit.chain import connected, query, record_some, store_full_row
from tests.people import Person, make_person

COLUMNS = [column.name for column in AuditLog.__table__.columns]
ERASING = "user_email = NULL, ip_address = NULL, user_agent = NULL, event_description = NULL, error_message = NULL"
ANOTHER = {
    "id": "-1",
    "stored_xid": "'3'",
    "status_code": "418",
    "response_time_ms": "1",
    "risk_score": "99",
    "success": "NOT success",
    "event_metadata": '\'{"method": "other"}\'',
    "created_at": "now()",
    "recorded_at": "now()",
    "salt": r"'\x00'",
    "commitment": r"'\x00'",
}


@pytest.fixture
def person(committed_app: Flask) -> Person:
    return make_person(committed_app)


def refuses(app: Flask, statement: str) -> None:
    with pytest.raises(psycopg2.errors.RaiseException, match="only ever added to"):
        query(app, statement)


@pytest.mark.parametrize("column", COLUMNS)
def test_no_column_can_be_changed(committed_app: Flask, person: Person, column: str) -> None:
    store_full_row(committed_app, person.id)
    refuses(committed_app, f"UPDATE audit_logs SET {column} = {ANOTHER.get(column, 'NULL')} WHERE event_id = 'full'")


def test_details_cannot_be_respelt_into_an_equal_number_beside_an_erasure(committed_app: Flask) -> None:
    query(
        committed_app,
        "INSERT INTO audit_logs (event_id, event_type, event_category, event_level, success, created_at, "
        "event_metadata) VALUES ('a', 'a', 'data', 'info', true, now(), '{\"n\": 1.0}')",
    )
    refuses(committed_app, f"UPDATE audit_logs SET {ERASING}, salt = NULL, event_metadata = '{{\"n\": 1.00}}'")


@pytest.mark.parametrize("table", ["audit_logs", "audit_seals", "audit_keys"])
def test_nothing_can_be_deleted_or_truncated(committed_app: Flask, person: Person, table: str) -> None:
    refuses(committed_app, f"DELETE FROM {table}")
    refuses(committed_app, f"TRUNCATE {table} CASCADE")


def test_on_conflict_cannot_change_a_row_either(committed_app: Flask, person: Person) -> None:
    refuses(
        committed_app,
        "INSERT INTO audit_logs (event_id, event_type, event_category, event_level, success, created_at) "
        "SELECT event_id, 'a', 'data', 'info', true, now() FROM audit_logs "
        "ON CONFLICT (event_id) DO UPDATE SET event_type = 'b'",
    )


def test_the_person_can_be_deleted_and_only_their_number_goes(committed_app: Flask, person: Person) -> None:
    """P19: an append-only trigger must let ON DELETE SET NULL pass."""
    before = query(committed_app, "SELECT to_jsonb(audit_logs) - 'user_id' FROM audit_logs ORDER BY id")
    query(committed_app, "DELETE FROM users_v2 WHERE id = %s", person.id)
    assert query(committed_app, "SELECT user_id FROM audit_logs") == [(None,)]
    assert query(committed_app, "SELECT to_jsonb(audit_logs) - 'user_id' FROM audit_logs ORDER BY id") == before


def test_nobody_is_disowned_of_their_record_while_they_have_an_account(committed_app: Flask, person: Person) -> None:
    refuses(committed_app, "UPDATE audit_logs SET user_id = NULL")


def test_what_is_personal_can_be_erased_all_together(committed_app: Flask, person: Person) -> None:
    query(committed_app, f"UPDATE audit_logs SET {ERASING}, salt = NULL")
    (row,) = query(committed_app, "SELECT user_email, salt, commitment IS NULL, actor_ref FROM audit_logs")
    assert row == (None, None, False, person.id)


@pytest.mark.parametrize(
    "change",
    [
        ERASING,
        "salt = NULL",
        "user_email = NULL, salt = NULL",
        f"{ERASING}, salt = NULL, user_role = NULL",
        f"{ERASING}, salt = NULL, user_id = NULL",
        f"{ERASING.replace('user_email = NULL', 'user_email = upper(user_email)')}, salt = NULL",
    ],
)
def test_a_half_erasure_is_refused(committed_app: Flask, person: Person, change: str) -> None:
    store_full_row(committed_app, person.id)
    refuses(committed_app, f"UPDATE audit_logs SET {change} WHERE event_id = 'full'")


def test_a_delete_passes_only_for_what_the_transaction_says_is_over(committed_app: Flask) -> None:
    record_some(committed_app)
    now = clock.now()

    def delete(before: dict[str, str], *, is_local: bool = True) -> None:
        with connected(committed_app) as cursor:
            cursor.execute("SELECT set_config('audit.purge', %s, %s)", (json.dumps(before), is_local))
            cursor.execute("DELETE FROM audit_logs")

    for before in ({}, {"data": now.isoformat()}, {"system": (now - timedelta(hours=1)).isoformat()}):
        with pytest.raises(psycopg2.errors.RaiseException):
            delete(before)
    delete({"system": now.isoformat()})
    assert query(committed_app, "SELECT count(*) FROM audit_logs") == [(0,)]
    record_some(committed_app)
    refuses(committed_app, "DELETE FROM audit_logs")  # the setting ended with its transaction


def test_a_row_commits_to_what_is_personal_whoever_stores_it(committed_app: Flask, person: Person) -> None:
    query(
        committed_app,
        "INSERT INTO audit_logs (event_id, event_type, event_category, event_level, success, created_at, user_email, "
        "error_message) VALUES ('a', 'a', 'data', 'info', true, now(), 'é\t\"\\@example.com', E'\\x01\\x7f\u2028')",
    )
    with committed_app.test_request_context("/", headers={"User-Agent": 'Odd "\\'}):
        recorder.record_failure(
            events.ACCESS_DENIED, actor=None, email="a\x00\ud800@x", error="é\x01", details={"wanted": "x"}
        )
        recorder.record(events.DEMO_FILLED, actor=None, description="told", details={"people": 1, "conversations": 2})
        db.session.commit()
    personal = ", ".join(evidence.PERSONAL_FIELDS)
    rows = query(committed_app, f"SELECT event_type, salt, commitment, {personal} FROM audit_logs ORDER BY id")
    assert [row[0] for row in rows] == ["user_registration", "a", "access_denied", "demo_filled"]
    for _, salt, commitment, *values in rows:
        fields = dict(zip(evidence.PERSONAL_FIELDS, values, strict=True))
        assert evidence.commitment(bytes(salt), fields) == bytes(commitment)
        assert evidence.commitment(bytes(salt), fields | {"user_email": "x"}) != bytes(commitment)
