"""Posting from many sides at once, really committed: one message a key, one order, right counters."""

import threading
from collections.abc import Callable

from flask import Flask
from sqlalchemy import func, select, text

from capecontrol.conversations import reading, service
from capecontrol.conversations.models import Conversation, ConversationMessage
from capecontrol.extensions import db
from tests.people import make_person

AT_ONCE = 12


def race(app: Flask, act: Callable[[int], object]) -> list[object]:
    """Do `act` in many threads at the same moment; return what each returned or raised."""
    ready = threading.Barrier(AT_ONCE, timeout=20)
    outcomes: list[object] = [None] * AT_ONCE

    def run(number: int) -> None:
        with app.app_context():
            ready.wait()
            try:
                outcomes[number] = act(number)
            except Exception as failure:  # noqa: BLE001 -- the test looks at each of them
                outcomes[number] = failure

    threads = [threading.Thread(target=run, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def wider(app: Flask) -> None:
    """Let every thread have its connection: the race is about the rows, not about the pool."""
    with app.app_context():
        db.engines[None].pool._pool.maxsize = AT_ONCE  # type: ignore[attr-defined]


def test_a_message_sent_twelve_times_at_once_is_one_message(committed_app: Flask) -> None:
    wider(committed_app)
    person = make_person(committed_app)
    with committed_app.app_context():
        conversation = service.start(actor=person.actor).conversation
    outcomes = race(
        committed_app,
        lambda _: (
            service.post_message(conversation.id, "Hello", actor=person.actor, idempotency_key="the same").message.id
        ),
    )
    assert len(set(outcomes)) == 1, outcomes
    with committed_app.app_context():
        assert db.session.get_one(Conversation, conversation.id).total_messages == 2
        assert db.session.scalar(select(func.count()).select_from(ConversationMessage)) == 2
        assert db.session.scalar(text("SELECT count(*) FROM procrastinate_jobs")) == 1


def test_a_conversation_started_twelve_times_at_once_is_one_conversation(committed_app: Flask) -> None:
    wider(committed_app)
    person = make_person(committed_app)
    outcomes = race(
        committed_app,
        lambda _: service.start(actor=person.actor, content="Hello", idempotency_key="the same").conversation.id,
    )
    assert len(set(outcomes)) == 1, outcomes
    with committed_app.app_context():
        assert db.session.scalar(select(func.count()).select_from(Conversation)) == 1
        assert db.session.scalar(select(func.count()).select_from(ConversationMessage)) == 2


def test_twelve_messages_at_once_stand_in_one_order(committed_app: Flask) -> None:
    wider(committed_app)
    person = make_person(committed_app)
    with committed_app.app_context():
        conversation = service.start(actor=person.actor).conversation
    outcomes = race(
        committed_app,
        lambda number: service.post_message(conversation.id, str(number), actor=person.actor).message.id,
    )
    assert len(set(outcomes)) == AT_ONCE, outcomes
    with committed_app.app_context():
        page = reading.list_messages(conversation.id, actor=person.actor, limit=100)
    assert page.conversation.total_messages == len(page.messages) == 2 * AT_ONCE
    for before, after in zip(page.messages, page.messages[1:], strict=False):
        assert after.parent_id == before.id
        assert after.created_at > before.created_at
    assert [message.role for message in page.messages] == ["user", "assistant"] * AT_ONCE


def test_the_job_exists_if_and_only_if_the_message_was_committed(committed_app: Flask) -> None:
    person = make_person(committed_app)
    count = text("SELECT count(*) FROM procrastinate_jobs")

    def jobs_seen_by_others() -> int:
        with db.engines[None].connect() as other:
            return other.scalar(count) or 0

    with committed_app.app_context():
        conversation = service.start(actor=person.actor).conversation
        conversation = reading.access_conversation(conversation.id, actor=person.actor, for_update=True)
        service._append(conversation, "Hello", actor=person.actor, parent_id=None, key=None)
        assert db.session.scalar(count) == 1
        assert jobs_seen_by_others() == 0
        db.session.rollback()
        assert jobs_seen_by_others() == 0
        service.post_message(conversation.id, "Hello", actor=person.actor)
        assert jobs_seen_by_others() == 1
