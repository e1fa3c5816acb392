"""The audit log's rows, the seals over them, their number by the hour, how far others have them, and whose it is."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import Mapped, mapped_column, relationship
from sqlalchemy.types import UserDefinedType

from capecontrol import ids
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


GUARDS = (
    "tg_audit_logs_commit",
    "tg_audit_logs_change",
    "tg_audit_logs_truncate",
    "tg_audit_seals_change",
    "tg_audit_keys_change",
)
"""The triggers that keep the record as it was written; a mapping does not know of them."""


class AuditLog(db.Model):  # type: ignore[name-defined]
    """One thing that happened; only ever added (a trigger holds it), but for erasure and the purge.

    `event_id` (a UUIDv7 drawn when it happened) is the truth and, with `created_at`, the paging key; `id` is there
    for older readers only. The actor's id and address are kept as text too, so the record outlives the person.
    """

    __tablename__ = "audit_logs"
    __table_args__ = (
        Index(None, "created_at", "event_id"),
        Index(None, "user_id", "created_at", "event_id"),
        Index(None, "event_type", "created_at", "event_id"),
        # People type addresses in any case, so they are found in lower case. PostgreSQL reads an index on an expression
        # alone, without the rows, only where the column itself is in it too.
        Index(
            "ix_audit_logs_email",
            text("lower(user_email)"),
            "created_at",
            "event_id",
            postgresql_include=["user_email"],
        ),
        # What belongs to no account, or to one that is gone: by the id that acted or, without one, by the address.
        Index(
            "ix_audit_logs_without_account",
            text("lower(coalesce(actor_ref, user_email))"),
            "created_at",
            "event_id",
            postgresql_include=["actor_ref", "user_email"],
            postgresql_where=text("user_id IS NULL"),
        ),
        Index("ix_audit_logs_refused", "created_at", "event_id", postgresql_where=text("NOT success")),
        Index(None, "stored_xid", "id"),
        Index(None, "ip_address", "created_at", postgresql_where=text("ip_address IS NOT NULL")),
        Index("ix_audit_logs_high_risk", "created_at", postgresql_where=text("risk_score >= 70")),
        # What staff read, by whose conversation it was: usually next to nothing, too.
        Index(
            "ix_audit_logs_read_by_staff",
            text("(event_metadata ->> 'owner_id')"),
            "created_at",
            "event_id",
            postgresql_where=text("event_type = 'conversation_read_by_staff'"),
        ),
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
    stored_xid: Mapped[int] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"))
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    commitment: Mapped[bytes] = mapped_column(LargeBinary)

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


class AuditKey(db.Model):  # type: ignore[name-defined]
    """A public key that seals are signed with, kept for ever, so that changing the key breaks no proof."""

    __tablename__ = "audit_keys"

    key_id: Mapped[str] = mapped_column(Text, primary_key=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class AuditSeal(db.Model):  # type: ignore[name-defined]
    """A link of the signed chain: rows that are sealed, or rows that the purge took away. Only ever added.

    `rows` holds rows by the number of their transaction; `adopted` holds what was there when a cluster was first
    seen, whatever its numbers; `purge` names rows that are gone. The next seal goes on behind (`next_xid`, `next_id`).
    `leaves` has 32 bytes for each row, `owners` 16. What is hashed and signed: audit/evidence.py.
    """

    __tablename__ = "audit_seals"
    __table_args__ = (CheckConstraint("kind IN ('rows', 'adopted', 'purge')", name="kind_known"),)

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Text)
    installation: Mapped[str] = mapped_column(Text)
    cluster: Mapped[str] = mapped_column(Text)
    first_xid: Mapped[int] = mapped_column(Xid8)
    last_xid: Mapped[int] = mapped_column(Xid8)
    next_xid: Mapped[int] = mapped_column(Xid8)
    next_id: Mapped[int] = mapped_column(BigInteger)
    count: Mapped[int]
    row_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    leaves: Mapped[bytes] = mapped_column(LargeBinary)
    owners: Mapped[bytes] = mapped_column(LargeBinary)
    root: Mapped[bytes] = mapped_column(LargeBinary)
    purged: Mapped[str | None] = mapped_column(Text)
    previous_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    key_id: Mapped[str] = mapped_column(Text, ForeignKey("audit_keys.key_id"))
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


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
