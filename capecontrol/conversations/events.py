"""Following a conversation: what appeared or changed in it, as server-sent events read from the database.

Whoever follows reads the same rows, so a reload, a second tab or a killed process loses nothing. Between two looks
neither a connection nor a session is held.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock
from capecontrol.audit.actor import Actor
from capecontrol.conversations.models import ConversationMessage
from capecontrol.conversations.reading import UNFINISHED, access_conversation, position_of
from capecontrol.conversations.schemas import MessageAnswer
from capecontrol.extensions import db

LOOK_EVERY_SECONDS = 0.3
HEARTBEAT_SECONDS = 5.0
LONGEST_SECONDS = 25.0
RECONNECT_MS = 2000

_MOST_AT_ONCE = 100

log = structlog.get_logger("events")

Place = tuple[datetime, str]


@dataclass(slots=True)
class Follower:
    """How far somebody has followed a conversation: everything up to `settled` is known and will not change."""

    conversation_id: str
    settled: Place | None


def follow(conversation_id: str, *, actor: Actor, after: str | None) -> Follower:
    """Begin to follow the person's conversation after a message they have, or from the beginning.

    Replies that are still to come are followed also when they stand before that message. Raises NotFound, Invalid.
    """
    conversation = access_conversation(conversation_id, actor=actor)
    settled = position_of(after, conversation.id, field="after") if after else None
    if settled is not None:
        pending = db.session.execute(
            select(ConversationMessage.created_at, ConversationMessage.id)
            .where(
                ConversationMessage.conversation_id == conversation.id,
                ConversationMessage.status.in_(UNFINISHED),
                tuple_(ConversationMessage.created_at, ConversationMessage.id) <= settled,
            )
            .order_by(ConversationMessage.created_at, ConversationMessage.id)
            .limit(1)
        ).one_or_none()
        if pending is not None:
            settled = _last_before((pending.created_at, pending.id), conversation.id)
    db.session.commit()
    return Follower(conversation.id, settled)


def stream(
    follower: Follower,
    *,
    session_scope: Callable[[], AbstractContextManager[object]],
    give_back: Callable[[], None],
    is_stopping: Callable[[], bool],
) -> Iterator[str]:
    """Yield the events: each new or changed message, then `end` with its reason.

    `session_scope` is entered for each look at the database. The reasons: `complete` when no reply is to come any
    more, `timeout` after 25 s or when the process `is_stopping`, `unavailable` when the database does not answer.
    """
    try:
        yield from _events(follower, session_scope, is_stopping)
    finally:
        give_back()


def _events(
    follower: Follower, session_scope: Callable[[], AbstractContextManager[object]], is_stopping: Callable[[], bool]
) -> Iterator[str]:
    ends_at = clock.monotonic() + LONGEST_SECONDS
    heartbeat_at = clock.monotonic() + HEARTBEAT_SECONDS
    seen: dict[str, tuple[str, int, str | None]] = {}
    yield f"retry: {RECONNECT_MS}\n\n"  # at once, so that the headers go out and the page knows it is connected
    while True:
        try:
            with session_scope():
                messages = _look(follower)
        except SQLAlchemyError as error:
            log.warning("stream_without_database", kind=type(error).__name__)
            yield _end("unavailable")
            return
        is_unfinished = any(message.status in UNFINISHED for message in messages)
        has_more = len(messages) == _MOST_AT_ONCE
        for message in _advance(follower, messages):
            if seen.get(message.id) != _signature(message):
                seen[message.id] = _signature(message)
                yield _event("message", MessageAnswer.of(message).model_dump_json(), follower.settled)
                heartbeat_at = clock.monotonic() + HEARTBEAT_SECONDS
        if has_more and not is_unfinished:
            continue
        if not is_unfinished:
            yield _end("complete")
            return
        if clock.monotonic() >= ends_at or is_stopping():
            yield _end("timeout")
            return
        if clock.monotonic() >= heartbeat_at:
            heartbeat_at = clock.monotonic() + HEARTBEAT_SECONDS
            yield ": still here\n\n"  # a caller who is gone is noticed only when something is sent
        time.sleep(LOOK_EVERY_SECONDS)


def _look(follower: Follower) -> Sequence[ConversationMessage]:
    """Read what stands after the settled part, in a transaction that ends with the session's scope."""
    query = select(ConversationMessage).where(ConversationMessage.conversation_id == follower.conversation_id)
    if follower.settled is not None:
        query = query.where(tuple_(ConversationMessage.created_at, ConversationMessage.id) > follower.settled)
    query = query.order_by(ConversationMessage.created_at, ConversationMessage.id).limit(_MOST_AT_ONCE)
    return db.session.scalars(query).all()


def _advance(follower: Follower, messages: Sequence[ConversationMessage]) -> Iterator[ConversationMessage]:
    """Hand out the messages one by one, and settle no further than the one in hand: the reader may leave at any."""
    is_settled = True
    for message in messages:
        is_settled = is_settled and message.status not in UNFINISHED
        if is_settled:
            follower.settled = (message.created_at, message.id)
        yield message


def _last_before(place: Place, conversation_id: str) -> Place | None:
    row = db.session.execute(
        select(ConversationMessage.created_at, ConversationMessage.id)
        .where(
            ConversationMessage.conversation_id == conversation_id,
            tuple_(ConversationMessage.created_at, ConversationMessage.id) < place,
        )
        .order_by(ConversationMessage.created_at.desc(), ConversationMessage.id.desc())
        .limit(1)
    ).one_or_none()
    return (row.created_at, row.id) if row else None


def _signature(message: ConversationMessage) -> tuple[str, int, str | None]:
    return (message.status, len(message.content), message.error)


def _event(name: str, data: str, settled: Place | None) -> str:
    """Return one event. Its id, which a browser sends as `Last-Event-ID`, is the last message up to which all are
    finished and have been told, so that whoever comes back with it misses none."""
    identity = f"id: {settled[1]}\n" if settled else ""
    return f"event: {name}\n{identity}data: {data}\n\n"


def _end(reason: str) -> str:
    return _event("end", json.dumps({"reason": reason}), None)
