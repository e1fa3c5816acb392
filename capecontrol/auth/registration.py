"""Opening an account: the rules and the writes."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy import bindparam, delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, ids
from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.recorder import record, record_failure
from capecontrol.auth import email_addresses, passwords, turned_away, waiting_room
from capecontrol.auth.credentials import Credential, Mint, actor_of, end_session_of
from capecontrol.auth.email_addresses import EmailAddress
from capecontrol.auth.models import IdempotencyKey, User
from capecontrol.auth.tickets import NotATicket
from capecontrol.database import is_lost, is_passing, release_connection, run_alone
from capecontrol.errors import Conflict, DomainError, Invalid, Overloaded, RetryLater, Unavailable
from capecontrol.extensions import db

AtFullGate = Callable[[], Overloaded]
"""Says what somebody is told whom the gate cannot take."""

KEY_LASTS = timedelta(hours=24)
_SCOPE = "registration"

# The statements of a registration, built once: building them anew costs as much as sending them, and the ORM's own
# insert as much again.
_people: Any = User.__table__
_keys: Any = IdempotencyKey.__table__
_FIND = """
    SELECT account.id, key.fingerprint, key.user_id
    FROM (SELECT 1) AS one
    LEFT JOIN users_v2 AS account ON account.email_key = %s
    LEFT JOIN idempotency_keys AS key ON key.scope = %s AND key.key_hash = %s AND key.created_at > %s
    """
_IS_KNOWN = """
    EXISTS (SELECT FROM users_v2 WHERE email_key = %s)
    OR EXISTS (SELECT FROM idempotency_keys WHERE scope = %s AND key_hash = %s)
    """
_INSERT = insert(_people).on_conflict_do_nothing(index_elements=[_people.c.email_key]).returning(_people.c.id)
_fresh_key = insert(_keys)
_KEEP = _fresh_key.on_conflict_do_update(
    index_elements=[_keys.c.scope, _keys.c.key_hash],
    set_={name: _fresh_key.excluded[name] for name in ("fingerprint", "user_id", "created_at")},
    where=_keys.c.created_at <= bindparam("oldest"),
).returning(_keys.c.key_hash)

log = structlog.get_logger("registration")


class EmailTaken(Conflict):
    """The address belongs to an account already."""

    detail = "That e-mail address already has an account. Sign in instead, or use another address."


class OutcomeUnknown(Unavailable):
    """The connection was lost while the account was committed: it is open or it is not, and the same form tells."""

    detail = (
        "Our database was cut off at the last step, so we cannot say whether this was done. Please send the same form "
        "again: it cannot open two accounts."
    )


class KeyUsedDifferently(Invalid):
    """The idempotency key was used for another registration, or with another password."""

    def __init__(self) -> None:
        super().__init__(
            {"idempotency_key": ["This registration was already sent with other details. Please send a fresh one."]}
        )


@dataclass(frozen=True, slots=True)
class Application:
    """What somebody filled in to open an account, already of the right shape."""

    email: str
    password: str = field(repr=False)
    full_name: str
    user_role: str
    company_name: str | None = None
    terms_source: str = "page"
    profile: dict[str, str] = field(default_factory=dict)
    """Further columns of the account: industry, project_budget, skills, portfolio, github, phone, website,
    experience."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database holds of an application before it is hashed: the address, and whose registration the key is."""

    is_taken: bool
    fingerprint: str | None
    key_owner: str | None


@dataclass(frozen=True, slots=True)
class Registered:
    """The account and what its owner holds from now on."""

    user: User
    credential: Credential


def register(
    application: Application,
    *,
    actor: Actor | None,
    method: str,
    mint: Mint,
    idempotency_key: str | None = None,
    ticket: str | None = None,
) -> Registered:
    """Open an account and mint its first credential, in one transaction.

    `actor` is who was signed in in this browser before, if anybody; that session ends.

    The database decides uniqueness, by `ON CONFLICT DO NOTHING` on the address key. A repeat under the same
    idempotency key within 24 hours gives the same account and a fresh credential, if the password is the same.
    When the gate is full, or others wait already, raises waiting_room.Queued with a ticket to come again with.
    Raises Invalid, EmailTaken, KeyUsedDifferently, TicketSpent or Overloaded too. Each refusal is recorded and changes
    nothing, where there is no room as turned_away says; being asked to wait is no refusal.
    """
    with refusals_recorded(application, method=method):
        address = checked(application)
        room = waiting_room.look()
        if ticket is None:
            waiting_room.queue_unless(_IS_KNOWN, _names(address, idempotency_key), address.key, room)
        else:
            waiting_room.prove(ticket, address.key)
            waiting_room.turn_back_at_full_gate(ticket)
        fingerprint = fingerprint_of(application, address)
        at_full_gate = partial(waiting_room.turned_away, address.key, ticket)
        repeat = partial(_repeat, fingerprint, application, actor=actor, mint=mint, at_full_gate=at_full_gate)
        known = _known(address, idempotency_key)  # spares the hash; the insert below is what decides
        if known.key_owner is not None:
            return repeat(known)
        if known.is_taken:
            raise EmailTaken
        try:
            ticket_id = waiting_room.admit(address.key, ticket, room)
        except waiting_room.TicketSpent:
            known = _known(address, idempotency_key)
            if known.key_owner is None:
                raise
            return repeat(known)  # a twin was quicker
        try:
            password_hash = passwords.hash_for_registration(application.password)
        except Overloaded:
            raise at_full_gate() from None
        user = insert_account(application, address, password_hash)
        if user is None:
            db.session.rollback()
            known = _known(address, idempotency_key)
            if known.key_owner is None:
                raise EmailTaken
            return repeat(known)
        if idempotency_key is not None and not keep_key(idempotency_key, fingerprint, user.id, scope=_SCOPE):
            raise KeyUsedDifferently
        if ticket_id is not None:
            waiting_room.use(ticket_id)
        end_session_of(actor)
        credential = mint(user)
        record_opened(user, application, method=method, session_id=credential.session_id)
        commit()
    return Registered(user, credential)


@contextmanager
def refusals_recorded(application: Application, *, method: str) -> Iterator[None]:
    """Undo and record what refuses a registration meanwhile; it goes on as the error it is, or as Unavailable."""
    try:
        yield
    except RetryLater as refusal:
        release_connection()
        is_refused = isinstance(refusal, Overloaded) and not isinstance(refusal, waiting_room.Queued)
        if is_refused and not turned_away.count_unless_first():
            record_refused(application.email, method=method, reason="overloaded", error=refusal.detail)
        if isinstance(refusal, OutcomeUnknown):
            record_refused(application.email, method=method, reason="outcome_unknown", error=refusal.detail)
        raise
    except SQLAlchemyError as failure:
        release_connection()
        record_refused(application.email, method=method, reason="unavailable", error=type(failure).__name__)
        if is_passing(failure):
            raise Unavailable from failure
        raise
    except DomainError as refusal:
        release_connection()
        record_refused(application.email, method=method, reason=_reason(refusal), error=refusal.detail)
        raise


def commit() -> None:
    """Commit a registration. Raises OutcomeUnknown where the connection was lost meanwhile, and SQLAlchemyError."""
    try:
        db.session.commit()
    except SQLAlchemyError as failure:
        if is_lost(failure):
            raise OutcomeUnknown from failure
        raise


def record_opened(user: User, application: Application, *, method: str, session_id: str | None) -> None:
    """Record that an account was opened, with the session its owner has from now on, if any."""
    record(
        events.USER_REGISTRATION,
        actor=actor_of(user, session_id=session_id),
        subject_id=user.id,
        details={"method": method, "role": user.user_role, "terms_source": application.terms_source},
    )


def record_refused(email: str | None, *, method: str, reason: str, error: str) -> None:
    """Record that an application was refused, also where its shape alone was wrong."""
    record_failure(
        events.USER_REGISTRATION_FAILED,
        actor=None,
        email=email_addresses.as_recorded(email),
        error=error,
        details={"method": method, "reason": reason},
    )


def forget_old_keys() -> int:
    """Delete idempotency keys older than 24 hours; return how many."""
    gone = db.session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < clock.now() - KEY_LASTS))
    db.session.commit()
    return gone.rowcount  # type: ignore[attr-defined]


def checked(application: Application) -> EmailAddress:
    """Return the address when all rules hold. Raises Invalid with every broken one."""
    found: dict[str, list[str]] = {}
    address = EmailAddress("", "")
    try:
        address = email_addresses.parse(application.email)
    except ValueError as error:
        found["email"] = [str(error)]
    if wrong := passwords.problems(application.password, email=application.email, name=application.full_name):
        found["password"] = wrong
    if application.user_role not in ("client", "developer"):
        found["user_role"] = ["Choose client or developer."]
    if found:
        raise Invalid(found)
    return address


def _known(address: EmailAddress, key: str | None) -> _Known:
    """Look for the address and the key. One statement, since account and key become visible together: a twin's commit
    between two questions would make a repeat look like a taken address."""
    account_id, fingerprint, key_owner = run_alone(_FIND, (*_names(address, key), clock.now() - KEY_LASTS)) or ()
    return _Known(account_id is not None, fingerprint, key_owner)


def _names(address: EmailAddress, key: str | None) -> tuple[str, str, str | None]:
    """Return what the database knows a registration by: the address, and the key in its scope."""
    return address.key, _SCOPE, None if key is None else ids.fingerprint(key)


def insert_account(application: Application, address: EmailAddress, password_hash: str) -> User | None:
    """Insert the account, or return None when the address is taken, also by somebody a moment earlier. Commits
    nothing."""
    now = clock.now()
    values = {
        "id": ids.new_id(),
        "email": address.address,
        "email_key": address.key,
        "password_hash": password_hash,
        "user_role": application.user_role,
        "full_name": application.full_name,
        "company_name": application.company_name,
        "tos_accepted_at": now,
        "tos_source": application.terms_source,
        "is_active": True,
        "created_at": now,
        "updated_at": now,
        **application.profile,
    }
    is_inserted = db.session.scalar(_INSERT, values) is not None
    return User(**values) if is_inserted else None


def keep_key(key: str, fingerprint: str, user_id: str, *, scope: str) -> bool:
    """Store the key with the account; say whether it was free. Commits nothing."""
    now = clock.now()
    stored = db.session.scalar(
        _KEEP,
        {
            "scope": scope,
            "key_hash": ids.fingerprint(key),
            "fingerprint": fingerprint,
            "user_id": user_id,
            "created_at": now,
            "oldest": now - KEY_LASTS,
        },
    )
    return stored is not None


def _repeat(
    fingerprint: str,
    application: Application,
    known: _Known,
    *,
    actor: Actor | None,
    mint: Mint,
    at_full_gate: AtFullGate,
) -> Registered:
    """Answer a repeated registration as the first time: no answer is stored, so the password is asked again."""
    user = db.session.get(User, known.key_owner)
    password_hash = user.password_hash if user is not None and user.is_active else None
    db.session.rollback()
    if password_hash is None or known.fingerprint != fingerprint:
        raise KeyUsedDifferently
    try:
        is_right = passwords.verify_for_registration(password_hash, application.password)
    except Overloaded:
        raise at_full_gate() from None
    user = db.session.get(User, known.key_owner)
    if user is None or not is_right:
        raise KeyUsedDifferently
    end_session_of(actor)
    credential = mint(user)
    record(
        events.USER_LOGIN,
        actor=actor_of(user, session_id=credential.session_id),
        details={"method": "repeated registration", "remembered": False},
    )
    db.session.commit()
    return Registered(user, credential)


def fingerprint_of(application: Application, address: EmailAddress) -> str:
    """Return what must be equal for a repeat to be one; made from no password."""
    parts = [
        address.key,
        application.full_name,
        application.user_role,
        application.company_name,
        sorted(application.profile.items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _reason(refusal: DomainError) -> str:
    reasons = {
        EmailTaken: "email_taken",
        KeyUsedDifferently: "key_used_differently",
        waiting_room.TicketSpent: "ticket_spent",
        NotATicket: "no_ticket_of_ours",
    }
    return next((word for kind, word in reasons.items() if isinstance(refusal, kind)), "invalid_input")
