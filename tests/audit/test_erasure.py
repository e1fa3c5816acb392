"""Erasing somebody from the record: what is personal goes, the events and their links stay."""

import threading
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy.exc import OperationalError

from capecontrol import ids
from capecontrol.audit import erasure, events, export, queries, recorder, replay, seals
from capecontrol.audit.evidence import PERSONAL_FIELDS
from capecontrol.audit.export_rows import Wanted
from capecontrol.conversations import service, staff_reading
from capecontrol.errors import NotFound, Unavailable
from capecontrol.extensions import db
from tests.audit.chain import query, store_full_row
from tests.audit.faults import act, away, spooled
from tests.people import Person, make_person

PERSONAL = f"SELECT num_nonnulls({', '.join(PERSONAL_FIELDS)}, salt) FROM audit_logs"


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


def fail_to_sign_in(app: Flask, email: str) -> None:
    """Let somebody fail who is proven to be nobody."""
    with app.app_context():
        details = {"method": "page", "reason": "unknown_address"}
        recorder.record_failure(events.USER_LOGIN_FAILED, actor=None, error="no", details=details, email=email)


def test_the_command_erases_a_person_and_every_proof_still_holds(committed_app: Flask) -> None:
    person = make_person(committed_app, email="thandi@example.com")
    fail_to_sign_in(committed_app, "Thandi@example.com")
    command = committed_app.test_cli_runner()
    assert command.invoke(args=["audit", "seal"]).exit_code == 0
    answer = command.invoke(args=["audit", "erase", person.id])
    assert (answer.exit_code, answer.output) == (0, "Erased what was personal in 2 events.\n")
    verified = command.invoke(args=["audit", "verify"])
    assert verified.exit_code == 0, verified.output
    assert "2 rows without what was personal in them: erased, as may be." in verified.output


def test_an_id_that_nobody_has_is_a_sentence(committed_app: Flask) -> None:
    answer = committed_app.test_cli_runner().invoke(args=["audit", "erase", ids.new_id()])
    assert (answer.exit_code, answer.output) == (
        1,
        "Error: There is no account of this id, and no event of one that still holds anything personal.\n",
    )
    assert query(committed_app, "SELECT count(*) FROM audit_logs") == [(0,)]


def test_somebody_whose_account_is_gone_already_can_be_erased_once(committed_app: Flask) -> None:
    person = make_person(committed_app, email="thandi@example.com")
    fail_to_sign_in(committed_app, "thandi@example.com")
    query(committed_app, "DELETE FROM users_v2 WHERE id = %s", person.id)
    assert pseudonymise(committed_app, person.id) == 2
    assert query(committed_app, f"{PERSONAL} WHERE event_type <> 'audit_pseudonymised'") == [(0,), (0,)]
    with pytest.raises(NotFound):
        pseudonymise(committed_app, person.id)


def test_what_waited_when_somebody_was_erased_is_stored_without_anything_personal(
    committed_app: Flask, audit_spool: Path
) -> None:
    """Else the spool would bring back what the erasure took."""
    person, other = make_person(committed_app, email="thandi@example.com"), make_person(committed_app)
    with away(committed_app):
        act(committed_app, 1, actor=person.actor)
        act(committed_app, 2, actor=other.actor)
        fail_to_sign_in(committed_app, "THANDI@example.com")
        fail_to_sign_in(committed_app, "sipho@example.com")
    assert len(spooled(audit_spool)) == 4
    recorder.forget()  # of the breaker, which is another test's
    pseudonymise(committed_app, person.id)
    with away(committed_app):
        act(committed_app, 3, actor=person.actor)
    with committed_app.app_context():
        assert replay.replay().stored == 5
        seals.seal()
    told = query(
        committed_app,
        "SELECT event_metadata->>'people', user_id, user_email, salt IS NULL FROM audit_logs "
        "WHERE event_type IN ('demo_filled', 'user_login_failed') ORDER BY event_id",
    )
    assert told == [
        ("1", person.id, None, True),
        ("2", other.id, other.email, False),
        (None, None, None, True),
        (None, None, "sipho@example.com", False),
        ("3", person.id, person.email, False),
    ]
    verified = committed_app.test_cli_runner().invoke(args=["audit", "verify"])
    assert verified.exit_code == 0, verified.output


def read_conversation_of(app: Flask, owner: Person, *, by: Person) -> None:
    """Let staff read something of somebody, for a reason that says more about them than it should."""
    with app.app_context():
        conversation = service.start(actor=owner.actor, title="Tides").conversation
        staff_reading.read(conversation.id, f"{owner.name} is ill and asked us to look", actor=by.actor)


def test_why_staff_read_a_conversation_is_erased_with_its_owner_and_that_they_did_stays(committed_app: Flask) -> None:
    person, other = make_person(committed_app), make_person(committed_app)
    admin = make_person(committed_app, role="admin")
    for owner in (person, other):
        read_conversation_of(committed_app, owner, by=admin)
    with committed_app.app_context():
        seals.seal()
    pseudonymise(committed_app, person.id)
    told = query(
        committed_app,
        "SELECT event_metadata->>'owner_id', user_id, event_description IS NULL, user_email IS NULL, salt IS NULL "
        "FROM audit_logs WHERE event_type = 'conversation_read_by_staff' ORDER BY id",
    )
    assert told == [(person.id, admin.id, True, True, True), (other.id, admin.id, False, False, False)]
    verified = committed_app.test_cli_runner().invoke(args=["audit", "verify"])
    assert verified.exit_code == 0, verified.output
    with committed_app.app_context():
        (mine,) = (
            each for each in queries.list_own(person.id).events if each.event_type.startswith("conversation_read")
        )
    assert (mine.sentence, mine.reason) == ("A member of staff read your conversation", None)


def test_a_reading_that_waited_while_its_owner_was_erased_is_stored_without_the_reason(
    committed_app: Flask, audit_spool: Path
) -> None:
    person, other = make_person(committed_app), make_person(committed_app)
    admin = make_person(committed_app, role="admin")
    with away(committed_app):
        for owner in (person, other):
            read_conversation_of(committed_app, owner, by=admin)
    recorder.forget()
    pseudonymise(committed_app, person.id)
    with committed_app.app_context():
        replay.replay()
    told = query(
        committed_app,
        "SELECT event_metadata->>'owner_id', success, event_description, user_email, salt IS NULL FROM audit_logs "
        "WHERE event_type = 'conversation_read_by_staff' ORDER BY event_id",
    )
    assert told == [
        (person.id, True, None, None, True),
        (other.id, True, f"{other.name} is ill and asked us to look", admin.email, False),
    ]


def test_nobody_reads_a_persons_conversation_while_they_are_erased(committed_app: Flask) -> None:
    """Else a reason given in the same moment would stay."""
    person, admin = make_person(committed_app), make_person(committed_app, role="admin")
    refused: list[str | None] = []
    with committed_app.app_context():
        conversation_id = service.start(actor=person.actor, title="Tides").conversation.id

    def read() -> None:
        with committed_app.app_context():
            try:
                staff_reading.read(conversation_id, "Help desk ticket 7", actor=admin.actor)
            except OperationalError as failure:
                refused.append(getattr(failure.orig, "pgcode", None))

    with committed_app.app_context():
        db.session.execute(erasure._ACCOUNT, {"person": person.id})
        thread = threading.Thread(target=read)
        thread.start()
        thread.join(30)
        db.session.rollback()
    assert refused == ["55P03"]
    read()
    readings = "SELECT event_description FROM audit_logs WHERE event_type = 'conversation_read_by_staff'"
    assert query(committed_app, readings) == [("Help desk ticket 7",)]


def test_nothing_is_stored_about_a_person_while_they_are_erased(committed_app: Flask, audit_spool: Path) -> None:
    """It waits in the spool, and is stored without what is personal."""
    person = make_person(committed_app)
    with committed_app.app_context():
        db.session.execute(erasure._ACCOUNT, {"person": person.id})
        thread = threading.Thread(target=act, args=(committed_app, 1), kwargs={"actor": person.actor})
        thread.start()
        thread.join(30)
        db.session.rollback()
    assert [line["reason"] for line in spooled(audit_spool)] == ["55P03"]
    pseudonymise(committed_app, person.id)
    with committed_app.app_context():
        assert replay.replay().stored == 1
    assert query(committed_app, f"{PERSONAL} WHERE event_type = 'demo_filled'") == [(0,)]


def ask_for(app: Flask, address: str, *, staff: Person) -> None:
    """Let an administrator export what happened under an address."""
    with app.app_context():
        wanted = Wanted("ndjson", person=address)
        export.begin(wanted, actor=staff.actor, scope=app.app_context).close()


def test_an_export_that_asked_for_their_address_before_they_had_an_account_forgets_it(committed_app: Flask) -> None:
    staff = make_person(committed_app, role="admin")
    for address in ("Thandi@Example.com", "nothandi@example.com"):
        ask_for(committed_app, address, staff=staff)
    person = make_person(committed_app, email="thandi@example.com")
    ask_for(committed_app, person.email, staff=staff)
    command = committed_app.test_cli_runner()
    assert command.invoke(args=["audit", "seal"]).exit_code == 0
    assert pseudonymise(committed_app, person.id) == 2
    exports = query(
        committed_app,
        "SELECT actor_ref, user_email, event_description, event_metadata #>> '{filters,person}' "
        "FROM audit_logs WHERE event_type = 'data_export' ORDER BY id",
    )
    assert exports == [
        (staff.id, None, None, "no account"),
        (staff.id, staff.email, events.ONLY_EVENTS_OF % "nothandi@example.com", "no account"),
        (staff.id, staff.email, None, person.id),
    ]
    verified = command.invoke(args=["audit", "verify"])
    assert verified.exit_code == 0, verified.output
    assert "2 rows without what was personal in them: erased, as may be." in verified.output


def test_an_export_that_waited_forgets_the_address_too(committed_app: Flask, audit_spool: Path) -> None:
    staff = make_person(committed_app, role="admin")
    with away(committed_app):
        for address in ("Thandi@Example.com", "nothandi@example.com"):
            with pytest.raises(Unavailable):
                ask_for(committed_app, address, staff=staff)
    recorder.forget()  # of the breaker, which is another test's
    pseudonymise(committed_app, make_person(committed_app, email="thandi@example.com").id)
    with committed_app.app_context():
        replay.replay()
    told = query(
        committed_app,
        "SELECT user_email, event_description FROM audit_logs WHERE event_type = 'data_export' ORDER BY event_id",
    )
    assert told == [(None, None), (staff.email, events.ONLY_EVENTS_OF % "nothandi@example.com")]
