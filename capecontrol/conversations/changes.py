"""What changes in a conversation: its title, and the shelf it stands on.

Each command is one commit with its audit events; where nothing changed, nothing is recorded: to archive what is
archived is no act.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from capecontrol import clock
from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.events import Event
from capecontrol.audit.recorder import record
from capecontrol.conversations.models import Conversation
from capecontrol.conversations.reading import access_conversation
from capecontrol.conversations.service import ConversationDeleted, checked_title, refusals_recorded
from capecontrol.extensions import db

_MOVED = {"active": events.CONVERSATION_UNARCHIVED, "archived": events.CONVERSATION_ARCHIVED}


def change(conversation_id: str, *, actor: Actor, title: str | None = None, status: str | None = None) -> Conversation:
    """Rename the conversation, put it on another shelf, or both: all of it in one commit, or nothing.

    `status` is `active`, which also restores a deleted conversation, or `archived`; None leaves it where it is, as it
    does the title. Each real change is an event. Raises NotFound, TitleRefused, ConversationDeleted.
    """
    kind = _MOVED[status or "active"] if title is None else events.CONVERSATION_RENAMED
    with refusals_recorded(kind, actor=actor, subject_id=conversation_id):
        conversation = access_conversation(conversation_id, actor=actor, for_update=True)
        done: list[Event] = []
        if title is not None:
            title = checked_title(title)
        if conversation.status == "deleted" and status == "active":
            _restore(conversation)
            done.append(events.CONVERSATION_RESTORED)
        if conversation.status == "deleted" and (title, status) != (None, None):
            raise ConversationDeleted
        if title not in (None, conversation.title):
            conversation.title = title
            done.append(events.CONVERSATION_RENAMED)
        if status not in (None, conversation.status):
            conversation.status = status
            done.append(_MOVED[status])
        for event in done:
            record(event, actor=actor, subject_id=conversation.id)
        db.session.commit()
    return conversation


def rename(conversation_id: str, title: str, *, actor: Actor) -> Conversation:
    """Give the conversation another title. Raises NotFound, TitleRefused, ConversationDeleted."""
    return change(conversation_id, actor=actor, title=title)


def archive(conversation_id: str, *, actor: Actor) -> Conversation:
    """Take the conversation off the everyday list. Raises NotFound, ConversationDeleted."""
    return change(conversation_id, actor=actor, status="archived")


def unarchive(conversation_id: str, *, actor: Actor) -> Conversation:
    """Put the conversation back on the everyday list. Raises NotFound, ConversationDeleted."""
    with _changing(conversation_id, events.CONVERSATION_UNARCHIVED, actor=actor) as conversation:
        if conversation.status == "deleted":
            raise ConversationDeleted
        conversation.status = "active"
    return conversation


def delete(conversation_id: str, *, actor: Actor) -> Conversation:
    """Put the conversation on the shelf of deleted ones, from where it can be restored. Raises NotFound."""
    with _changing(conversation_id, events.CONVERSATION_DELETED, actor=actor) as conversation:
        if conversation.status != "deleted":
            conversation.status_before_delete = conversation.status
            conversation.status = "deleted"
            conversation.deleted_at = clock.now()
    return conversation


def restore(conversation_id: str, *, actor: Actor) -> Conversation:
    """Return a deleted conversation to the shelf it came from. Raises NotFound."""
    with _changing(conversation_id, events.CONVERSATION_RESTORED, actor=actor) as conversation:
        if conversation.status == "deleted":
            _restore(conversation)
    return conversation


@contextmanager
def _changing(conversation_id: str, kind: Event, *, actor: Actor) -> Iterator[Conversation]:
    """Yield the locked conversation, and commit what changed with its event, or record the refusal."""
    with refusals_recorded(kind, actor=actor, subject_id=conversation_id):
        conversation = access_conversation(conversation_id, actor=actor, for_update=True)
        yield conversation
        if db.session.is_modified(conversation):
            record(kind, actor=actor, subject_id=conversation.id)
        db.session.commit()


def _restore(conversation: Conversation) -> None:
    conversation.status = conversation.status_before_delete or "active"
    conversation.status_before_delete = None
    conversation.deleted_at = None
