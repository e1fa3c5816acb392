"""What a person does with a conversation is in the record: each act once, under its stored name."""

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from capecontrol.audit.models import AuditLog
from capecontrol.conversations import changes, service
from capecontrol.errors import Conflict, Invalid, NotFound
from tests.people import Person


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
            service.get_conversation(conversation.id, actor=noise.actor)
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
