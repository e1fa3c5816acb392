"""The audit log's rows, how far other systems have received them, and the one row that names this installation."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, DateTime, Dialect, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import Mapped, mapped_column, relationship
from sqlalchemy.types import UserDefinedType

from capecontrol.extensions import db

if TYPE_CHECKING:
    from capecontrol.auth.models import User


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit number of a transaction, which never comes round again within a cluster."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the type's name in SQL."""
        return "xid8"

    def bind_processor(self, dialect: Dialect) -> Callable[[int | None], str | None]:  # noqa: ARG002 -- the interface
        """Return what turns a number into the text PostgreSQL casts; it has no cast from numbers."""
        return lambda value: None if value is None else str(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], int | None]:  # noqa: ARG002
        """Return what turns the driver's text into a number."""
        return lambda value: None if value is None else int(value)


ischema_names["xid8"] = Xid8  # so that a database read back knows it too


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
        Index(None, "stored_xid", "id"),
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
    stored_xid: Mapped[int] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"))

    user: Mapped["User | None"] = relationship("User")


class Installation(db.Model):  # type: ignore[name-defined]
    """Names this installation, so that a log line of another one is never taken for ours."""

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class AuditDelivery(db.Model):  # type: ignore[name-defined]
    """How far one receiver has come, how its delivery goes, and who is at it; see audit/delivery.py."""

    __tablename__ = "audit_deliveries"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    destination: Mapped[str] = mapped_column(Text)
    cluster: Mapped[str | None] = mapped_column(Text)
    position_xid: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    position_id: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    inherited_to: Mapped[int | None] = mapped_column(BigInteger)
    floor_id: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    delivered: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    last_event_id: Mapped[str | None] = mapped_column(Text)
    last_event_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_delivered_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    failed_total: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    failed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_error: Mapped[str | None] = mapped_column(Text)
    retry_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    lease: Mapped[str | None] = mapped_column(Text)
    leased_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
