"""People, their sessions and their tokens."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from capecontrol import clock, ids
from capecontrol.extensions import db


class User(db.Model):  # type: ignore[name-defined]
    """A person with an account.

    `email` is the address as mail is sent to it; `email_key` is the one form that decides identity and is unique.
    """

    __tablename__ = "users_v2"
    __table_args__ = (CheckConstraint("user_role IN ('client', 'developer', 'admin')", name="user_role_known"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True, default=ids.new_id)
    email: Mapped[str] = mapped_column(Text)
    email_key: Mapped[str] = mapped_column(Text, unique=True)
    email_verified_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    password_hash: Mapped[str | None] = mapped_column(Text)
    user_role: Mapped[str] = mapped_column(Text, default="client")
    full_name: Mapped[str | None] = mapped_column(Text)
    company_name: Mapped[str | None] = mapped_column(Text)
    industry: Mapped[str | None] = mapped_column(Text)
    project_budget: Mapped[str | None] = mapped_column(Text)
    skills: Mapped[str | None] = mapped_column(Text)
    portfolio: Mapped[str | None] = mapped_column(Text)
    github: Mapped[str | None] = mapped_column(Text)
    phone: Mapped[str | None] = mapped_column(Text)
    website: Mapped[str | None] = mapped_column(Text)
    experience: Mapped[str | None] = mapped_column(Text)
    profile: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    tos_accepted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    tos_source: Mapped[str | None] = mapped_column(Text)
    is_active: Mapped[bool] = mapped_column(default=True, server_default=text("true"))
    last_login_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=clock.now, server_default=text("now()")
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=clock.now, onupdate=clock.now, server_default=text("now()")
    )


class UserSession(db.Model):  # type: ignore[name-defined]
    """A browser in which a person is signed in; the cookie's secret is stored only as its fingerprint."""

    __tablename__ = "user_sessions"
    __table_args__ = (
        Index(None, "user_id", "created_at"),
        Index("ix_user_sessions_over_at", text("LEAST(expires_at, ended_at)")),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True, default=ids.new_id)
    user_id: Mapped[str] = mapped_column(Text, ForeignKey("users_v2.id", ondelete="CASCADE"))
    token_hash: Mapped[str] = mapped_column(Text, unique=True)
    is_remembered: Mapped[bool] = mapped_column(default=False)
    ip_address: Mapped[str | None] = mapped_column(Text)
    user_agent: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)
    last_seen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    user: Mapped[User] = relationship()


class ApiToken(db.Model):  # type: ignore[name-defined]
    """A bearer token for `/api/`; stored only as its fingerprint."""

    __tablename__ = "api_tokens"
    __table_args__ = (
        Index(None, "user_id", "created_at"),
        Index("ix_api_tokens_over_at", text("LEAST(expires_at, revoked_at)")),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True, default=ids.new_id)
    user_id: Mapped[str] = mapped_column(Text, ForeignKey("users_v2.id", ondelete="CASCADE"))
    token_hash: Mapped[str] = mapped_column(Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    user: Mapped[User] = relationship()


class IdempotencyKey(db.Model):  # type: ignore[name-defined]
    """A registration that was asked for under a key; holds no answer, no token, nothing made from a password."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "created_at"), Index(None, "user_id"))

    scope: Mapped[str] = mapped_column(Text, primary_key=True)
    key_hash: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Text)
    user_id: Mapped[str] = mapped_column(Text, ForeignKey("users_v2.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)


class EmailVerification(db.Model):  # type: ignore[name-defined]
    """A link by which an account's owner can confirm the address; of its secret only the fingerprint is stored.

    Several may be out for an account, each until it is over or one of them is used. `form` is what a newer registration
    of the unconfirmed address said, with the hash of its password. It becomes the account's when its own link is used,
    and is nothing until then; None where the account stays as it is.
    """

    __tablename__ = "email_verifications"
    __table_args__ = (Index(None, "expires_at"), Index(None, "user_id"))

    token_hash: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[str] = mapped_column(Text, ForeignKey("users_v2.id", ondelete="CASCADE"))
    form: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class RegistrationTicket(db.Model):  # type: ignore[name-defined]
    """A place in the waiting room. Holds neither the form nor the password, and of the address only a keyed mark."""

    __tablename__ = "registration_tickets"
    __table_args__ = (
        Index(
            "ix_registration_tickets_waiting",
            "number",
            postgresql_where=text("turn_at IS NULL AND left_at IS NULL"),
        ),
        Index(
            "ix_registration_tickets_given_up",
            "number",
            postgresql_where=text("turn_at IS NULL AND left_at IS NOT NULL"),
        ),
        Index(
            "ix_registration_tickets_at_turn",
            "turn_at",
            postgresql_where=text("turn_at IS NOT NULL"),
        ),
        # One living ticket for an address, so that nobody fills the room with one.
        Index(
            "uq_registration_tickets_living",
            "email_mark",
            unique=True,
            postgresql_where=text("done_at IS NULL AND left_at IS NULL"),
        ),
        Index(None, "done_at"),
        Index(None, "created_at"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True, default=ids.new_id)
    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True), unique=True)
    email_mark: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=clock.now)
    turn_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    claimed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    done_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    left_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
