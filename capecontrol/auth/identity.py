"""Tells pages and endpoints who is signed in, and who may call what."""

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar

from flask import Flask, g, request
from flask_login import UserMixin, current_user
from sqlalchemy import select, update

from capecontrol import clock, ids
from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.recorder import record_refusal
from capecontrol.auth import email_addresses
from capecontrol.auth.credentials import actor_of
from capecontrol.auth.models import ApiToken, User, UserSession
from capecontrol.config import Settings, current_settings
from capecontrol.errors import Forbidden, SignInRequired
from capecontrol.extensions import db, login_manager
from capecontrol.web.cookies import SessionCookie

View = TypeVar("View", bound=Callable[..., Any])

_SEEN_EVERY = timedelta(minutes=5)


class SignedIn(UserMixin):
    """The person behind a session cookie, as Flask-Login keeps them: the cookie carries the session's secret."""

    def __init__(self, actor: Actor, secret: str) -> None:
        self.actor = actor
        self._secret = secret

    def get_id(self) -> str:
        """Return what the cookie carries."""
        return self._secret


def init_app(app: Flask, settings: Settings) -> None:
    """Decide the cookies once, by the address people use: `__Host-` names where that is https."""
    prefix = "__Host-" if settings.is_https else ""
    app.config.update(
        SECRET_KEY=settings.secret_key.get_secret_value(),
        SESSION_COOKIE_NAME=f"{prefix}session",
        SESSION_COOKIE_SECURE=settings.is_https,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_PATH="/",
        REMEMBER_COOKIE_NAME=f"{prefix}remember",
        REMEMBER_COOKIE_SECURE=settings.is_https,
        REMEMBER_COOKIE_HTTPONLY=True,
        REMEMBER_COOKIE_SAMESITE="Lax",
        REMEMBER_COOKIE_PATH="/",
        REMEMBER_COOKIE_DURATION=timedelta(days=30),
    )
    app.session_interface = SessionCookie()
    login_manager.init_app(app)
    login_manager.session_protection = None  # sessions are rows: listed, ended and rotated on the server


def public(view: View) -> View:
    """Mark a view as open to everybody; openness is a decision too."""
    view.access = "public"  # type: ignore[attr-defined]
    return view


def login_required(view: View) -> View:
    """Let only signed-in people call the view."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        signed_in()
        return view(*args, **kwargs)

    guarded.access = "signed-in"  # type: ignore[attr-defined]
    return guarded  # type: ignore[return-value]


def admin_required(view: View) -> View:
    """Let only administrators call the view; anybody else's try is recorded."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        actor = signed_in()
        if not actor.is_admin:
            record_denied("Only administrators may open this.")
            raise Forbidden("Only administrators may open this.")
        return view(*args, **kwargs)

    guarded.access = "administrator"  # type: ignore[attr-defined]
    return guarded  # type: ignore[return-value]


def record_denied(error: str) -> None:
    """Record that whoever calls was refused this address, where no service is reached."""
    record_refusal(events.ACCESS_DENIED, actor=actor_or_none(), error=error, details={"wanted": request.endpoint})


def signed_in() -> Actor:
    """Return who is signed in. Raises SignInRequired when nobody is, Forbidden for another site's page."""
    actor = actor_or_none()
    if actor is None:
        raise SignInRequired
    if request.path.startswith("/api/") and bearer_secret() is None and _is_cross_site():
        raise Forbidden("This address is not for other sites.")
    return actor


def actor_or_none() -> Actor | None:
    """Return who is signed in, by bearer token or by cookie, or None. Asks the database once a request, refuses
    nobody."""
    if "actor" not in g:
        g.actor = _by_token() if bearer_secret() is not None else _by_cookie()
    return g.actor


def bearer_secret() -> str | None:
    """Return the bearer token the caller sent, or None."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and request.path.startswith("/api/") else None


def account_bucket(email: str) -> str:
    """Return what sign-ins to one account are counted by, however its address is spelt."""
    return email_addresses.key_of(email) or email.strip().lower()


def forget_actor() -> None:
    """Make the rest of this request ask again; for the views that sign people in and out."""
    g.pop("actor", None)


@login_manager.user_loader
def _load_session(secret: str) -> SignedIn | None:
    now = clock.now()
    row = db.session.execute(
        select(UserSession, User)
        .join(User, User.id == UserSession.user_id)
        .where(
            UserSession.token_hash == ids.fingerprint(secret),
            UserSession.ended_at.is_(None),
            UserSession.expires_at > now,
            User.is_active,
        )
    ).one_or_none()
    if row is None:
        db.session.rollback()
        return None
    user_session, user = row
    actor = actor_of(user, session_id=user_session.id)
    if now - user_session.last_seen_at > _SEEN_EVERY:
        db.session.execute(update(UserSession).where(UserSession.id == user_session.id).values(last_seen_at=now))
        db.session.commit()
    else:
        db.session.rollback()  # nothing is held while the request goes on to hash or to wait
    return SignedIn(actor, secret)


def _by_cookie() -> Actor | None:
    if not current_user.is_authenticated:
        return None
    actor: Actor = current_user.actor
    return actor


def _by_token() -> Actor | None:
    user = db.session.execute(
        select(User)
        .join(ApiToken, ApiToken.user_id == User.id)
        .where(
            ApiToken.token_hash == ids.fingerprint(bearer_secret() or ""),
            ApiToken.revoked_at.is_(None),
            ApiToken.expires_at > clock.now(),
            User.is_active,
        )
    ).scalar_one_or_none()
    actor = actor_of(user, session_id=None) if user else None
    db.session.rollback()
    return actor


def _is_cross_site() -> bool:
    """Say whether another site's page makes this request with the person's cookie."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    scheme = "https" if current_settings().is_https else request.scheme
    return origin.lower() != f"{scheme}://{request.host}".lower()  # the host is one of ours: hosts.py has seen it
