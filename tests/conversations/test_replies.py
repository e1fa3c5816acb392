"""A reply is made once, whatever happens to the jobs that make it, and nothing waits for ever."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.event import listen
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from capecontrol.audit.models import AuditLog
from capecontrol.conversations import replies, service, tasks
from capecontrol.conversations.assistants import Reply, connected_provider
from capecontrol.conversations.models import Conversation, ConversationMessage
from capecontrol.extensions import db
from tests.people import Person, make_person

AT_ONCE = timedelta(seconds=-1)
ORDERED = text("SELECT args->>'reply_id' FROM procrastinate_jobs WHERE status = 'todo'")


class Stranger:
    """A provider that answers as the test says, and counts how often it was asked."""

    name = "stranger"

    def __init__(self, answer="An answer.") -> None:
        self.answer = answer
        self.asked: list[str] = []

    def reply(self, question: str, session: Session) -> Reply:
        self.asked.append(question)
        text = self.answer(session) if callable(self.answer) else self.answer
        return Reply(text, provider=self.name, model="pen and paper")


@contextmanager
def answered_by(monkeypatch: pytest.MonkeyPatch, provider: Stranger) -> Iterator[Stranger]:
    with monkeypatch.context() as patch:
        patch.setattr(replies, "connected_provider", lambda: provider)
        yield provider


@pytest.fixture
def posted(app: Flask, person: Person) -> service.Started:
    with app.app_context():
        return service.start(actor=person.actor, content="How do I rename a conversation?")


def make(app: Flask, reply_id: str) -> bool:
    with app.app_context():
        return replies.make_reply(reply_id)


def reply_of(db_session: Session, posted: service.Started) -> ConversationMessage:
    assert posted.reply is not None
    return db_session.get_one(ConversationMessage, posted.reply.id, populate_existing=True)


def events_named(db_session: Session, name: str) -> list[AuditLog]:
    return list(db_session.scalars(select(AuditLog).where(AuditLog.event_type == name)))


def test_the_guide_answers_and_says_what_it_is(app: Flask, posted, db_session: Session) -> None:
    assert make(app, posted.reply.id)
    reply = reply_of(db_session, posted)
    assert (reply.status, reply.ai_provider, reply.error) == ("complete", "guide", None)
    assert "No AI model is connected" in reply.content.splitlines()[0]
    assert "/help/organising-conversations" in reply.content
    assert reply.completed_at is not None
    assert reply.response_time_ms is not None
    assert 0 <= reply.response_time_ms < 60_000
    conversation = db_session.get_one(Conversation, posted.conversation.id, populate_existing=True)
    assert conversation.ai_provider == "guide"
    assert conversation.updated_at >= reply.completed_at


def test_the_answer_is_recorded_as_the_systems_act_for_its_owner(
    app: Flask, person: Person, posted, db_session: Session
) -> None:
    make(app, posted.reply.id)
    (event,) = events_named(db_session, "ai_response_generated")
    assert (event.user_id, event.actor_ref, event.subject_id) == (person.id, None, posted.conversation.id)
    assert event.event_metadata["message_id"] == posted.reply.id
    assert event.event_metadata["provider"] == "guide"
    assert event.event_metadata["characters"] == len(reply_of(db_session, posted).content)


def test_a_reply_is_made_once_though_its_job_runs_twice(app: Flask, posted, db_session, monkeypatch) -> None:
    with answered_by(monkeypatch, Stranger()) as stranger:
        assert make(app, posted.reply.id)
        assert not make(app, posted.reply.id)
    assert stranger.asked == ["How do I rename a conversation?"]
    assert len(events_named(db_session, "ai_response_generated")) == 1


@pytest.mark.parametrize("reply_id", ["nothing", "x" * 500])
def test_a_reply_that_is_not_there_is_nobodys_business(app: Flask, reply_id: str) -> None:
    assert not make(app, reply_id)


def test_a_message_of_a_person_is_no_reply(app: Flask, posted, db_session: Session) -> None:
    assert not make(app, posted.message.id)
    assert db_session.get_one(ConversationMessage, posted.message.id).content == "How do I rename a conversation?"


def test_a_reply_left_in_the_middle_is_taken_over(app: Flask, posted, db_session: Session) -> None:
    reply_of(db_session, posted).status = "streaming"
    db_session.commit()
    assert make(app, posted.reply.id)
    assert reply_of(db_session, posted).status == "complete"


def test_nothing_is_held_while_the_provider_works(committed_app: Flask, monkeypatch) -> None:
    person = make_person(committed_app)
    with committed_app.app_context():
        posted = service.start(actor=person.actor, content="Hello")
    held: list[object] = []

    def look(session: Session) -> str:
        held.append(session.in_transaction())
        with db.engines[None].connect() as other:
            held.append(
                other.scalar(
                    text(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                        "AND state LIKE 'idle in%' AND pid <> pg_backend_pid()"
                    )
                )
            )
            other.execute(text("SELECT 1 FROM conversations FOR UPDATE NOWAIT"))
            other.execute(text("SELECT 1 FROM conversation_messages FOR UPDATE NOWAIT"))
            held.append(other.scalar(text("SELECT status FROM conversation_messages WHERE role = 'assistant'")))
        return "An answer."

    with answered_by(monkeypatch, Stranger(look)):
        assert make(committed_app, posted.reply.id)
    assert held == [False, 0, "streaming"]


def test_two_workers_at_the_same_reply_store_one_answer(committed_app: Flask, monkeypatch) -> None:
    person = make_person(committed_app)
    with committed_app.app_context():
        posted = service.start(actor=person.actor, content="Hello")
    first_at_it = threading.Event()  # one after the other: who finds the row locked leaves it alone, rightly
    both_at_it = threading.Barrier(2, timeout=20)

    def answer(_session: Session) -> str:
        first_at_it.set()
        both_at_it.wait()
        return threading.current_thread().name

    results: list[bool] = []
    with answered_by(monkeypatch, Stranger(answer)):
        workers = [
            threading.Thread(target=lambda: results.append(make(committed_app, posted.reply.id)), name=name)
            for name in ("one", "two")
        ]
        for worker in workers:
            worker.start()
            assert first_at_it.wait(20)
        for worker in workers:
            worker.join(30)
    assert sorted(results) == [False, True]
    with committed_app.app_context():
        assert db.session.get_one(ConversationMessage, posted.reply.id).content in ("one", "two")
        assert len(events_named(db.session(), "ai_response_generated")) == 1


def test_somebody_who_goes_on_writing_does_not_delay_the_reply(committed_app: Flask) -> None:
    """A post in progress refers to the reply before it, and must not look like a worker that has it."""
    person = make_person(committed_app)
    with committed_app.app_context():
        posted = service.start(actor=person.actor, content="Hello")
    with committed_app.app_context():
        # What post_message holds until its commit: the conversation, and the last message as a parent.
        db.session.execute(text("SELECT 1 FROM conversations FOR NO KEY UPDATE"))
        db.session.execute(text("SELECT 1 FROM conversation_messages FOR KEY SHARE"))
        claimed: list[object] = []

        def claim() -> None:
            with committed_app.app_context():
                claimed.append(replies._claim(posted.reply.id))

        worker = threading.Thread(target=claim)
        worker.start()
        worker.join(20)
        db.session.rollback()
    assert claimed[0] is not None


# Failures


def run_job(app: Flask, reply_id: str, *, attempts: int) -> None:
    with app.app_context():
        tasks.make_reply(SimpleNamespace(job=SimpleNamespace(attempts=attempts)), reply_id)


def fail(_session: Session) -> str:
    raise TimeoutError("secret words of a driver")


def test_a_failed_try_leaves_the_reply_for_the_next(app: Flask, posted, db_session, monkeypatch) -> None:
    with answered_by(monkeypatch, Stranger(fail)), pytest.raises(TimeoutError):
        run_job(app, posted.reply.id, attempts=0)
    assert reply_of(db_session, posted).status == "streaming"
    assert events_named(db_session, "ai_response_failed") == []
    run_job(app, posted.reply.id, attempts=1)
    assert reply_of(db_session, posted).status == "complete"


def test_after_the_last_try_the_person_is_told(app: Flask, person: Person, posted, db_session, monkeypatch) -> None:
    with answered_by(monkeypatch, Stranger(fail)), pytest.raises(TimeoutError):
        run_job(app, posted.reply.id, attempts=tasks.RETRIES)
    reply = reply_of(db_session, posted)
    assert (reply.status, reply.content) == ("failed", "")
    assert reply.error == replies.FAILED
    (event,) = events_named(db_session, "ai_response_failed")
    assert (event.success, event.user_id, event.user_email) == (False, person.id, person.email)
    assert event.event_metadata == {"message_id": reply.id, "provider": "stranger", "reason": "TimeoutError"}
    assert "secret" not in f"{event.error_message}{reply.error}"
    assert not make(app, posted.reply.id)


@pytest.mark.parametrize("status", ["streaming", "complete"], ids=["when it is claimed", "when it is stored"])
def test_after_a_last_try_that_the_database_failed_the_person_is_told_too(
    app: Flask, posted, db_session: Session, status: str
) -> None:
    db_session.execute(
        text(f"ALTER TABLE conversation_messages ADD CONSTRAINT broken CHECK (status <> '{status}') NOT VALID")
    )
    db_session.commit()
    with pytest.raises(IntegrityError):
        run_job(app, posted.reply.id, attempts=tasks.RETRIES)
    reply = reply_of(db_session, posted)
    assert (reply.status, reply.error) == ("failed", replies.FAILED)
    (event,) = events_named(db_session, "ai_response_failed")
    assert event.event_metadata["reason"] == "IntegrityError"


def test_a_worker_killed_as_it_gives_up_leaves_the_record_of_it(app: Flask, posted, db_session: Session) -> None:
    def die(_session: Session) -> None:
        raise SystemExit

    with app.app_context():
        listen(db.session(), "after_commit", die)
        with pytest.raises(SystemExit):
            replies.give_up(posted.reply.id, reason="TimeoutError")
    assert reply_of(db_session, posted).status == "failed"
    assert len(events_named(db_session, "ai_response_failed")) == 1


def test_a_reply_that_was_given_up_is_recorded_as_nobodys_act_about_its_owner(
    app: Flask, person: Person, posted, db_session: Session
) -> None:
    with app.app_context():
        replies.give_up(posted.reply.id, reason="TimeoutError")
    (event,) = events_named(db_session, "ai_response_failed")
    assert (event.user_id, event.user_email, event.subject_id) == (person.id, person.email, posted.conversation.id)
    assert (event.actor_ref, event.user_role, event.session_id) == (None, None, None)
    assert (event.success, event.error_message) == (False, replies.FAILED)


def test_a_reply_that_kills_its_workers_is_given_up(app: Flask, posted, db_session, monkeypatch) -> None:
    with answered_by(monkeypatch, Stranger()) as stranger:
        run_job(app, posted.reply.id, attempts=tasks.RETRIES + 1)
    assert stranger.asked == []
    assert reply_of(db_session, posted).status == "failed"


def test_a_reply_made_in_the_meantime_is_not_given_up(app: Flask, posted, db_session: Session) -> None:
    make(app, posted.reply.id)
    with app.app_context():
        assert not replies.give_up(posted.reply.id, reason="TimeoutError")
    assert reply_of(db_session, posted).status == "complete"


def test_the_queue_is_told_to_try_as_often_as_the_task_counts() -> None:
    strategy = tasks.make_reply.retry_strategy
    waits = [
        strategy.get_retry_decision(exception=TimeoutError(), job=SimpleNamespace(attempts=attempts))
        for attempts in range(tasks.RETRIES + 1)
    ]
    assert [wait is not None for wait in waits] == [True] * tasks.RETRIES + [False]


# Nothing waits for ever


def test_a_reply_without_a_job_is_ordered_again(app: Flask, posted, db_session: Session) -> None:
    db_session.execute(text("DELETE FROM procrastinate_jobs"))
    db_session.commit()
    with app.app_context():
        assert replies.order_lost_replies(lost_after=AT_ONCE) == 1
    assert db_session.scalars(ORDERED).all() == [posted.reply.id]
    with app.app_context():
        assert replies.order_lost_replies(lost_after=AT_ONCE) == 0


@pytest.mark.parametrize("status", ["todo", "doing"])
def test_a_reply_with_a_job_is_left_to_it(app: Flask, posted, db_session: Session, status: str) -> None:
    db_session.execute(
        text("UPDATE procrastinate_jobs SET status = CAST(:s AS procrastinate_job_status)"), {"s": status}
    )
    db_session.commit()
    with app.app_context():
        assert replies.order_lost_replies(lost_after=AT_ONCE) == 0


@pytest.mark.parametrize("status", ["failed", "aborted", "cancelled"])
def test_a_job_that_ended_makes_no_reply_any_more(app: Flask, posted, db_session: Session, status: str) -> None:
    db_session.execute(
        text("UPDATE procrastinate_jobs SET status = CAST(:s AS procrastinate_job_status)"), {"s": status}
    )
    db_session.commit()
    with app.app_context():
        assert replies.order_lost_replies(lost_after=AT_ONCE) == 1


def test_a_fresh_reply_and_a_finished_one_are_not_lost(app: Flask, posted, db_session: Session) -> None:
    db_session.execute(text("DELETE FROM procrastinate_jobs"))
    db_session.commit()
    with app.app_context():
        assert replies.order_lost_replies() == 0
    make(app, posted.reply.id)
    with app.app_context():
        assert replies.order_lost_replies(lost_after=AT_ONCE) == 0


def test_a_database_that_breaks_while_ordering_says_so_itself(app: Flask, person: Person, monkeypatch) -> None:
    """The queue wraps errors; unwrapped, they decide whether people read "busy" or "broken"."""
    with app.app_context():
        db.session.execute(text("ALTER TABLE procrastinate_jobs RENAME TO gone"))
        with pytest.raises(Exception, match="procrastinate_jobs") as failure:
            service.start(actor=person.actor, content="Hello")
        db.session.rollback()
    assert type(failure.value).__module__.startswith("sqlalchemy")
    assert not isinstance(failure.value, OperationalError)


def test_the_guide_is_who_answers_now() -> None:
    assert connected_provider().name == "guide"
