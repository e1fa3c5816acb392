"""What a person says: starting a conversation, and posting a message to which a reply is on its way.

Each command is one commit with its audit events. What changes in a conversation afterwards is in changes.py.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from capecontrol import clock, ids
from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.events import Event
from capecontrol.audit.recorder import failures_recorded, record, record_failure
from capecontrol.conversations import wording
from capecontrol.conversations.models import Conversation, ConversationMessage
from capecontrol.conversations.reading import access_conversation, messages_of, order, position_of
from capecontrol.errors import Conflict, Invalid
from capecontrol.extensions import db
from capecontrol.job_queue import defer

MAKE_REPLY = "conversations.make_reply"
REPLIES = "replies"

_TICK = timedelta(microseconds=1)


class MessageRefused(Invalid):
    """The message breaks a rule of what may be said."""


class TitleRefused(Invalid):
    """The title breaks a rule."""


class UnknownParent(Invalid):
    """The message that this one answers is not in the conversation."""

    def __init__(self) -> None:
        super().__init__({"parent_id": ["There is no such message in this conversation."]})


class KeyUsedDifferently(Invalid):
    """The idempotency key already stands for something else that was sent."""

    def __init__(self) -> None:
        super().__init__({"idempotency_key": ["This was already sent with another text. Please send it afresh."]})


class ConversationDeleted(Conflict):
    """The conversation is deleted; it can be restored, and until then nothing in it changes."""

    detail = "This conversation is deleted. Restore it first."


@dataclass(frozen=True, slots=True)
class Posted:
    """A message as stored, and the reply that is on its way."""

    conversation: Conversation
    message: ConversationMessage
    reply: ConversationMessage


@dataclass(frozen=True, slots=True)
class Started:
    """A new conversation, with its first message and reply where one was written."""

    conversation: Conversation
    message: ConversationMessage | None = None
    reply: ConversationMessage | None = None


def start(
    *, actor: Actor, title: str | None = None, content: str | None = None, idempotency_key: str | None = None
) -> Started:
    """Start a conversation, with its first message if there is one; the title comes from its first words.

    The same key from the same person, with the same title and content, gives the same conversation, whatever has
    happened in it since. Raises MessageRefused, TitleRefused, KeyUsedDifferently.
    """
    with refusals_recorded(events.CONVERSATION_STARTED, actor=actor):
        if title is not None:
            title = checked_title(title)
        if content is not None:
            content = _checked_message(content)
        key = ids.fingerprint(idempotency_key) if idempotency_key else None
        fingerprint = _fingerprint_of(title, content)
        first_title = title or (wording.title_from(content) if content else wording.UNTITLED)
        conversation = _insert(actor, first_title, key, fingerprint if key else None)
        if conversation is None:
            return _already_started(actor, title, content, key or "")
        record(events.CONVERSATION_STARTED, actor=actor, subject_id=conversation.id)
        posted = _append(conversation, content, actor=actor, parent_id=None, key=key) if content else None
        db.session.commit()
    return Started(conversation, posted.message, posted.reply) if posted else Started(conversation)


def post_message(
    conversation_id: str,
    content: str,
    *,
    actor: Actor,
    parent_id: str | None = None,
    idempotency_key: str | None = None,
) -> Posted:
    """Store a message, a reply still to be made, and the job that makes it, in one commit.

    The conversation is locked meanwhile, so that messages have one order and counters are right. It leaves the
    archive. Without `parent_id` the message follows the last one. The same key with the same content gives the same
    message and reply. Raises NotFound, MessageRefused, UnknownParent, ConversationDeleted, KeyUsedDifferently.
    """
    with refusals_recorded(events.AI_PROMPT_REFUSED, actor=actor, subject_id=conversation_id):
        conversation = access_conversation(conversation_id, actor=actor, for_update=True)
        key = ids.fingerprint(idempotency_key) if idempotency_key else None
        posted = _already_posted(conversation, key)
        if posted is not None:
            if posted.message.content != content or parent_id not in (None, posted.message.parent_id):
                raise KeyUsedDifferently
            db.session.commit()
            return posted
        content = _checked_message(content)
        if conversation.status == "deleted":
            raise ConversationDeleted
        posted = _append(conversation, content, actor=actor, parent_id=parent_id, key=key)
        db.session.commit()
    return posted


def defer_reply(reply_id: str) -> None:
    """Order a reply: it is made if and only if the session commits."""
    defer(MAKE_REPLY, queue=REPLIES, reply_id=reply_id)


@contextmanager
def refusals_recorded(kind: Event, *, actor: Actor, subject_id: str | None = None) -> Iterator[None]:
    """Undo and record what is refused meanwhile, or fails, as an act of this kind that failed."""
    has_reason = "reason" in kind.details
    unavailable = {"reason": "unavailable"} if has_reason else None
    try:
        with failures_recorded(kind, actor=actor, details=unavailable, subject_id=subject_id):
            yield
    except (Invalid, Conflict) as refusal:
        db.session.rollback()
        details = {"reason": type(refusal).__name__} if has_reason else None
        record_failure(kind, actor=actor, error=refusal.detail, details=details, subject_id=subject_id)
        raise


def checked_title(text: str) -> str:
    """Return the title as it is stored. Raises TitleRefused."""
    try:
        return wording.checked_title(text)
    except ValueError as error:
        raise TitleRefused({"title": [str(error)]}) from None


def _insert(actor: Actor, title: str, key: str | None, fingerprint: str | None) -> Conversation | None:
    """Insert a conversation, or return None when the key has one, also from somebody a moment earlier."""
    now = clock.now()
    return db.session.scalar(
        insert(Conversation)
        .values(
            id=ids.new_id(),
            user_id=actor.id,
            title=title,
            idempotency_key=key,
            start_fingerprint=fingerprint,
            created_at=now,
            updated_at=now,
        )
        .on_conflict_do_nothing(
            index_elements=[Conversation.user_id, Conversation.idempotency_key],
            index_where=Conversation.idempotency_key.is_not(None),
        )
        .returning(Conversation)
    )


def _already_started(actor: Actor, title: str | None, content: str | None, key: str) -> Started:
    conversation = db.session.scalars(
        select(Conversation).where(Conversation.user_id == actor.id, Conversation.idempotency_key == key)
    ).one()
    posted = _already_posted(conversation, key)
    if conversation.start_fingerprint is not None:
        is_repeat = conversation.start_fingerprint == _fingerprint_of(title, content)
    else:  # started before fingerprints were kept: what is in the conversation now has to do
        first_words = posted.message.content if posted else None
        is_repeat = first_words == content and title in (None, conversation.title)
    if not is_repeat:
        raise KeyUsedDifferently
    db.session.commit()
    if posted is None or content is None:  # without content, what stands under the key was posted later
        return Started(conversation)
    return Started(conversation, posted.message, posted.reply)


def _fingerprint_of(title: str | None, content: str | None) -> str:
    """Return what must be equal for a repeated start to be one; the title may change, and messages follow."""
    return hashlib.sha256(json.dumps([title, content]).encode()).hexdigest()


def _already_posted(conversation: Conversation, key: str | None) -> Posted | None:
    """Return what was posted under the key. The conversation's lock makes this the last word."""
    if key is None:
        return None
    message = db.session.scalar(messages_of(conversation.id).where(ConversationMessage.idempotency_key == key))
    if message is None:
        return None
    reply = db.session.scalars(
        messages_of(conversation.id)
        .where(ConversationMessage.parent_id == message.id, ConversationMessage.role == "assistant")
        .order_by(*order())
        .limit(1)
    ).one()
    return Posted(conversation, message, reply)


def _append(
    conversation: Conversation, content: str, *, actor: Actor, parent_id: str | None, key: str | None
) -> Posted:
    """Add a message and its reply to come. The conversation is locked or new."""
    if parent_id is None:
        parent_id = _last_message_id(conversation.id)
    elif not _is_in(conversation.id, parent_id):
        raise UnknownParent
    # Later than everything before it, also when the clocks of two machines disagree.
    now = max(clock.now(), conversation.updated_at + _TICK)
    message = ConversationMessage(
        id=ids.new_id(),
        conversation_id=conversation.id,
        parent_id=parent_id,
        role="user",
        content=content,
        status="complete",
        idempotency_key=key,
        created_at=now,
        completed_at=now,
    )
    reply = ConversationMessage(
        id=ids.new_id(),
        conversation_id=conversation.id,
        parent_id=message.id,
        role="assistant",
        content="",
        status="queued",
        created_at=now + _TICK,
    )
    if conversation.total_messages == 0 and conversation.title == wording.UNTITLED:
        conversation.title = wording.title_from(content)
    if conversation.status == "archived":
        conversation.status = "active"
        record(events.CONVERSATION_UNARCHIVED, actor=actor, subject_id=conversation.id)
    conversation.total_messages += 2
    conversation.updated_at = reply.created_at
    db.session.add(message)
    db.session.flush()  # the reply's foreign key; the two are of one class, so the order is ours to keep
    db.session.add(reply)
    db.session.flush()
    defer_reply(reply.id)
    record(
        events.AI_PROMPT_SUBMITTED,
        actor=actor,
        subject_id=conversation.id,
        details={"message_id": message.id, "characters": len(content)},
    )
    return Posted(conversation, message, reply)


def _checked_message(text: str) -> str:
    try:
        return wording.checked_message(text)
    except ValueError as error:
        raise MessageRefused({"content": [str(error)]}) from None


def _last_message_id(conversation_id: str) -> str | None:
    newest_first = [column.desc() for column in order()]
    return db.session.scalar(
        select(ConversationMessage.id)
        .where(ConversationMessage.conversation_id == conversation_id)
        .order_by(*newest_first)
        .limit(1)
    )


def _is_in(conversation_id: str, message_id: str) -> bool:
    try:
        position_of(message_id, conversation_id, field="parent_id")
    except Invalid:
        return False
    return True
