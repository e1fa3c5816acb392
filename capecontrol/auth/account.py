"""A person's own account: what it holds, where it is signed in; and who administers."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import delete, select

from capecontrol import clock
from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.recorder import failures_recorded, record, record_failure
from capecontrol.auth import email_addresses, passwords
from capecontrol.auth.credentials import actor_of
from capecontrol.auth.models import EmailVerification, User, UserSession
from capecontrol.database import release_connection
from capecontrol.errors import Invalid, NotFound
from capecontrol.extensions import db


def get_person(*, actor: Actor) -> User:
    """Return the actor's own account."""
    return db.session.get_one(User, actor.id)


def list_sessions(*, actor: Actor) -> list[UserSession]:
    """Return the browsers in which the actor is signed in, the newest first."""
    living = (
        select(UserSession)
        .where(UserSession.user_id == actor.id, UserSession.ended_at.is_(None), UserSession.expires_at > clock.now())
        .order_by(UserSession.created_at.desc())
        .limit(100)
    )
    return list(db.session.scalars(living))


def end_session(session_id: str, *, actor: Actor) -> None:
    """Sign the actor out in one browser. Raises NotFound when the session is over or somebody else's; the latter is
    recorded."""
    row = db.session.scalar(
        select(UserSession).where(
            UserSession.id == session_id, UserSession.user_id == actor.id, UserSession.ended_at.is_(None)
        )
    )
    if row is None:
        owner = db.session.scalar(select(UserSession.user_id).where(UserSession.id == session_id))
        db.session.rollback()
        if owner not in (None, actor.id):
            record_failure(
                events.ACCESS_DENIED,
                actor=actor,
                error="The session belongs to somebody else.",
                details={"wanted": "session"},
                subject_id=session_id,
            )
        raise NotFound
    details = {"ended_session": session_id}
    with failures_recorded(events.SESSION_ENDED, actor=actor, details=details, subject_id=session_id):
        row.ended_at = clock.now()
        record(events.SESSION_ENDED, actor=actor, subject_id=session_id, details=details)
        db.session.commit()


def complete_profile(fields: Mapping[str, Any], *, actor: Actor) -> User:
    """Store what the older client's second page asks; other fields of the profile stay."""
    details = {"fields": sorted(fields)}
    with failures_recorded(events.PROFILE_UPDATED, actor=actor, details=details, subject_id=actor.id):
        user = db.session.get_one(User, actor.id, with_for_update=True)
        user.profile = {**(user.profile or {}), **fields}
        record(events.PROFILE_UPDATED, actor=actor, subject_id=user.id, details=details)
        db.session.commit()
    return user


def record_profile_refused(fields: Iterable[str], *, actor: Actor, error: str) -> None:
    """Record that a profile was refused for its shape; `fields` are the ones at fault."""
    record_failure(
        events.PROFILE_UPDATED, actor=actor, subject_id=actor.id, error=error, details={"fields": sorted(fields)}
    )


def list_administrators() -> list[User]:
    """Return everybody who may read the audit log."""
    return list(db.session.scalars(select(User).where(User.user_role == "admin").order_by(User.created_at)))


def has_account(email: str) -> bool:
    """Say whether the address has an account."""
    key = email_addresses.key_of(email)
    is_known = key is not None and db.session.scalar(select(User.id).where(User.email_key == key)) is not None
    release_connection()  # whoever asks may go on to type a password
    return is_known


def promote(email: str, *, actor: Actor | None) -> User:
    """Make an existing person an administrator, whose address counts as confirmed: who promotes them vouches for it.

    Links that are still out would bring what somebody else filled in, so they end. Raises NotFound when nobody has the
    address.
    """
    user = db.session.scalar(select(User).where(User.email_key == email_addresses.key_of(email)).with_for_update())
    if user is None:
        raise NotFound(f"Nobody has an account as {email}.")
    if user.user_role != "admin":
        old, user.user_role = user.user_role, "admin"
        record_role(user, old, actor=actor)
    if user.email_verified_at is None:
        user.email_verified_at = clock.now()
        db.session.execute(delete(EmailVerification).where(EmailVerification.user_id == user.id))
    db.session.commit()
    return user


def create_administrator(email: str, password: str, *, actor: Actor | None) -> User:
    """Open an account that is an administrator from the start. Raises Invalid; for the operator's command only."""
    try:
        address = email_addresses.parse(email)
    except ValueError as error:
        raise Invalid({"email": [str(error)]}) from None
    if wrong := passwords.problems(password, email=email):
        raise Invalid({"password": wrong})
    user = User(
        email=address.address,
        email_key=address.key,
        password_hash=passwords.hash_for_registration(password),
        user_role="admin",
        email_verified_at=clock.now(),
        full_name="Administrator",
        tos_accepted_at=clock.now(),
        tos_source="command",
    )
    db.session.add(user)
    db.session.flush()
    record_role(user, None, actor=actor)
    db.session.commit()
    return user


def record_role(user: User, old: str | None, *, actor: Actor | None) -> None:
    """Record that a person's role is another one now; `old` is None where the account was opened with it."""
    record(
        events.ROLE_CHANGED,
        actor=actor,
        on_behalf_of=actor_of(user),
        subject_id=user.id,
        details={"old": old, "new": user.user_role},
    )
