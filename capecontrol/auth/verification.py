"""Proving that a mailbox is its owner's: the mail to it, and what its link does.

Which letter goes out, and whether one does, is the secret of ACCOUNT_PRIVACY=private. So every case runs the same
statements, and what may not go out is taken back before the commit: the answer's time tells nobody anything.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, bindparam, delete, exists, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, ids
from capecontrol.audit import events
from capecontrol.audit.recorder import record, record_failure
from capecontrol.auth import account, email_addresses
from capecontrol.auth.credentials import actor_of
from capecontrol.auth.models import ApiToken, EmailVerification, User, UserSession
from capecontrol.database import is_passing, release_connection
from capecontrol.errors import NotFound, Unavailable
from capecontrol.extensions import db
from capecontrol.mail import letters, outgoing
from capecontrol.mail.models import OutgoingMail

LINK_LASTS = timedelta(hours=24)
MAIL_EVERY = timedelta(hours=1)
"""An address gets at most one of these letters in this time, whoever asks: nobody can be flooded with our mails. It
also bounds the links that are out for an account to those of a day."""

PATH = "/verify-email"
FORM_FIELDS = (
    *("password_hash", "full_name", "user_role", "company_name", "tos_source"),
    *("industry", "project_budget", "skills", "portfolio", "github", "phone", "website", "experience"),
)
"""What a newer form says about the account; what it leaves out is empty then."""

_NOBODY = "nobody@example.com"
_LETTERS = (letters.VERIFY_EMAIL.name, letters.ACCOUNT_EXISTS.name)

_people: Any = User.__table__
_links: Any = EmailVerification.__table__
# The lock is what makes two askers at a time see each other's mail; references to the account go on meanwhile.
_LOCK = (
    select(_people.c.id, _people.c.email, _people.c.is_active, _people.c.email_verified_at)
    .where(_people.c.email_key == bindparam("email_key"))
    .with_for_update(key_share=True)
)
_WRITTEN_LATELY = select(
    exists().where(
        OutgoingMail.user_id == bindparam("user_id"),
        OutgoingMail.letter.in_(_LETTERS),
        OutgoingMail.created_at > bindparam("since"),
    )
)
_KEEP_LINK = insert(_links).from_select(
    ["user_id", "token_hash", "form", "created_at", "expires_at"],
    select(
        _people.c.id,
        bindparam("token_hash", type_=_links.c.token_hash.type),
        bindparam("form", type_=JSONB(none_as_null=True)),
        bindparam("created_at", type_=_links.c.created_at.type),
        bindparam("expires_at", type_=_links.c.expires_at.type),
    ).where(_people.c.id == bindparam("user_id"), _people.c.email_verified_at.is_(None)),
)


class LinkNotValid(NotFound):
    """The link or another one of its account was used, or it is too old, or never was one of ours; nobody is told
    which."""

    detail = "This link, or another one to the same mailbox, was used already, or it is more than a day old."


def lock_owner(email_key: str | None) -> Row[Any] | None:
    """Return the account of an address, held until the transaction ends, or None; None also asks for nobody's."""
    return db.session.execute(_LOCK, {"email_key": email_key}).one_or_none()


def write_to(owner: Row[Any] | None, *, form: Mapping[str, Any] | None) -> None:
    """Write to an account's owner, with the transaction: the link that confirms the address, or that there is an
    account already where it is confirmed. Not within an hour of the last time, and not to nobody or a closed account.

    Links that are out already stay good, so that nobody can take one away by asking. `form` is what a newer
    registration said (FORM_FIELDS); it becomes the account's with this link alone.
    """
    now = clock.now()
    user_id = owner.id if owner is not None else None
    was_written_to = db.session.scalar(_WRITTEN_LATELY, {"user_id": user_id, "since": now - MAIL_EVERY})
    secret = ids.new_secret()
    savepoint = db.session.begin_nested()
    db.session.execute(
        _KEEP_LINK,
        {
            "user_id": user_id,
            "token_hash": ids.fingerprint(secret),
            "form": dict(form) if form is not None else None,
            "created_at": now,
            "expires_at": now + LINK_LASTS,
        },
    )
    is_confirmed = owner is not None and owner.email_verified_at is not None
    outgoing.order(
        letters.ACCOUNT_EXISTS if is_confirmed else letters.VERIFY_EMAIL,
        to=owner.email if owner is not None else _NOBODY,
        fields={} if is_confirmed else {"path": f"{PATH}?token={secret}"},
        user_id=user_id,
    )
    if owner is not None and owner.is_active and not was_written_to:
        savepoint.commit()
    else:
        savepoint.rollback()


def get_address(token: str) -> str:
    """Return the address a link would confirm; changes nothing, since mail scanners follow links. Raises LinkNotValid
    and Unavailable."""
    try:
        found = db.session.scalar(
            select(User.email)
            .join(EmailVerification, EmailVerification.user_id == User.id)
            .where(*_is_good(token), User.is_active)
        )
    except SQLAlchemyError as failure:
        db.session.rollback()
        if is_passing(failure):
            raise Unavailable from failure
        raise
    release_connection()
    if found is None:
        raise LinkNotValid
    return str(found)


def verify(token: str, *, administrators: Iterable[str]) -> User:
    """Confirm the address by a link, with which all of its account's are spent. One of `administrators` becomes one.

    Raises LinkNotValid or Unavailable; each is recorded.
    """
    try:
        user, form = _spend(token)
        old_role = user.user_role
        if form is not None:
            _replace(user, form)
        user.email_verified_at = clock.now()
        if user.email_key in {email_addresses.key_of(address) for address in administrators}:
            user.user_role = "admin"
        record(
            events.EMAIL_VERIFIED,
            actor=actor_of(user),
            subject_id=user.id,
            details={"replaced": form is not None},
        )
        if user.user_role != old_role:
            account.record_role(user, old_role, actor=None)
        db.session.commit()
    except LinkNotValid as refusal:
        db.session.rollback()
        _record_refused(refusal.detail)
        raise
    except SQLAlchemyError as failure:
        db.session.rollback()
        _record_refused(type(failure).__name__)
        if is_passing(failure):
            raise Unavailable from failure
        raise
    return user


def forget_old_links() -> int:
    """Delete links that are no longer valid, and the forms they would have brought; return how many."""
    gone = db.session.execute(delete(EmailVerification).where(EmailVerification.expires_at <= clock.now()))
    db.session.commit()
    return gone.rowcount  # type: ignore[attr-defined]


def _spend(token: str) -> tuple[User, dict[str, Any] | None]:
    """Take the link and all others of its account out of the world, and return the account with what the form of this
    link said. Raises LinkNotValid."""
    user_id = db.session.scalar(select(EmailVerification.user_id).where(*_is_good(token)))
    # First the account and then the link, in the order of those who write a new one.
    user = db.session.get(User, user_id, with_for_update={"key_share": True}) if user_id is not None else None
    spent = db.session.execute(
        delete(EmailVerification).where(*_is_good(token)).returning(EmailVerification.form)
    ).one_or_none()
    if user is None or spent is None or not user.is_active or user.email_verified_at is not None:
        raise LinkNotValid
    db.session.execute(delete(EmailVerification).where(EmailVerification.user_id == user.id))
    return user, spent.form


def _is_good(token: str) -> tuple[Any, Any]:
    return EmailVerification.token_hash == ids.fingerprint(token), EmailVerification.expires_at > clock.now()


def _replace(user: User, form: Mapping[str, Any]) -> None:
    """Let what a newer form said take the account's place. Whoever held it until now never proved the mailbox, so
    nothing of theirs stays: no password, no profile, no session, no token."""
    now = clock.now()
    for name in FORM_FIELDS:
        setattr(user, name, form.get(name))
    user.profile = None
    user.tos_accepted_at = now
    db.session.execute(
        update(UserSession).where(UserSession.user_id == user.id, UserSession.ended_at.is_(None)).values(ended_at=now)
    )
    db.session.execute(
        update(ApiToken).where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None)).values(revoked_at=now)
    )


def _record_refused(error: str) -> None:
    record_failure(events.EMAIL_VERIFIED, actor=None, error=error, details={"replaced": False})
