"""The waiting room in front of the hash: ordered tickets, places, estimates, turns; shared by all processes.

The server stores the ticket, never the form and never the password. A ticket is signed, so a poll of somebody who
still waits costs no query: the place is the ticket's number less the number the turns have come to, a figure that
each process reads at most four times a second. Turns are given in order, as many at a time as will be used.
"""

import hashlib
import hmac
import math
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from capecontrol import clock, ids
from capecontrol.auth import passwords
from capecontrol.auth.models import RegistrationTicket
from capecontrol.database import short_transaction
from capecontrol.errors import Conflict, Invalid, Overloaded
from capecontrol.extensions import db

TURN_LASTS_SECONDS = 30
TICKET_LASTS_SECONDS = 3600
FIGURE_LASTS_SECONDS = 0.25
SHORTEST_POLL_SECONDS = 2
LONGEST_POLL_SECONDS = 30
MOST_WAITING = 20_000
LONGEST_WAIT_SECONDS = 1800
"""Who would wait longer than this is told to come another time, at once."""

_UNCLAIMED_SECONDS = 3
"""A turn nobody has come for by then holds no one up any more; it can still be used until it is over."""

_CLAIMED_SECONDS = 3
_RATE_OVER_SECONDS = 10
_ENOUGH_TO_LEARN_FROM = 20
"""Registrations within ten seconds that tell the pace, from the first of them on; with fewer, the hash's own time."""


# "waitroom" in hexadecimal: turns are given by one process at a time.
_ADVISORY_LOCK = 0x77616974_726F6F6D

_GIVE_TURNS = text(
    """
    UPDATE registration_tickets SET turn_at = clock_timestamp()
    WHERE id IN (
        SELECT id FROM registration_tickets
        WHERE turn_at IS NULL AND left_at IS NULL AND created_at > clock_timestamp() - make_interval(secs => :lasts)
        ORDER BY number
        LIMIT greatest(0, :most - (
            SELECT count(*) FROM registration_tickets
            WHERE turn_at > clock_timestamp() - make_interval(secs => :turn) AND done_at IS NULL AND left_at IS NULL
              AND coalesce(claimed_at + make_interval(secs => :claimed), turn_at + make_interval(secs => :unclaimed))
                  > clock_timestamp()
        ))
    )
    """
)
_READ = text(
    """
    WITH waiting AS (
        SELECT min(number) AS first, count(*) AS people FROM registration_tickets
        WHERE turn_at IS NULL AND left_at IS NULL AND created_at > clock_timestamp() - make_interval(secs => :lasts)
    )
    SELECT
        coalesce(waiting.first - 1, (SELECT max(number) FROM registration_tickets), 0) AS come_to,
        waiting.people AS waiting,
        done.people AS done,
        extract(epoch FROM clock_timestamp() - done.first)::float AS over
    FROM waiting, (
        SELECT count(*) AS people, min(done_at) AS first FROM registration_tickets
        WHERE done_at > clock_timestamp() - make_interval(secs => :over)
    ) AS done
    """
)


class Queued(Overloaded):
    """The person has a place in the waiting room; nothing was done yet."""

    detail = "Many people are opening an account right now. You have a place in the queue."

    def __init__(self, place: "Place", ticket: str) -> None:
        super().__init__(place.detail, retry_after=place.poll_seconds)
        self.place = place
        self.ticket = ticket


class TicketSpent(Conflict):
    """The ticket has opened its account already."""

    detail = "This ticket has been used: its account is open. Sign in instead."


class NotATicket(Invalid):
    """The ticket is not one of ours, or belongs to another address."""

    def __init__(self) -> None:
        super().__init__({"ticket": ["This ticket is not valid for this registration. Send the form without it."]})


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody stands: `place` counts from 1 and is 0 at one's turn; times in seconds."""

    status: str
    place: int
    eta_seconds: int
    poll_seconds: int
    detail: str


@dataclass(frozen=True, slots=True)
class _Ticket:
    id: str
    number: int
    email_mark: str


@dataclass(frozen=True, slots=True)
class _Figure:
    """What a process knows of the room, for a quarter of a second."""

    come_to: int
    waiting: int
    rate: float
    read_at: float


@dataclass(slots=True)
class _Room:
    signer: URLSafeSerializer
    secret: bytes
    slots: int
    is_open: bool
    figure: _Figure
    lock: threading.Lock


_room: _Room | None = None


def configure(*, secret_key: str, slots: int, is_open: bool) -> None:
    """Set the room up for this process. `slots` are the hashes at a time of all processes together."""
    global _room
    _room = _Room(
        signer=URLSafeSerializer(secret_key, salt="registration-ticket"),
        secret=secret_key.encode(),
        slots=slots,
        is_open=is_open,
        figure=_Figure(0, 0, 0.0, read_at=-math.inf),
        lock=threading.Lock(),
    )


def forget_figure() -> None:
    """Read the room anew at the next question, whatever was read a moment ago."""
    _ready().figure = _Figure(0, 0, 0.0, read_at=-math.inf)


def admit(email_key: str, ticket: str | None) -> str | None:
    """Let a registration go on to the gate, and return the id of the ticket it comes with, if any.

    Who comes without a ticket while others wait gets one: order is kept. Who comes early keeps the place, and so does
    who comes again without the ticket, as a client does that knows of none: the address finds it. Raises Queued,
    TicketSpent, NotATicket, or Overloaded when the room itself is full. Holds no connection afterwards.
    """
    room = _ready()
    if not room.is_open:
        return None
    if ticket is None:
        if _current().waiting == 0:
            return None
        known = _living_ticket(email_key)
        if known is None:
            raise _queue(email_key)
    else:
        known = _read_ticket(ticket)
    if not hmac.compare_digest(known.email_mark, _mark(email_key)):
        raise NotATicket
    place = _place_of(known)
    if place.status == "done":
        raise TicketSpent
    if place.status == "expired":
        raise _queue(email_key)
    if place.status == "waiting":
        raise Queued(place, _written(known))
    return known.id


def turned_away(email_key: str, ticket: str | None) -> Overloaded:
    """Return what somebody is told whom the gate could not take: a place, or at their turn to come again at once."""
    room = _ready()
    if not room.is_open:
        return Overloaded()
    if ticket is not None:
        return Queued(_at_turn(poll_seconds=1), ticket)
    known = _living_ticket(email_key)
    return Queued(_place_of(known), _written(known)) if known else _queue(email_key)


def use(ticket_id: str) -> None:
    """Spend the ticket in the account's own transaction. Raises TicketSpent when a twin was quicker."""
    spent = db.session.execute(
        update(RegistrationTicket)
        .where(RegistrationTicket.id == ticket_id, RegistrationTicket.done_at.is_(None))
        .values(done_at=clock.now())
        .returning(RegistrationTicket.id)
    ).scalar_one_or_none()
    if spent is None:
        raise TicketSpent


def get_place(ticket: str) -> Place:
    """Return where the ticket stands; asks the database only from its turn on. Raises NotATicket."""
    return _place_of(_read_ticket(ticket))


def keep(ticket: str) -> Place:
    """Keep a turn for another 30 seconds. Raises NotATicket."""
    known = _read_ticket(ticket)
    db.session.execute(
        update(RegistrationTicket)
        .where(
            RegistrationTicket.id == known.id,
            RegistrationTicket.turn_at.is_not(None),
            RegistrationTicket.done_at.is_(None),
            RegistrationTicket.left_at.is_(None),
        )
        .values(turn_at=clock.now(), claimed_at=None)
    )
    db.session.commit()
    return _place_of(known)


def leave(ticket: str) -> None:
    """Give the place up. Raises NotATicket."""
    known = _read_ticket(ticket)
    db.session.execute(
        update(RegistrationTicket)
        .where(RegistrationTicket.id == known.id, RegistrationTicket.done_at.is_(None))
        .values(left_at=clock.now())
    )
    db.session.commit()


def count_waiting() -> int:
    """Return how many people wait for their turn, as it was at most a quarter of a second ago."""
    return _current().waiting


def forget_old_tickets() -> int:
    """Delete tickets that ended, or were drawn, more than an hour ago; return how many."""
    gone = db.session.execute(
        text("DELETE FROM registration_tickets WHERE created_at < clock_timestamp() - make_interval(secs => :age)"),
        {"age": TICKET_LASTS_SECONDS * 2},
    )
    db.session.commit()
    return gone.rowcount  # type: ignore[attr-defined]


def _queue(email_key: str) -> Overloaded:
    """Draw a ticket at the end of the queue, or say at once that the room is full."""
    figure = _current()
    if figure.waiting >= MOST_WAITING or _eta(figure.waiting, figure) > LONGEST_WAIT_SECONDS:
        return Overloaded("So many people are waiting that we cannot take more. Please try later.", retry_after=60)
    row = _draw(_mark(email_key))
    if row is None:  # a twin was quicker: the place is the same
        known = _living_ticket(email_key)
        return Queued(_place_of(known), _written(known)) if known else Overloaded()
    come_to = figure.come_to if figure.waiting else row.number - 1  # numbers of tickets never stored are no people
    _ready().figure = figure = _Figure(come_to, figure.waiting + 1, figure.rate, figure.read_at)
    place = _waiting(row.number, figure)
    return Queued(place, _written(_Ticket(row.id, row.number, row.email_mark)))


def _draw(mark: str) -> RegistrationTicket | None:
    """Store a ticket, or return None when the address has a living one. One whose time is over gives way."""
    now = clock.now()
    db.session.execute(
        update(RegistrationTicket)
        .where(
            RegistrationTicket.email_mark == mark,
            RegistrationTicket.done_at.is_(None),
            RegistrationTicket.left_at.is_(None),
            or_(
                RegistrationTicket.turn_at <= now - timedelta(seconds=TURN_LASTS_SECONDS),
                RegistrationTicket.created_at <= now - timedelta(seconds=TICKET_LASTS_SECONDS),
            ),
        )
        .values(left_at=now)
    )
    row = db.session.scalar(
        insert(RegistrationTicket)
        .values(id=ids.new_id(), email_mark=mark, created_at=now)
        .on_conflict_do_nothing()
        .returning(RegistrationTicket)
    )
    db.session.commit()
    return row


def _living_ticket(email_key: str) -> _Ticket | None:
    """Return the ticket that was drawn for this address and can still be used."""
    now = clock.now()
    row = db.session.execute(
        select(RegistrationTicket.id, RegistrationTicket.number, RegistrationTicket.email_mark)
        .where(
            RegistrationTicket.email_mark == _mark(email_key),
            RegistrationTicket.done_at.is_(None),
            RegistrationTicket.left_at.is_(None),
            RegistrationTicket.created_at > now - timedelta(seconds=TICKET_LASTS_SECONDS),
            or_(
                RegistrationTicket.turn_at.is_(None),
                RegistrationTicket.turn_at > now - timedelta(seconds=TURN_LASTS_SECONDS),
            ),
        )
        .order_by(RegistrationTicket.number)
        .limit(1)
    ).one_or_none()
    db.session.rollback()
    return _Ticket(row.id, row.number, row.email_mark) if row else None


def _written(ticket: _Ticket) -> str:
    return str(_ready().signer.dumps([ticket.id, ticket.number, ticket.email_mark]))


def _place_of(ticket: _Ticket) -> Place:
    figure = _current()
    if ticket.number > figure.come_to:
        return _waiting(ticket.number, figure)
    row = db.session.execute(
        select(
            RegistrationTicket.turn_at,
            RegistrationTicket.claimed_at,
            RegistrationTicket.done_at,
            RegistrationTicket.left_at,
        ).where(RegistrationTicket.id == ticket.id)
    ).one_or_none()
    if row is not None and row.done_at is not None:
        db.session.rollback()
        return Place("done", 0, 0, LONGEST_POLL_SECONDS, "Your account is open. Sign in.")
    if row is None or row.left_at is not None or row.turn_at is None or _is_over(row.turn_at):
        db.session.rollback()
        return Place(
            "expired", 0, 0, LONGEST_POLL_SECONDS, "Your turn has passed. Send the form again for a new place."
        )
    if row.claimed_at is None:
        db.session.execute(
            update(RegistrationTicket).where(RegistrationTicket.id == ticket.id).values(claimed_at=clock.now())
        )
    db.session.commit()
    return _at_turn(poll_seconds=SHORTEST_POLL_SECONDS)


def _waiting(number: int, figure: _Figure) -> Place:
    place = max(1, number - figure.come_to)
    eta = _eta(place, figure)
    poll = min(LONGEST_POLL_SECONDS, max(SHORTEST_POLL_SECONDS, round(eta / 4)))
    people = "You are next" if place == 1 else f"{place - 1:,} {'person is' if place == 2 else 'people are'} before you"
    return Place("waiting", place, eta, poll, f"{people}. Your turn comes in about {_in_words(eta)}.")


def _at_turn(*, poll_seconds: int) -> Place:
    return Place("ready", 0, 0, poll_seconds, "It is your turn. Send the form again now.")


def _eta(place: int, figure: _Figure) -> int:
    return max(1, math.ceil(place / figure.rate)) if figure.rate else 1


def _in_words(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} {'second' if seconds == 1 else 'seconds'}"
    minutes = round(seconds / 60)
    return f"{minutes} {'minute' if minutes == 1 else 'minutes'}"


def _is_over(turn_at: datetime) -> bool:
    return (clock.now() - turn_at).total_seconds() > TURN_LASTS_SECONDS


def _current() -> _Figure:
    """Return the room's figure, read anew when it is older than a quarter of a second; one thread reads at a time."""
    room = _ready()
    if clock.monotonic() - room.figure.read_at <= FIGURE_LASTS_SECONDS or not room.lock.acquire(blocking=False):
        return room.figure
    try:
        room.figure = _read_figure(room)
    finally:
        room.lock.release()
    return room.figure


def _read_figure(room: _Room) -> _Figure:
    with short_transaction(pool=None) as connection:
        figure = connection.execute(_READ, {"over": _RATE_OVER_SECONDS, "lasts": TICKET_LASTS_SECONDS}).one()
        possible = room.slots / passwords.seconds_per_hash()
        rate = figure.done / max(1.0, figure.over) if figure.done >= _ENOUGH_TO_LEARN_FROM else possible
        if figure.waiting and connection.scalar(
            text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK}
        ):
            connection.execute(
                _GIVE_TURNS,
                {
                    # By what is possible too: a room that only gave as many turns as were used lately would keep to
                    # whatever pace it began with.
                    "most": max(4 * room.slots, math.ceil(max(rate, possible) * (SHORTEST_POLL_SECONDS + 0.5))),
                    "lasts": TICKET_LASTS_SECONDS,
                    "turn": TURN_LASTS_SECONDS,
                    "claimed": _CLAIMED_SECONDS,
                    "unclaimed": _UNCLAIMED_SECONDS,
                },
            )
            figure = connection.execute(_READ, {"over": _RATE_OVER_SECONDS, "lasts": TICKET_LASTS_SECONDS}).one()
    return _Figure(figure.come_to, figure.waiting, rate, clock.monotonic())


def _read_ticket(ticket: str) -> _Ticket:
    try:
        known = _ready().signer.loads(ticket)
        return _Ticket(str(known[0]), int(known[1]), str(known[2]))
    except (BadSignature, TypeError, ValueError, IndexError, KeyError):
        raise NotATicket from None


def _mark(email_key: str) -> str:
    """Return what binds a ticket to its address without telling the address."""
    return hmac.new(_ready().secret, b"ticket|" + email_key.encode(), hashlib.sha256).hexdigest()[:24]


def _ready() -> _Room:
    if _room is None:
        raise RuntimeError("waiting_room.configure() was not called")
    return _room
