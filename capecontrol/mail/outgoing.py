"""Ordering mails, and what became of them. Nothing here talks to a mail server."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select

from capecontrol import clock
from capecontrol.errors import NotFound
from capecontrol.extensions import db
from capecontrol.job_queue import defer, without_job
from capecontrol.mail.letters import Letter
from capecontrol.mail.models import OutgoingMail

SEND_MAIL = "mail.send"
MAILS = "mails"

LOST_AFTER = timedelta(minutes=2)
"""How long a mail may wait past its time before the sweep looks whether a job is still going to send it."""

KEPT_FOR = timedelta(days=7)
REMEMBERED_FOR = timedelta(days=30)
_MOST_AT_ONCE = 500
_OUTBOX_PAGE = 100

_WITHOUT_JOB = without_job(SEND_MAIL, "mail_id", "outgoing_mails.id")


@dataclass(frozen=True, slots=True)
class Figures:
    """How the mails are. `stuck` of the waiting ones were tried in vain; the last three are of the last 24 hours."""

    waiting: int
    stuck: int
    last_trouble: str | None
    next_try_at: datetime | None
    sent: int
    refused: int
    given_up: int


def order(letter: Letter, *, to: str, fields: Mapping[str, Any], user_id: str | None) -> str:
    """Order a mail in the session's transaction and return its id: it is sent if and only if that commits.

    `fields` must survive JSON. `user_id` is whose mail it is, with whom it is erased; None for nobody's in
    particular. Raises ValueError for other fields than the letter's own, or an address that is more than one line.
    """
    if fields.keys() != letter.fields:
        raise ValueError(f"{letter.name} takes {sorted(letter.fields)}, not {sorted(fields)}: see mail/letters.py")
    if not to.isprintable() or "@" not in to:
        raise ValueError("a mail goes to one address")
    mail = OutgoingMail(letter=letter.name, recipient=to, fields=dict(fields), user_id=user_id)
    db.session.add(mail)
    db.session.flush()
    defer_sending(mail.id)
    return mail.id


def defer_sending(mail_id: str, *, in_seconds: int = 0) -> None:
    """Order the job that sends a mail: it exists if and only if the session commits."""
    defer(SEND_MAIL, queue=MAILS, in_seconds=in_seconds, mail_id=mail_id)


def order_lost_mails(*, lost_after: timedelta = LOST_AFTER) -> int:
    """Order again the mails that nobody is going to send, and return how many: their job was lost with the queue."""
    due = func.coalesce(OutgoingMail.next_try_at, OutgoingMail.created_at)
    lost = db.session.scalars(
        select(OutgoingMail.id)
        .where(OutgoingMail.state == "waiting", due < clock.now() - lost_after, _WITHOUT_JOB)
        .order_by(OutgoingMail.created_at)
        .limit(_MOST_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    for mail_id in lost:
        defer_sending(mail_id)
    db.session.commit()
    return len(lost)


def forget_old_mails() -> int:
    """Delete what stayed in the outbox for a week and what ended 30 days ago; returns how many."""
    now = clock.now()
    is_over = OutgoingMail.created_at < now - REMEMBERED_FOR
    is_kept_long = (OutgoingMail.state == "kept") & (OutgoingMail.created_at < now - KEPT_FOR)
    gone = db.session.scalars(
        delete(OutgoingMail).where(OutgoingMail.state != "waiting", is_over | is_kept_long).returning(OutgoingMail.id)
    ).all()
    db.session.commit()
    return len(gone)


def get_figures() -> Figures:
    """Return how the mails are; counted by index, for the operations page."""
    is_waiting = OutgoingMail.state == "waiting"
    is_stuck = is_waiting & (OutgoingMail.attempts > 0)
    since = clock.now() - timedelta(days=1)
    recent = OutgoingMail.ended_at >= since
    row = db.session.execute(
        select(
            func.count().filter(is_waiting).label("waiting"),
            func.count().filter(is_stuck).label("stuck"),
            func.max(OutgoingMail.last_trouble).filter(is_stuck).label("last_trouble"),
            func.min(OutgoingMail.next_try_at).filter(is_stuck).label("next_try_at"),
            *(
                func.count().filter((OutgoingMail.state == state) & recent).label(state)
                for state in ("sent", "refused", "given_up")
            ),
        ).where(is_waiting | (OutgoingMail.created_at >= since - timedelta(days=2)))
    ).one()
    return Figures(**row._asdict())


def list_kept() -> list[OutgoingMail]:
    """Return what stayed in the outbox, newest first, at most 100."""
    kept = select(OutgoingMail).where(OutgoingMail.state == "kept")
    newest = kept.order_by(OutgoingMail.created_at.desc(), OutgoingMail.id.desc())
    return list(db.session.scalars(newest.limit(_OUTBOX_PAGE)))


def get_kept(mail_id: str) -> OutgoingMail:
    """Return a mail of the outbox. Raises NotFound."""
    mail = db.session.scalar(select(OutgoingMail).where(OutgoingMail.id == mail_id, OutgoingMail.state == "kept"))
    if mail is None:
        raise NotFound("There is no such mail.")
    return mail
