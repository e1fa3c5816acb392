"""Staff reading somebody's conversation: an act of its own, with a reason, on record before a word of it is shown.

The one way past the owner. It opens nothing for later: whoever reads on, or again, gives a reason again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from capecontrol import clock
from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.recorder import failures_recorded, record
from capecontrol.auth.models import User
from capecontrol.conversations import reading, wording
from capecontrol.conversations.models import Conversation, ConversationMessage
from capecontrol.errors import Conflict, Forbidden, Invalid, NotFound
from capecontrol.extensions import db


class ReasonRefused(Invalid):
    """The reason breaks a rule."""


class OwnConversation(Conflict):
    """The conversation is the reader's own, and takes no reason."""

    detail = "This conversation is your own."


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading shows: messages, oldest first; `next` is the id before which another reading goes on."""

    conversation: Conversation
    owner: User
    messages: Sequence[ConversationMessage]
    next: str | None
    recorded_at: datetime


def check(conversation_id: str, *, actor: Actor) -> None:
    """Raise Forbidden, NotFound or OwnConversation where there is nothing to give a reason for. Shows nothing."""
    _access(conversation_id, actor)
    db.session.rollback()


def read(conversation_id: str, reason: str, *, actor: Actor, before: str | None = None) -> Reading:
    """Put a reading on record, and only then return the newest messages, or the newest before the given one.

    Raises Forbidden, NotFound, OwnConversation, ReasonRefused, Invalid; and Unavailable where nothing takes the record.
    """
    conversation, owner = _access(conversation_id, actor, for_reading=True)
    kind, details = events.CONVERSATION_READ_BY_STAFF, {"owner_id": owner.id}
    try:
        with failures_recorded(kind, actor=actor, details=details, subject_id=conversation.id):
            reason = _checked_reason(reason)
            page = reading.latest_messages_of(conversation, before=before)
            recorded_at = clock.now()
            record(kind, actor=actor, details=details, subject_id=conversation.id, description=reason)
            db.session.commit()
    except Invalid:
        db.session.rollback()
        raise
    return Reading(conversation, owner, page.messages, page.next, recorded_at)


def _access(conversation_id: str, actor: Actor, *, for_reading: bool = False) -> tuple[Conversation, User]:
    """Return to an administrator somebody's conversation that is not deleted, and whose it is.

    For a reading the owner is locked, so that an erasure is before it or after it, and misses no reason.
    """
    if not actor.is_admin:
        raise Forbidden
    query = (
        select(Conversation, User)
        .join(User, User.id == Conversation.user_id)
        .where(Conversation.id == conversation_id)
        .execution_options(populate_existing=True)
    )
    if for_reading:
        query = query.with_for_update(of=User, read=True, key_share=True)
    found = db.session.execute(query).one_or_none() if reading.is_plausible_id(conversation_id) else None
    if found is not None and found.User.id == actor.id:
        db.session.rollback()
        raise OwnConversation
    if found is None or found.Conversation.status == "deleted":
        db.session.rollback()
        raise NotFound("There is no such conversation, or it was deleted.")
    return found.Conversation, found.User


def _checked_reason(text: str) -> str:
    try:
        return wording.checked_reason(text)
    except ValueError as error:
        raise ReasonRefused({"reason": [str(error)]}) from None
