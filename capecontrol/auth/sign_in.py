"""Signing in and out: one text for every refusal, the same work for every address."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, ids
from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.recorder import failures_recorded, record, record_failure
from capecontrol.auth import email_addresses, passwords, verification
from capecontrol.auth.credentials import Credential, Mint, actor_of, end_session, end_session_of
from capecontrol.auth.models import ApiToken, User, UserSession
from capecontrol.database import is_passing
from capecontrol.errors import Overloaded, SignInRequired, Unavailable
from capecontrol.extensions import db

REMEMBERED_FOR = timedelta(days=30)
"""How long a session or a token is kept after it was over."""

_MOST_AT_ONCE = 5_000


class SignInRefused(SignInRequired):
    """The address or the password is wrong, or the account is closed; nobody is told which."""

    detail = "That e-mail address and password do not match an open account."


class PrivateSignInRefused(SignInRefused):
    """The same where accounts wait for their address to be confirmed; that, too, is said to everybody alike."""

    detail = (
        f"{SignInRefused.detail} An account opens once its address is confirmed; "
        "where only that is missing, we mail the link again, at most once an hour."
    )


def sign_in(
    email: str,
    password: str,
    *,
    actor: Actor | None,
    method: str,
    mint: Mint,
    is_remembered: bool = False,
    is_private: bool = False,
) -> tuple[User, Credential]:
    """Check the password and mint a credential. An older hash is replaced by argon2id on the way.

    The session of the browser's previous person, if any (`actor`), ends: a sign-in always rotates the session.
    `is_private`: the address must be confirmed, and with the right password the link for that is mailed again.
    Raises SignInRefused, Overloaded or Unavailable; each is recorded.
    """
    try:
        user_id, fresh_hash = _checked(email, password, method=method, is_private=is_private)
        return _open(user_id, fresh_hash, actor=actor, method=method, mint=mint, is_remembered=is_remembered)
    except SQLAlchemyError as failure:
        db.session.rollback()
        record_refused(email, method=method, reason="unavailable", error=type(failure).__name__)
        if is_passing(failure):
            raise Unavailable from failure
        raise


def record_refused(email: str | None, *, method: str, reason: str, error: str, account_id: str | None = None) -> None:
    """Record that a sign-in was refused, also where its shape alone was wrong."""
    record_failure(
        events.USER_LOGIN_FAILED,
        actor=None,
        email=email_addresses.as_recorded(email),
        account_id=account_id,
        error=error,
        details={"method": method, "reason": reason},
    )


def _checked(email: str, password: str, *, method: str, is_private: bool) -> tuple[str, str | None]:
    """Return whose address and password these are, and a fresh hash where theirs is outdated."""
    key = email_addresses.key_of(email)
    found = db.session.execute(
        select(User.id, User.password_hash, User.is_active, User.email_verified_at).where(User.email_key == key)
    ).one_or_none()
    db.session.rollback()  # no connection is held while hashing
    is_unconfirmed = False
    try:
        is_right, fresh_hash = passwords.verify_for_sign_in(
            found.password_hash if found else None, password[: passwords.LONGEST + 1]
        )
        is_theirs = found is not None and is_right and found.is_active
        is_unconfirmed = is_private and is_theirs and found is not None and found.email_verified_at is None
        if found is None or not is_theirs or is_unconfirmed:
            raise PrivateSignInRefused if is_private else SignInRefused
    except (SignInRefused, Overloaded) as refusal:
        if is_private and not isinstance(refusal, Overloaded):
            # For every refusal, also to nobody: how long the answer takes must not tell that a password was right.
            verification.write_to(verification.lock_owner(key if is_unconfirmed else None), form=None)
            db.session.commit()
        record_refused(
            email,
            method=method,
            reason="address_not_confirmed" if is_unconfirmed else _reason(refusal, found is not None),
            error=refusal.detail,
            account_id=found.id if found else None,
        )
        raise
    return found.id, fresh_hash


def sign_out(*, actor: Actor, method: str, token_secret: str | None = None) -> None:
    """End the session or token the caller came with; nothing else of theirs."""
    details = {"method": method}
    with failures_recorded(events.USER_LOGOUT, actor=actor, details=details):
        if token_secret is not None:
            mine = ApiToken.token_hash == ids.fingerprint(token_secret)
            db.session.execute(update(ApiToken).where(mine).values(revoked_at=clock.now()))
        if actor.session_id is not None:
            end_session(actor.session_id)
        record(events.USER_LOGOUT, actor=actor, details=details)
        db.session.commit()


def forget_old_sign_ins() -> int:
    """Delete the sessions and tokens that were over 30 days ago, and return how many. The record of them stays."""
    before = clock.now() - REMEMBERED_FOR
    return _forget(UserSession, UserSession.ended_at, before) + _forget(ApiToken, ApiToken.revoked_at, before)


def _forget(kind: Any, ended_at: Any, before: datetime) -> int:
    """Delete in batches, each a transaction: what gathered in years does not go within one statement's time."""
    some = (
        select(kind.id)
        .where(func.least(kind.expires_at, ended_at) < before)
        .limit(_MOST_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    forgotten = 0
    while True:
        gone = db.session.scalars(delete(kind).where(kind.id.in_(some)).returning(kind.id)).all()
        db.session.commit()
        forgotten += len(gone)
        if len(gone) < _MOST_AT_ONCE:
            return forgotten


def _open(
    user_id: str, fresh_hash: str | None, *, actor: Actor | None, method: str, mint: Mint, is_remembered: bool
) -> tuple[User, Credential]:
    user = db.session.get_one(User, user_id)
    user.last_login_at = clock.now()
    if fresh_hash is not None:
        user.password_hash = fresh_hash
    end_session_of(actor)
    credential = mint(user)
    record(
        events.USER_LOGIN,
        actor=actor_of(user, session_id=credential.session_id),
        details={"method": method, "remembered": is_remembered},
    )
    db.session.commit()
    return user, credential


def _reason(refusal: Exception, is_known: bool) -> str:
    if isinstance(refusal, Overloaded):
        return "overloaded"
    return "wrong_password_or_closed" if is_known else "unknown_address"
