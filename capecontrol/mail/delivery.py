"""Sending an ordered mail: tried for a day, never more than two at a time in a process, never twice on purpose."""

import threading
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import select, update

from capecontrol import clock
from capecontrol.extensions import db
from capecontrol.mail import letters, smtp
from capecontrol.mail.letters import Stationery
from capecontrol.mail.models import OutgoingMail
from capecontrol.mail.outgoing import defer_sending

WAITS = (5, 20, 60, 300, 900)
"""Seconds before the next try, after each of the first ones in vain; then half an hour each time."""

LONG_WAIT = 1800
TRIES = 52
"""With those waits, about a day: a server that is mended gets the mail within half an hour."""

AT_A_TIME = 2
_COME_AGAIN_SECONDS = 2

# A server that hangs holds a job for ten seconds or more, and a worker has four places: replies must not wait for it.
_places = threading.BoundedSemaphore(AT_A_TIME)

log = structlog.get_logger("mail")


def deliver(mail_id: str, *, on: Stationery, has_server: bool) -> str:
    """Try to send a mail and return its state afterwards; does nothing to one that is over or gone.

    Without a server it is kept, for whoever develops to read. A try in vain orders the next one in the same transaction
    that counts it, so neither exists without the other.
    Raises what the database or a letter's template raises.
    """
    if not _places.acquire(blocking=False):
        defer_sending(mail_id, in_seconds=_COME_AGAIN_SECONDS)
        db.session.commit()
        return "waiting"
    try:
        return _deliver(mail_id, on, has_server)
    finally:
        _places.release()


def give_up(mail_id: str, *, reason: str) -> None:
    """End a mail that cannot be sent, whatever the server would say: it cannot even be written."""
    db.session.rollback()
    _end(mail_id, "given_up", last_trouble=reason)


def _deliver(mail_id: str, stationery: Stationery, has_server: bool) -> str:
    mail = db.session.execute(
        select(OutgoingMail.letter, OutgoingMail.recipient, OutgoingMail.fields, OutgoingMail.attempts).where(
            OutgoingMail.id == mail_id, OutgoingMail.state == "waiting"
        )
    ).one_or_none()
    db.session.rollback()  # no connection is held while the mail server thinks
    if mail is None:
        return "over"
    written = letters.write(mail.letter, mail.fields, on=stationery)
    if not has_server:
        return _end(mail_id, "kept", subject=written.subject, text_body=written.text, html_body=written.html)
    try:
        smtp.hand_over(written, to=mail.recipient, mail_id=mail_id)
    except smtp.NotSent as trouble:
        return _in_vain(mail_id, trouble, tries=mail.attempts + 1)
    return _end(mail_id, "sent", attempts=OutgoingMail.attempts + 1, last_trouble=None)


def _in_vain(mail_id: str, trouble: smtp.NotSent, *, tries: int) -> str:
    log.warning("mail_not_sent", mail=mail_id, reason=trouble.reason, tries=tries)
    if trouble.is_final or tries >= TRIES:
        state = "refused" if trouble.is_final else "given_up"
        return _end(mail_id, state, attempts=tries, last_trouble=trouble.reason)
    wait = WAITS[tries - 1] if tries <= len(WAITS) else LONG_WAIT
    next_try_at = clock.now() + timedelta(seconds=wait)
    if _change(mail_id, attempts=tries, last_trouble=trouble.reason, next_try_at=next_try_at):
        defer_sending(mail_id, in_seconds=wait)
    db.session.commit()
    return "waiting"


def _end(mail_id: str, state: str, **values: Any) -> str:
    _change(mail_id, state=state, fields={}, ended_at=clock.now(), next_try_at=None, **values)
    db.session.commit()
    return state


def _change(mail_id: str, **values: Any) -> bool:
    """Change a mail that still waits, and say whether it did: a twin of this job may have been quicker."""
    changed = db.session.scalar(
        update(OutgoingMail)
        .where(OutgoingMail.id == mail_id, OutgoingMail.state == "waiting")
        .values(**values)
        .returning(OutgoingMail.id)
    )
    return changed is not None
