"""What a person does with a conversation is in the record: each act once, under its stored name."""

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from capecontrol.audit.models import AuditLog
from capecontrol.conversations import changes, reading, service
from capecontrol.errors import Conflict, Invalid, NotFound
from capecontrol.extensions import db
from tests.audit.faults import run
from tests.people import Person, make_person

REFUSE = "ALTER TABLE {} ADD CONSTRAINT broken CHECK (false) NOT VALID"


def recorded(session: Session) -> list[tuple[str, bool]]:
    rows = session.execute(select(AuditLog.event_type, AuditLog.success).order_by(AuditLog.id)).all()
    return [(row.event_type, row.success) for row in rows if row.event_type != "user_registration"]


def test_every_act_is_one_event(app: Flask, person: Person, db_session: Session) -> None:
    with app.app_context():
        conversation = service.start(actor=person.actor, title="Tides").conversation
        service.post_message(conversation.id, "When is high water?", actor=person.actor)
        changes.rename(conversation.id, "Tides and currents", actor=person.actor)
        changes.archive(conversation.id, actor=person.actor)
        changes.unarchive(conversation.id, actor=person.actor)
        changes.delete(conversation.id, actor=person.actor)
        changes.restore(conversation.id, actor=person.actor)
    assert recorded(db_session) == [
        (name, True)
        for name in (
            "conversation_started",
            "ai_prompt_submitted",
            "conversation_renamed",
            "conversation_archived",
            "conversation_unarchived",
            "conversation_deleted",
            "conversation_restored",
        )
    ]


def test_what_is_refused_is_recorded_as_refused(app: Flask, person: Person, noise: Person, db_session: Session) -> None:
    with app.app_context():
        conversation = service.start(actor=person.actor, title="Tides").conversation
        with pytest.raises(Invalid):
            service.post_message(conversation.id, "\x07", actor=person.actor)
        changes.delete(conversation.id, actor=person.actor)
        with pytest.raises(Conflict):
            changes.rename(conversation.id, "Too late", actor=person.actor)
        with pytest.raises(NotFound):
            reading.get_conversation(conversation.id, actor=noise.actor)
    assert recorded(db_session)[1:] == [
        ("ai_prompt_refused", False),
        ("conversation_deleted", True),
        ("conversation_renamed", False),
        ("access_denied", False),
    ]


def test_an_act_that_changes_nothing_is_no_event(app: Flask, person: Person, db_session: Session) -> None:
    with app.app_context():
        conversation = service.start(actor=person.actor, title="Tides").conversation
        changes.unarchive(conversation.id, actor=person.actor)
        changes.restore(conversation.id, actor=person.actor)
    assert recorded(db_session) == [("conversation_started", True)]


def test_what_the_database_fails_is_recorded_as_failed(committed_app: Flask) -> None:
    actor = make_person(committed_app).actor
    with committed_app.app_context():
        conversation_id = service.start(actor=actor, title="Tides").conversation.id
        db.session.rollback()
        run(committed_app, REFUSE.format("conversation_messages"))
        run(committed_app, REFUSE.format("conversations"))
        for act in (
            lambda: service.start(actor=actor, title="Winds"),
            lambda: service.post_message(conversation_id, "When is high water?", actor=actor),
            lambda: changes.rename(conversation_id, "Currents", actor=actor),
            lambda: changes.delete(conversation_id, actor=actor),
        ):
            with pytest.raises(DBAPIError):
                act()
    found = run(
        committed_app,
        "SELECT event_type, success, subject_id, error_message, event_metadata FROM audit_logs "
        "WHERE event_type <> 'user_registration' ORDER BY id",
    )
    assert found[1:] == [
        ("conversation_started", False, None, "IntegrityError", {}),
        ("ai_prompt_refused", False, conversation_id, "IntegrityError", {"reason": "unavailable"}),
        ("conversation_renamed", False, conversation_id, "IntegrityError", {}),
        ("conversation_deleted", False, conversation_id, "IntegrityError", {}),
    ]
