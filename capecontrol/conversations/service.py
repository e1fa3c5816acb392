"""What a person does with conversations: start, read, post. What changes in one afterwards is in changes.py.

Each command is one commit with its audit events. An id becomes a conversation only by way of its owner.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from procrastinate.exceptions import ConnectorException
from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute

from capecontrol import clock, ids
from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.events import Event
from capecontrol.audit.recorder import failures_recorded, record, record_failure
from capecontrol.conversations import wording
from capecontrol.conversations.models import Conversation, ConversationMessage
from capecontrol.errors import Conflict, Invalid, NotFound
from capecontrol.extensions import db, jobs
from capecontrol.web import pagination

SHELVES = ("active", "archived", "deleted")
UNFINISHED = ("queued", "streaming")
"""What a reply is while it is still to come."""

PAGE = 50
PAGE_CHARACTERS = 100_000
"""A page of messages ends early at this many, because drawing markdown takes time: up to half a second for 32,000."""

MAKE_REPLY = "conversations.make_reply"
REPLIES = "replies"

_LONGEST_ID = 200
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


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """Conversations, the ones used last first; `next` is the cursor of the page after, if there is one."""

    conversations: Sequence[Conversation]
    next: str | None


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Messages of a conversation, oldest first; `next` is the id from which the reading goes on, if it does."""

    conversation: Conversation
    messages: Sequence[ConversationMessage]
    next: str | None


def start(
    *, actor: Actor, title: str | None = None, content: str | None = None, idempotency_key: str | None = None
) -> Started:
    """Start a conversation, with its first message if there is one; the title comes from its first words.

    The same key from the same person gives the same conversation. Raises MessageRefused, TitleRefused,
    KeyUsedDifferently.
    """
    with refusals_recorded(events.CONVERSATION_STARTED, actor=actor):
        if title is not None:
            title = checked_title(title)
        if content is not None:
            content = _checked_message(content)
        key = ids.fingerprint(idempotency_key) if idempotency_key else None
        conversation = _insert(actor, title or (wording.title_from(content) if content else wording.UNTITLED), key)
        if conversation is None:
            return _already_started(actor, title, content, key or "")
        record(events.CONVERSATION_STARTED, actor=actor, subject_id=conversation.id)
        posted = _append(conversation, content, actor=actor, parent_id=None, key=key) if content else None
        db.session.commit()
    return Started(conversation, posted.message, posted.reply) if posted else Started(conversation)


def list_conversations(
    *, actor: Actor, status: str = "active", cursor: str | None = None, limit: int = PAGE
) -> ConversationPage:
    """Return one shelf of the person's conversations. Raises Invalid for a cursor this list did not give out."""
    query = select(Conversation).where(Conversation.user_id == actor.id, Conversation.status == status)
    position = pagination.decode(cursor)
    if position is not None:
        query = query.where(tuple_(Conversation.updated_at, Conversation.id) < (position.at, position.id))
    query = query.order_by(Conversation.updated_at.desc(), Conversation.id.desc()).limit(limit + 1)
    found = db.session.scalars(query).all()
    db.session.commit()
    shown = found[:limit]
    following = pagination.encode(shown[-1].updated_at, shown[-1].id) if len(found) > limit else None
    return ConversationPage(shown, following)


def access_conversation(conversation_id: str, *, actor: Actor, for_update: bool = False) -> Conversation:
    """Return the person's conversation, locked until the commit when it is to change.

    Raises NotFound when it does not exist or is somebody else's; the latter is recorded.
    """
    if not is_plausible_id(conversation_id):
        raise NotFound
    query = (
        select(Conversation)
        .where(Conversation.id == conversation_id, Conversation.user_id == actor.id)
        .execution_options(populate_existing=True)
    )
    conversation = db.session.scalar(query.with_for_update(key_share=True) if for_update else query)
    if conversation is not None:
        return conversation
    is_somebody_elses = db.session.scalar(select(Conversation.id).where(Conversation.id == conversation_id))
    db.session.rollback()
    if is_somebody_elses:
        record_failure(
            events.ACCESS_DENIED,
            actor=actor,
            error="The conversation belongs to somebody else.",
            details={"wanted": "conversation"},
            subject_id=conversation_id,
        )
    raise NotFound


def get_conversation(conversation_id: str, *, actor: Actor) -> Conversation:
    """Return the person's conversation. Raises NotFound."""
    conversation = access_conversation(conversation_id, actor=actor)
    db.session.commit()
    return conversation


def list_messages(conversation_id: str, *, actor: Actor, after: str | None = None, limit: int = PAGE) -> MessagePage:
    """Return messages from the beginning, or those after the given one. Raises NotFound, Invalid."""
    conversation = access_conversation(conversation_id, actor=actor)
    query = _messages_of(conversation.id)
    if after is not None:
        query = query.where(_place() > position_of(after, conversation.id, field="after"))
    found = db.session.scalars(query.order_by(*_order()).limit(limit + 1)).all()
    db.session.commit()
    shown = _what_fits(found, limit)
    return MessagePage(conversation, shown, shown[-1].id if len(found) > len(shown) else None)


def list_latest_messages(
    conversation_id: str, *, actor: Actor, before: str | None = None, limit: int = PAGE
) -> MessagePage:
    """Return the newest messages, or the newest before the given one; `next` leads to older ones.

    Raises NotFound, Invalid.
    """
    conversation = access_conversation(conversation_id, actor=actor)
    page = latest_messages_of(conversation, before=before, limit=limit)
    db.session.commit()
    return page


def latest_messages_of(conversation: Conversation, *, before: str | None = None, limit: int = PAGE) -> MessagePage:
    """Return the newest messages of a conversation that the caller has access to. Does not commit. Raises Invalid."""
    query = _messages_of(conversation.id)
    if before is not None:
        query = query.where(_place() < position_of(before, conversation.id, field="before"))
    newest_first = [column.desc() for column in _order()]
    found = db.session.scalars(query.order_by(*newest_first).limit(limit + 1)).all()
    shown = _what_fits(found, limit)[::-1]
    return MessagePage(conversation, shown, shown[0].id if len(found) > len(shown) else None)


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


def position_of(message_id: str, conversation_id: str, *, field: str) -> tuple[datetime, str]:
    """Return where a message stands in its conversation. Raises Invalid, on `field`, when it is not in it."""
    found = None
    if is_plausible_id(message_id):
        found = db.session.execute(
            select(ConversationMessage.created_at, ConversationMessage.id).where(
                ConversationMessage.id == message_id, ConversationMessage.conversation_id == conversation_id
            )
        ).one_or_none()
    if found is None:
        raise Invalid({field: ["There is no such message in this conversation."]})
    return (found.created_at, found.id)


def defer_reply(reply_id: str) -> None:
    """Order a reply on the session's own connection: the job exists if and only if the session commits."""
    try:
        jobs.configure_task(MAKE_REPLY, queue=REPLIES, connection=db.session.connection()).defer(reply_id=reply_id)
    except ConnectorException as failure:
        raise failure.__cause__ or failure from None  # the database's own error, which says whether it will pass


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


def is_plausible_id(text: str) -> bool:
    """Say whether this can be an id at all: what PostgreSQL cannot even compare is nothing at this address."""
    return 0 < len(text) <= _LONGEST_ID and text.isascii() and text.isprintable()


def _insert(actor: Actor, title: str, key: str | None) -> Conversation | None:
    """Insert a conversation, or return None when the key has one, also from somebody a moment earlier."""
    now = clock.now()
    return db.session.scalar(
        insert(Conversation)
        .values(id=ids.new_id(), user_id=actor.id, title=title, idempotency_key=key, created_at=now, updated_at=now)
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
    is_other_text = (posted.message.content if posted else None) != content
    if is_other_text or title not in (None, conversation.title):
        raise KeyUsedDifferently
    db.session.commit()
    return Started(conversation, posted.message, posted.reply) if posted else Started(conversation)


def _already_posted(conversation: Conversation, key: str | None) -> Posted | None:
    """Return what was posted under the key. The conversation's lock makes this the last word."""
    if key is None:
        return None
    message = db.session.scalar(_messages_of(conversation.id).where(ConversationMessage.idempotency_key == key))
    if message is None:
        return None
    reply = db.session.scalars(
        _messages_of(conversation.id)
        .where(ConversationMessage.parent_id == message.id, ConversationMessage.role == "assistant")
        .order_by(*_order())
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


def _what_fits(messages: Sequence[ConversationMessage], limit: int) -> Sequence[ConversationMessage]:
    """Return the first messages, as many as a page holds: `limit`, or fewer when they are long, but one at least."""
    characters = 0
    for count, message in enumerate(messages[:limit]):
        characters += len(message.content)
        if count and characters > PAGE_CHARACTERS:
            return messages[:count]
    return messages[:limit]


def _last_message_id(conversation_id: str) -> str | None:
    newest_first = [column.desc() for column in _order()]
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


def _messages_of(conversation_id: str) -> Select[ConversationMessage]:
    return (
        select(ConversationMessage)
        .where(ConversationMessage.conversation_id == conversation_id)
        .execution_options(populate_existing=True)
    )


def _place() -> ColumnElement[Any]:
    return tuple_(ConversationMessage.created_at, ConversationMessage.id)


def _order() -> tuple[InstrumentedAttribute[datetime], InstrumentedAttribute[str]]:
    return (ConversationMessage.created_at, ConversationMessage.id)
