"""Conversations and the messages in them."""

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from capecontrol import clock, ids
from capecontrol.extensions import db

if TYPE_CHECKING:
    from capecontrol.auth.models import User


class Conversation(db.Model):  # type: ignore[name-defined]
    """A person's conversation; a deleted one keeps its rows, so that deleting can be undone."""

    __tablename__ = "conversations"
    __table_args__ = (
        CheckConstraint("status IN ('active', 'archived', 'deleted')", name="status_known"),
        Index(None, "user_id", "status", "updated_at", "id"),
        Index(
            "uq_conversations_user_id_idempotency_key",
            "user_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True, default=ids.new_id)
    user_id: Mapped[str] = mapped_column(Text, ForeignKey("users_v2.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, default="active", server_default="active")
    status_before_delete: Mapped[str | None] = mapped_column(Text)
    total_messages: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    ai_provider: Mapped[str | None] = mapped_column(Text)
    model_name: Mapped[str | None] = mapped_column(Text)
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    start_fingerprint: Mapped[str | None] = mapped_column(Text)
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)

    user: Mapped["User"] = relationship("User")


class ConversationMessage(db.Model):  # type: ignore[name-defined]
    """One message, by the person or by the assistant. Rows are only ever added; a reply's row fills once."""

    __tablename__ = "conversation_messages"
    __table_args__ = (
        CheckConstraint("role IN ('user', 'assistant', 'system', 'function')", name="role_known"),
        CheckConstraint(
            "status IN ('queued', 'streaming', 'complete', 'stopped', 'interrupted', 'failed')",
            name="status_known",
        ),
        UniqueConstraint("conversation_id", "idempotency_key"),
        Index(None, "conversation_id", "created_at", "id"),
        Index(None, "parent_id"),
        Index(
            "ix_conversation_messages_unfinished",
            "created_at",
            postgresql_where=text("status IN ('queued', 'streaming')"),
        ),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True, default=ids.new_id)
    conversation_id: Mapped[str] = mapped_column(Text, ForeignKey("conversations.id", ondelete="CASCADE"))
    parent_id: Mapped[str | None] = mapped_column(Text, ForeignKey("conversation_messages.id", ondelete="CASCADE"))
    role: Mapped[str] = mapped_column(Text)
    content: Mapped[str] = mapped_column(Text, default="")
    status: Mapped[str] = mapped_column(Text, default="complete", server_default="complete")
    error: Mapped[str | None] = mapped_column(Text)
    tokens_used: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    ai_provider: Mapped[str | None] = mapped_column(Text)
    model_name: Mapped[str | None] = mapped_column(Text)
    response_time_ms: Mapped[int | None]
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)
    completed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    conversation: Mapped[Conversation] = relationship()
