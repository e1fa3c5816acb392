"""The JSON of conversations: what the endpoints read and what they answer (contract C1 to C3)."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, Field

from capecontrol.conversations.wording import LONGEST_MESSAGE, LONGEST_TITLE
from capecontrol.web import rendering

# The rules of a text are the service's, which records what it refuses; here they are only described.
_MESSAGE: dict[str, Any] = {"minLength": 1, "maxLength": LONGEST_MESSAGE}
_TITLE: dict[str, Any] = {"minLength": 1, "maxLength": LONGEST_TITLE}

Shelf = Literal["active", "archived", "deleted"]


class StartBody(BaseModel):
    """A conversation to start, with its first message or without."""

    title: str | None = Field(default=None, json_schema_extra=_TITLE)
    content: str | None = Field(default=None, json_schema_extra=_MESSAGE)


class ChangeBody(BaseModel):
    """What is to change in a conversation; what is absent stays."""

    title: str | None = Field(default=None, json_schema_extra=_TITLE)
    status: Literal["active", "archived"] | None = None


class PostBody(BaseModel):
    """A message to post; without `parent_id` it follows the last one."""

    content: str = Field(json_schema_extra=_MESSAGE)
    parent_id: str | None = None


class ListQuery(BaseModel):
    """Which conversations to list, and from where."""

    status: Shelf = "active"
    limit: int = Field(default=50, ge=1, le=100)
    cursor: str | None = None


class MessagesQuery(BaseModel):
    """Which messages to read: those after the one named, which is also what `next` holds."""

    after: str | None = Field(default=None, validation_alias=AliasChoices("after", "cursor"))
    limit: int = Field(default=50, ge=1, le=100)


class EventsQuery(BaseModel):
    """From where to follow a conversation."""

    after: str | None = None


class ConversationAnswer(BaseModel):
    """A conversation."""

    id: str
    title: str
    status: Shelf
    total_messages: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, conversation: Any) -> Self:
        """Return the conversation as it is shown."""
        return cls.model_validate(conversation, from_attributes=True)


class MessageAnswer(BaseModel):
    """A message; `html` is its markdown, made safe."""

    id: str
    parent_id: str | None
    role: Literal["user", "assistant", "system", "function"]
    content: str
    html: str
    status: Literal["queued", "streaming", "complete", "stopped", "interrupted", "failed"]
    error: str | None
    created_at: datetime
    completed_at: datetime | None
    provider: str | None
    model: str | None

    @classmethod
    def of(cls, message: Any) -> Self:
        """Return the message as it is shown."""
        return cls(
            id=message.id,
            parent_id=message.parent_id,
            role=message.role,
            content=message.content,
            html=rendering.render(message.content),
            status=message.status,
            error=message.error,
            created_at=message.created_at,
            completed_at=message.completed_at,
            provider=message.ai_provider,
            model=message.model_name,
        )


class PostAnswer(BaseModel):
    """A message as stored, and the reply that is on its way."""

    message: MessageAnswer
    reply: MessageAnswer


class StartAnswer(ConversationAnswer):
    """The new conversation, with its first message and reply where one was written."""

    message: MessageAnswer | None = None
    reply: MessageAnswer | None = None


class ConversationsAnswer(BaseModel):
    """A page of conversations; `next` is the cursor of the next one, or null."""

    conversations: list[ConversationAnswer]
    next: str | None


class MessagesAnswer(BaseModel):
    """Messages, oldest first; `next` is the `after` of the next page, or null."""

    messages: list[MessageAnswer]
    next: str | None
