"""Opening an account where nobody may learn who has one: the same answer and the same work for every address.

The answer is that there is a mail to read. A new address gets an account that waits for its link; the owner of a known
one is told that somebody tried (verification.py).
"""

from sqlalchemy import select

from capecontrol import clock, ids
from capecontrol.audit import events
from capecontrol.audit.recorder import record
from capecontrol.auth import passwords, registration, verification, waiting_room
from capecontrol.auth.email_addresses import EmailAddress
from capecontrol.auth.models import IdempotencyKey
from capecontrol.auth.registration import Application, EmailTaken, KeyUsedDifferently
from capecontrol.database import release_connection
from capecontrol.errors import Overloaded, Unavailable
from capecontrol.extensions import db

DETAIL = "Check your mail: a message to this address says how to go on. At most one an hour is sent."
"""What everybody is told."""

_SCOPE = "private registration"


def register(application: Application, *, method: str, idempotency_key: str | None, ticket: str | None = None) -> None:
    """Take an application, in one transaction: an account nobody has proven yet and its mail, or a mail alone.

    The password is hashed for a known address too, and the key is kept for it. A repeat under the same key within
    24 hours changes nothing. Raises as registration.register does, but for EmailTaken, which is only recorded.
    """
    with registration.refusals_recorded(application, method=method):
        address = registration.checked(application)
        fingerprint = registration.fingerprint_of(application, address)
        room = waiting_room.look()
        if ticket is not None:
            waiting_room.prove(ticket, address.key)
            waiting_room.turn_back_at_full_gate(ticket)
        is_repeat = _is_repeat(idempotency_key, fingerprint)
        try:
            if not is_repeat:
                ticket_id = waiting_room.admit(address.key, ticket, room)
                key = None if idempotency_key is None else (idempotency_key, fingerprint)
                _take(application, address, method, key, ticket, ticket_id)
        except (waiting_room.TicketSpent, Unavailable):
            db.session.rollback()
            is_repeat = _is_repeat(idempotency_key, fingerprint)
            if not is_repeat:
                raise
        if is_repeat:
            _record_refused(application, method, reason="sent_before", error="The same form was sent before.")
        registration.commit()


def _take(
    application: Application,
    address: EmailAddress,
    method: str,
    key: tuple[str, str] | None,
    ticket: str | None,
    ticket_id: str | None,
) -> None:
    """Write the account and its mail, or a mail alone; commits nothing. `key` comes with its registration's
    fingerprint. Raises Unavailable and TicketSpent also where a twin was quicker, which has written the mail then."""
    try:
        password_hash = passwords.hash_for_registration(application.password)
    except Overloaded:
        raise waiting_room.turned_away(address.key, ticket) from None
    user = registration.insert_account(application, address, password_hash)
    owner = verification.lock_owner(address.key)
    if owner is None:  # it was there a moment ago, and is being deleted
        raise Unavailable
    if ticket_id is not None:
        waiting_room.use(ticket_id)
    if key is not None and not registration.keep_key(*key, owner.id, scope=_SCOPE):
        raise Unavailable
    verification.write_to(owner, form=None if user is not None else _form(application, password_hash))
    if user is not None:
        registration.record_opened(user, application, method=method, session_id=None)
    else:
        _record_refused(application, method, reason="email_taken", error=EmailTaken.detail)


def _is_repeat(key: str | None, fingerprint: str) -> bool:
    """Say whether this registration was taken already under this key, if it has one. Raises KeyUsedDifferently."""
    if key is None:
        return False
    stored = db.session.scalar(
        select(IdempotencyKey.fingerprint).where(
            IdempotencyKey.scope == _SCOPE,
            IdempotencyKey.key_hash == ids.fingerprint(key),
            IdempotencyKey.created_at > clock.now() - registration.KEY_LASTS,
        )
    )
    release_connection()  # nothing is held while the password is hashed
    if stored not in (None, fingerprint):
        raise KeyUsedDifferently
    return stored is not None


def _record_refused(application: Application, method: str, *, reason: str, error: str) -> None:
    record(
        events.USER_REGISTRATION_FAILED,
        actor=None,
        email=application.email,
        error=error,
        details={"method": method, "reason": reason},
    )


def _form(application: Application, password_hash: str) -> dict[str, str | None]:
    """Return what the account is to hold if this form's own link is the one that is used."""
    return {
        "password_hash": password_hash,
        "full_name": application.full_name,
        "user_role": application.user_role,
        "company_name": application.company_name,
        "tos_source": application.terms_source,
        **application.profile,
    }
