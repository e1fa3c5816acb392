"""The audit log's rows, how many of them there are by the hour, and the one row that names this installation."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Identity, Index, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

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
        Index(None, "ip_address", "created_at", postgresql_where=text("ip_address IS NOT NULL")),
        Index("ix_audit_logs_high_risk", "created_at", postgresql_where=text("risk_score >= 70")),
        # What was stored long after it happened: replayed or brought along. Usually next to nothing.
        Index(
            "ix_audit_logs_late",
            "recorded_at",
            "id",
            postgresql_where=text("recorded_at - created_at > interval '10 minutes'"),
        ),
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


class AuditHour(db.Model):  # type: ignore[name-defined]
    """How many events of a kind happened in one hour; made from the log, and always to be made from it again."""

    __tablename__ = "audit_hours"

    hour: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    event_type: Mapped[str] = mapped_column(Text, primary_key=True)
    category: Mapped[str] = mapped_column(Text, primary_key=True)
    success: Mapped[bool] = mapped_column(primary_key=True)
    count: Mapped[int]  # four bytes: the sum of such is a bigint, and that of bigints a numeric, which is slow


class AuditHoursProgress(db.Model):  # type: ignore[name-defined]
    """How far the hours are counted; one row. See audit/hours.py for what each word stands for."""

    __tablename__ = "audit_hours_progress"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    closed_before: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    late_until: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    late_id: Mapped[int] = mapped_column(BigInteger)
    settled_until: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    mark_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    mark_xid: Mapped[str] = mapped_column(Text)


class Installation(db.Model):  # type: ignore[name-defined]
    """Names this installation, so that a log line of another one is never taken for ours."""

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
