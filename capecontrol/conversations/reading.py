"""Whose a conversation is, and what is in it: an id becomes one only by way of its owner, and lists come in pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.recorder import record_failure
from capecontrol.conversations.models import Conversation, ConversationMessage
from capecontrol.errors import Invalid, NotFound
from capecontrol.extensions import db
from capecontrol.web import pagination

SHELVES = ("active", "archived", "deleted")
UNFINISHED = ("queued", "streaming")
"""What a reply is while it is still to come."""

PAGE = 50
PAGE_CHARACTERS = 100_000
"""A page of messages ends early at this many, because drawing markdown takes time: up to half a second for 32,000."""

_LONGEST_ID = 200


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
    query = messages_of(conversation.id)
    if after is not None:
        query = query.where(_place() > position_of(after, conversation.id, field="after"))
    found = db.session.scalars(query.order_by(*order()).limit(limit + 1)).all()
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
    query = messages_of(conversation.id)
    if before is not None:
        query = query.where(_place() < position_of(before, conversation.id, field="before"))
    newest_first = [column.desc() for column in order()]
    found = db.session.scalars(query.order_by(*newest_first).limit(limit + 1)).all()
    shown = _what_fits(found, limit)[::-1]
    return MessagePage(conversation, shown, shown[0].id if len(found) > len(shown) else None)


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


def messages_of(conversation_id: str) -> Select[ConversationMessage]:
    """Return the question for a conversation's messages, as they are in the database and not in the session."""
    return (
        select(ConversationMessage)
        .where(ConversationMessage.conversation_id == conversation_id)
        .execution_options(populate_existing=True)
    )


def order() -> tuple[InstrumentedAttribute[datetime], InstrumentedAttribute[str]]:
    """Return the columns by which messages follow one another."""
    return (ConversationMessage.created_at, ConversationMessage.id)


def is_plausible_id(text: str) -> bool:
    """Say whether this can be an id at all: what PostgreSQL cannot even compare is nothing at this address."""
    return 0 < len(text) <= _LONGEST_ID and text.isascii() and text.isprintable()


def _what_fits(messages: Sequence[ConversationMessage], limit: int) -> Sequence[ConversationMessage]:
    """Return the first messages, as many as a page holds: `limit`, or fewer when they are long, but one at least."""
    characters = 0
    for count, message in enumerate(messages[:limit]):
        characters += len(message.content)
        if count and characters > PAGE_CHARACTERS:
            return messages[:count]
    return messages[:limit]


def _place() -> ColumnElement[Any]:
    return tuple_(ConversationMessage.created_at, ConversationMessage.id)
