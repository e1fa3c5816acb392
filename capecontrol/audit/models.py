"""The audit log's rows, and the one row that names this installation."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, DateTime, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from capecontrol import ids
from capecontrol.extensions import db

if TYPE_CHECKING:
    from capecontrol.auth.models import User


class AuditLog(db.Model):  # type: ignore[name-defined]
    """One thing that happened; never updated, never deleted by the product.

    `event_id` (a UUIDv7 drawn when it happened) is the truth and, with `created_at`, the paging key; `id` is there
    for older readers only. The actor's id and address are kept as text too, so the record outlives the person.
    """

    __tablename__ = "audit_logs"
    __table_args__ = (
        Index(None, "created_at", "event_id"),
        Index(None, "user_id", "created_at", "event_id"),
        Index(None, "event_type", "created_at", "event_id"),
        # People type addresses in any case, so they are found in lower case.
        Index("ix_audit_logs_email", text("lower(user_email)"), "created_at", "event_id"),
        Index("ix_audit_logs_refused", "created_at", "event_id", postgresql_where=text("NOT success")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    event_id: Mapped[str] = mapped_column(Text, unique=True)
    user_id: Mapped[str | None] = mapped_column(Text, ForeignKey("users_v2.id", ondelete="SET NULL"))
    actor_ref: Mapped[str | None] = mapped_column(Text)
    user_email: Mapped[str | None] = mapped_column(Text)
    user_role: Mapped[str | None] = mapped_column(Text)
    subject_id: Mapped[str | None] = mapped_column(Text)
    event_type: Mapped[str] = mapped_column(Text)
    event_category: Mapped[str] = mapped_column(Text)
    event_level: Mapped[str] = mapped_column(Text)
    event_description: Mapped[str | None] = mapped_column(Text)
    ip_address: Mapped[str | None] = mapped_column(Text)
    user_agent: Mapped[str | None] = mapped_column(Text)
    endpoint: Mapped[str | None] = mapped_column(Text)
    http_method: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(Text)
    session_id: Mapped[str | None] = mapped_column(Text)
    status_code: Mapped[int | None]
    response_time_ms: Mapped[int | None]
    success: Mapped[bool]
    error_message: Mapped[str | None] = mapped_column(Text)
    event_metadata: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    risk_score: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    recorded_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("clock_timestamp()"))

    user: Mapped["User | None"] = relationship("User")


class Installation(db.Model):  # type: ignore[name-defined]
    """Names this installation, so that a log line of another one is never taken for ours."""

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class AuditAlert(db.Model):  # type: ignore[name-defined]
    """Something in the record that needs somebody: one row from its opening until it is quiet again.

    `subject` is what it is about, as the rule counts it; `label` is how people know it. `user_id` is the account
    concerned, with which the alert is erased.
    """

    __tablename__ = "audit_alerts"
    __table_args__ = (
        Index(
            "uq_audit_alerts_open",
            "kind",
            "subject",
            unique=True,
            postgresql_where=text("quiet_at IS NULL"),
        ),
        Index(None, "last_at"),
        Index(None, "user_id"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True, default=ids.new_id)
    kind: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    label: Mapped[str] = mapped_column(Text)
    user_id: Mapped[str | None] = mapped_column(Text, ForeignKey("users_v2.id", ondelete="CASCADE"))
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    count: Mapped[int]
    first_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    last_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    opened_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    quiet_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    acknowledged_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    acknowledged_by: Mapped[str | None] = mapped_column(Text, ForeignKey("users_v2.id", ondelete="SET NULL"))


class AuditAlertCursor(db.Model):  # type: ignore[name-defined]
    """How far the rules have read the record; one row.

    Every number up to `settled_id` is read and can have no late comer. Above it, `done_ids` are the rows that were
    read already. `seen_id` was the highest number at `seen_at`.
    """

    __tablename__ = "audit_alert_cursor"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    settled_id: Mapped[int] = mapped_column(BigInteger)
    seen_id: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    done_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
