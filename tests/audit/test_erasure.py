"""Erasing somebody from the record: what is personal goes, the events and their links stay."""

from flask import Flask

from capecontrol.audit import erasure, events, recorder
from capecontrol.audit.evidence import PERSONAL_FIELDS
from tests.audit.chain import query, store_full_row
from tests.people import make_person


def pseudonymise(app: Flask, person_id: str, actor=None) -> int:
    with app.app_context():
        return erasure.pseudonymise(person_id, actor=actor)


def test_everything_personal_goes_and_everything_else_stays(committed_app: Flask) -> None:
    person, other = make_person(committed_app), make_person(committed_app)
    store_full_row(committed_app, person.id)
    rest = (
        f"SELECT to_jsonb(audit_logs) - '{{{', '.join(PERSONAL_FIELDS)}, salt}}'::text[] FROM audit_logs WHERE id < 4"
    )
    others = "SELECT to_jsonb(audit_logs) FROM audit_logs WHERE user_id = %s"
    before, of_another = query(committed_app, rest), query(committed_app, others, other.id)
    assert pseudonymise(committed_app, person.id) == 2
    assert sorted(map(str, query(committed_app, rest))) == sorted(map(str, before))
    assert query(committed_app, others, other.id) == of_another
    personal = query(
        committed_app,
        f"SELECT num_nonnulls({', '.join(PERSONAL_FIELDS)}, salt) FROM audit_logs WHERE user_id = %s",
        person.id,
    )
    assert personal == [(0,), (0,)]


def test_tries_under_their_address_that_were_nobodys_go_too(committed_app: Flask) -> None:
    person = make_person(committed_app, email="thandi@example.com")
    with committed_app.app_context():
        for email in ("THANDI@example.com", "thandi@example.com.attacker.example"):
            recorder.record_failure(
                events.USER_LOGIN_FAILED,
                actor=None,
                error="no",
                details={"method": "page", "reason": "unknown_address"},
                email=email,
            )
    assert pseudonymise(committed_app, person.id) == 2
    left = query(committed_app, "SELECT user_email FROM audit_logs WHERE user_email IS NOT NULL")
    assert left == [("thandi@example.com.attacker.example",)]


def test_the_erasure_is_an_event_that_does_not_name_the_person_again(committed_app: Flask) -> None:
    person = make_person(committed_app)
    pseudonymise(committed_app, person.id, actor=person.actor)
    admin = make_person(committed_app, role="admin")
    assert pseudonymise(committed_app, person.id, actor=admin.actor) == 0
    told = query(
        committed_app,
        "SELECT subject_id, user_email, event_metadata ->> 'rows' FROM audit_logs "
        "WHERE event_type = 'audit_pseudonymised' ORDER BY id",
    )
    assert told == [(person.id, None, "1"), (person.id, admin.email, "0")]


def test_many_rows_go_in_batches(committed_app: Flask, monkeypatch) -> None:
    monkeypatch.setattr(erasure, "BATCH", 2)
    person = make_person(committed_app)
    for number in range(4):
        store_full_row(committed_app, person.id, f"row {number}")
    assert pseudonymise(committed_app, person.id) == 5
    assert query(committed_app, "SELECT count(*) FROM audit_logs WHERE salt IS NOT NULL AND user_id IS NOT NULL") == [
        (0,)
    ]
