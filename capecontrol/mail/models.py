"""The mails that were ordered, and how far each has come."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from capecontrol import clock, ids
from capecontrol.extensions import db


class OutgoingMail(db.Model):  # type: ignore[name-defined]
    """One mail to one address.

    `fields` is what the letter is filled in with; it may hold a link that is a secret, so it is emptied the moment
    the mail has left or is given up. Subject and text are stored only of what stays in the outbox.
    """

    __tablename__ = "outgoing_mails"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'sent', 'kept', 'refused', 'given_up')", name="state_known"),
        Index(None, "state", "created_at", "id"),
        Index(None, "created_at"),
        Index(None, "user_id"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True, default=ids.new_id)
    letter: Mapped[str] = mapped_column(Text)
    recipient: Mapped[str] = mapped_column(Text)
    user_id: Mapped[str | None] = mapped_column(Text, ForeignKey("users_v2.id", ondelete="CASCADE"))
    fields: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    state: Mapped[str] = mapped_column(Text, default="waiting")
    attempts: Mapped[int] = mapped_column(default=0)
    last_trouble: Mapped[str | None] = mapped_column(Text)
    subject: Mapped[str | None] = mapped_column(Text)
    text_body: Mapped[str | None] = mapped_column(Text)
    html_body: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)
    next_try_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
