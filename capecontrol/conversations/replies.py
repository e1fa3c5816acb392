"""Making a reply: claim it, ask the provider while nothing is held, store the answer once."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import aliased

from capecontrol import clock
from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.recorder import record
from capecontrol.auth.credentials import actor_of
from capecontrol.auth.models import User
from capecontrol.conversations.assistants import Reply, connected_provider
from capecontrol.conversations.models import Conversation, ConversationMessage
from capecontrol.conversations.reading import UNFINISHED
from capecontrol.conversations.service import MAKE_REPLY, defer_reply
from capecontrol.extensions import db
from capecontrol.job_queue import without_job

FAILED = "The reply could not be made. What you wrote is kept; please ask again in a moment."

LOST_AFTER = timedelta(seconds=30)
"""How long a reply may be unfinished before the sweep looks whether a job is still going to make it."""

_MOST_AT_ONCE = 500

_WITHOUT_JOB = without_job(MAKE_REPLY, "reply_id", "conversation_messages.id")


@dataclass(frozen=True, slots=True)
class _Task:
    """What is needed to make a reply, in plain values: no transaction stands behind them."""

    reply_id: str
    conversation_id: str
    question: str
    owner: Actor


def make_reply(reply_id: str) -> bool:
    """Make the reply and say whether this call stored it; does nothing to one that is made or gone already.

    A reply found as `streaming` is taken over: the queue gives a job out again only when its worker is dead. Should
    two workers be at it all the same, the first to finish is the one whose answer is stored. Raises what the
    provider or the database raises, and leaves the reply to be tried again.
    """
    task = _claim(reply_id)
    if task is None:
        return False
    started = clock.monotonic()
    try:
        answer = connected_provider().reply(task.question, db.session())
    finally:
        db.session.rollback()
    return _finish(task, answer, milliseconds=round((clock.monotonic() - started) * 1000))


def give_up(reply_id: str, *, reason: str) -> bool:
    """Mark the reply as failed, with a sentence for the person, and say whether it was still to come."""
    db.session.rollback()  # the last try may have ended in the middle of a transaction
    found = _lock(reply_id)
    if found is None:
        return False
    task, conversation, reply = found
    reply.status = "failed"
    reply.error = FAILED
    reply.completed_at = clock.now()
    conversation.updated_at = max(reply.completed_at, conversation.updated_at)
    record(
        events.AI_RESPONSE_FAILED,
        actor=None,
        account_id=task.owner.id,
        email=task.owner.email,
        subject_id=task.conversation_id,
        error=FAILED,
        details={"message_id": reply_id, "provider": connected_provider().name, "reason": reason},
    )
    db.session.commit()
    return True


def order_lost_replies(*, lost_after: timedelta = LOST_AFTER) -> int:
    """Order again the replies that nobody is going to make, so that nothing a person wrote waits for ever.

    Returns how many. A job can be gone without its reply being finished when a worker was killed at the wrong moment
    or an operator emptied the queue.
    """
    lost = db.session.scalars(
        select(ConversationMessage.id)
        .where(
            ConversationMessage.status.in_(UNFINISHED),
            ConversationMessage.role == "assistant",
            ConversationMessage.created_at < clock.now() - lost_after,
            _WITHOUT_JOB,
        )
        .order_by(ConversationMessage.created_at)
        .limit(_MOST_AT_ONCE)
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    for reply_id in lost:
        defer_reply(reply_id)
    db.session.commit()
    return len(lost)


def _claim(reply_id: str) -> _Task | None:
    """Mark the reply as being made; None when it is made, gone, or another worker is storing it this moment."""
    found = _lock(reply_id, only_reply=True)
    if found is None:
        return None
    task, _, reply = found
    reply.status = "streaming"
    db.session.commit()
    return task


def _finish(task: _Task, answer: Reply, *, milliseconds: int) -> bool:
    found = _lock(task.reply_id)
    if found is None:
        return False
    _, conversation, reply = found
    reply.content = answer.text
    reply.status = "complete"
    reply.error = None
    reply.completed_at = clock.now()
    reply.response_time_ms = milliseconds
    reply.ai_provider = conversation.ai_provider = answer.provider
    reply.model_name = conversation.model_name = answer.model
    conversation.updated_at = max(reply.completed_at, conversation.updated_at)
    record(
        events.AI_RESPONSE_GENERATED,
        actor=None,
        on_behalf_of=task.owner,
        subject_id=task.conversation_id,
        details={
            "message_id": task.reply_id,
            "provider": answer.provider,
            "characters": len(answer.text),
            "milliseconds": milliseconds,
        },
    )
    db.session.commit()
    return True


def _lock(reply_id: str, *, only_reply: bool = False) -> tuple[_Task, Conversation, ConversationMessage] | None:
    """Lock an unfinished reply with its conversation, or None when it is not unfinished (any more).

    With `only_reply` the conversation is left alone, and a reply that is locked counts as taken. NO KEY UPDATE: a
    message posted at this moment refers to the reply and must neither wait for us nor look like another worker.
    """
    question = aliased(ConversationMessage)
    row = db.session.execute(
        select(ConversationMessage, Conversation, question.content, User)
        .join(Conversation, Conversation.id == ConversationMessage.conversation_id)
        .join(question, question.id == ConversationMessage.parent_id)
        .join(User, User.id == Conversation.user_id)
        .where(ConversationMessage.id == reply_id, ConversationMessage.status.in_(UNFINISHED))
        .with_for_update(
            of=ConversationMessage if only_reply else (Conversation, ConversationMessage),
            skip_locked=only_reply,
            key_share=True,
        )
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        db.session.rollback()
        return None
    reply, conversation, content, user = row
    return _Task(reply.id, conversation.id, content, actor_of(user)), conversation, reply
