"""Sessions and tokens: drawing the secret, storing its fingerprint. Steps shared by commands; they never commit."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import update

from capecontrol import clock, ids
from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.recorder import record
from capecontrol.auth.models import ApiToken, User, UserSession
from capecontrol.extensions import db

SESSION_LASTS = timedelta(hours=24)
REMEMBERED_SESSION_LASTS = timedelta(days=30)
TOKEN_LASTS = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Browser:
    """What a person's list of sessions shows about one."""

    ip_address: str | None = None
    user_agent: str | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A fresh secret, shown to its owner once. `session_id` names the session's row, for the record."""

    secret: str
    expires_at: datetime
    session_id: str | None = None


Mint = Callable[[User], Credential]
"""Makes the credential a registration or a sign-in ends with: a page's session or an endpoint's token."""


def session_for(browser: Browser, *, is_remembered: bool) -> Mint:
    """Return what opens a session in this browser: 24 hours, or 30 days when remembered (ASVS 7.3.2)."""

    def open_session(user: User) -> Credential:
        secret = ids.new_secret()
        now = clock.now()
        row = UserSession(
            id=ids.new_id(),
            user_id=user.id,
            token_hash=ids.fingerprint(secret),
            is_remembered=is_remembered,
            ip_address=browser.ip_address,
            user_agent=_short(browser.user_agent),
            created_at=now,
            last_seen_at=now,
            expires_at=now + (REMEMBERED_SESSION_LASTS if is_remembered else SESSION_LASTS),
        )
        db.session.add(row)
        return Credential(secret=secret, expires_at=row.expires_at, session_id=row.id)

    return open_session


def token(user: User) -> Credential:
    """Issue a bearer token of 12 hours."""
    secret = ids.new_secret()
    now = clock.now()
    row = ApiToken(user_id=user.id, token_hash=ids.fingerprint(secret), created_at=now, expires_at=now + TOKEN_LASTS)
    db.session.add(row)
    return Credential(secret=secret, expires_at=row.expires_at)


def actor_of(user: User, *, session_id: str | None = None) -> Actor:
    """Return a person as commands and the record know them."""
    return Actor(id=user.id, email=user.email, role=user.user_role, name=user.full_name, session_id=session_id)


def end_session(session_id: str) -> bool:
    """End a session; say whether it was not over yet."""
    ended = db.session.scalar(
        update(UserSession)
        .where(UserSession.id == session_id, UserSession.ended_at.is_(None))
        .values(ended_at=clock.now())
        .returning(UserSession.id)
    )
    return ended is not None


def end_session_of(previous: Actor | None) -> None:
    """End the session somebody had in this browser before, with its event; a new one always replaces it."""
    session_id = previous.session_id if previous is not None else None
    if session_id is not None and end_session(session_id):
        record(events.SESSION_ENDED, actor=previous, subject_id=session_id, details={"ended_session": session_id})


def _short(user_agent: str | None) -> str | None:
    """Return the browser's name for itself, without what PostgreSQL cannot hold, at most 1,000 characters."""
    return user_agent.replace("\x00", "").encode("utf-8", "replace").decode()[:1000] if user_agent else None
