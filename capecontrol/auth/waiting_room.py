"""The waiting room in front of the hash: ordered tickets, places and estimates, shared by all processes.

The server stores the ticket, never the form and never the password. A ticket is signed, so a poll of somebody who
still waits costs no query: the place is the ticket's number less the number the turns have come to (turns.py). All
times are the database's, so that it does not matter whose clock is wrong.
"""

import hmac
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, each_second, ids
from capecontrol.auth import passwords
from capecontrol.auth.tickets import NotATicket, Signer, Ticket
from capecontrol.auth.turns import (
    LOCK_MS,
    SHORTEST_POLL_SECONDS,
    TICKET_LASTS_SECONDS,
    TURN_LASTS_SECONDS,
    Figure,
    Turns,
)
from capecontrol.database import Row, is_passing, release_connection, run_alone
from capecontrol.errors import Conflict, Overloaded, Unavailable
from capecontrol.extensions import db

LONGEST_POLL_SECONDS = 30
"""How often those ask who wait long, unless their turn cannot come in twice that time (decision 016)."""

_KEPT_SECONDS = TICKET_LASTS_SECONDS * 2
"""From a ticket's drawing on; by then its last turn is long over."""

MOST_WAITING = 20_000
LONGEST_WAIT_SECONDS = 1800
"""Who would wait longer than this is told to come another time, at once."""

# Plain text, because in a storm these are what a process does most: built anew by the ORM, they cost more than they do.
_TIMES = {"lasts": TICKET_LASTS_SECONDS, "turn": TURN_LASTS_SECONDS}
# A turn is over so long after its owner heard of it: who was told to come later than it came has not lost it, nor has
# who heard of it at the end of the ticket's time.
_WAS_OVER_AT = (
    "(coalesce(claimed_at + make_interval(secs => {turn}), created_at + make_interval(secs => {lasts})) <= {{at}})"
).format(**_TIMES)
_IS_OVER = _WAS_OVER_AT.format(at="clock_timestamp()")
# It looks for a living ticket first: a conflict would use a number up, and count for a person in everybody's place.
_DRAW = (
    "INSERT INTO registration_tickets (id, email_mark, created_at) "
    "SELECT fresh.id, fresh.mark, clock_timestamp() FROM (VALUES (%s, %s)) AS fresh (id, mark) WHERE NOT EXISTS ("
    "SELECT FROM registration_tickets WHERE email_mark = fresh.mark AND done_at IS NULL AND left_at IS NULL"
    ") AND NOT ({unless}) ON CONFLICT DO NOTHING RETURNING id, number, email_mark"
)
_END_OF_AN_OLDER_ONE = (
    "UPDATE registration_tickets SET left_at = clock_timestamp() "  # noqa: S608 -- our own words, as below
    f"WHERE email_mark = %s AND done_at IS NULL AND left_at IS NULL AND {_IS_OVER} RETURNING id"
)
_FIND = (
    "SELECT id, number, email_mark FROM registration_tickets WHERE email_mark = %s AND done_at IS NULL "  # noqa: S608
    f"AND left_at IS NULL AND {_IS_OVER} IS NOT TRUE"
)
_LOOK = (
    "SELECT turn_at IS NOT NULL, claimed_at IS NOT NULL, done_at IS NOT NULL, "  # noqa: S608
    f"left_at IS NULL AND {_IS_OVER} IS NOT TRUE, "
    f"left_at IS NOT NULL AND {_WAS_OVER_AT.format(at='left_at')} IS NOT TRUE, "
    f"{TURN_LASTS_SECONDS} - extract(epoch FROM clock_timestamp() - coalesce(claimed_at, clock_timestamp()))::float "
    "FROM registration_tickets WHERE id = %s"
)
_CLAIM = "UPDATE registration_tickets SET claimed_at = clock_timestamp() WHERE id = %s"
# When the turn was given stays: a turn that is kept again and again holds nobody up for more than its first seconds.
_RENEW = (
    "UPDATE registration_tickets SET claimed_at = clock_timestamp() "  # noqa: S608 -- as above
    f"WHERE id = %s AND turn_at IS NOT NULL AND done_at IS NULL AND left_at IS NULL AND {_IS_OVER} IS NOT TRUE "
    f"AND created_at > clock_timestamp() - make_interval(secs => {TICKET_LASTS_SECONDS}) RETURNING id"
)
_USE = text(
    "UPDATE registration_tickets SET done_at = clock_timestamp() WHERE id = :id AND done_at IS NULL RETURNING id"
)
_LEAVE = "UPDATE registration_tickets SET left_at = clock_timestamp() WHERE id = %s AND done_at IS NULL"


class Queued(Overloaded):
    """The person has a place in the waiting room; nothing was done yet. `is_new`: the ticket was drawn just now."""

    detail = "Many people are opening an account right now. You have a place in the queue."

    def __init__(self, place: "Place", ticket: str, *, is_new: bool = False) -> None:
        super().__init__(place.detail, retry_after=place.poll_seconds)
        self.place = place
        self.ticket = ticket
        self.is_new = is_new


class RoomFull(Overloaded):
    """So many wait that nobody else is taken."""

    detail = "So many people are waiting that we cannot take more. Please try later."

    def __init__(self) -> None:
        super().__init__(retry_after=60)


class TicketSpent(Conflict):
    """The ticket has opened its account already."""

    detail = "This ticket has been used: its account is open. Sign in instead."

    def __init__(self) -> None:
        super().__init__("This ticket has been used: look into your mail." if _ready().is_private else None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody stands: `place` counts from 1 and is 0 at one's turn; `seconds_left` are those of the turn.
    One that was given up is expired, too."""

    status: str
    place: int
    eta_seconds: int
    poll_seconds: int
    detail: str
    seconds_left: int = 0
    was_given_up: bool = False


EXPIRED_PLACE = Place(
    "expired", 0, 0, LONGEST_POLL_SECONDS, "Your turn has passed. Send the form again for a new place."
)
GIVEN_UP_PLACE = replace(
    EXPIRED_PLACE, detail="This place was given up. Send the form again for a new one.", was_given_up=True
)
UNKNOWN_PLACE = Place("unknown", 0, 0, 5, "We could not look your place up just now. It is kept.")


class _Row(NamedTuple):
    """What the table holds of a ticket, in the order of `_LOOK`; `seconds_left` are those of its turn."""

    has_turn: bool
    is_claimed: bool
    is_done: bool
    is_living: bool
    was_given_up: bool
    seconds_left: float


@dataclass(frozen=True, slots=True)
class _Room:
    signer: Signer
    turns: Turns
    is_open: bool
    is_private: bool = False


_room: _Room | None = None


def configure(*, secret_key: str, slots: int, processes: int, is_open: bool, is_private: bool = False) -> None:
    """Set the room up for this process. `slots` are the hashes at a time of one process, `processes` those of this
    dyno; `is_private`: nobody is told that there is an account, and at the end of the wait there is a mail."""
    global _room
    _room = _Room(Signer(secret_key), Turns(slots, processes), is_open, is_private)


def forget_figure() -> None:
    """Read the room anew at the next question, whatever was read a moment ago."""
    _ready().turns.forget()


def look() -> Figure | None:
    """Return how the room is, or None where it is closed; to be asked before a connection is held. Raises
    SQLAlchemyError."""
    room = _ready()
    return room.turns.current() if room.is_open else None


def go_on(_is_last: bool = False) -> None:
    """Give the turns that are due while people wait; each_second calls it, so that the line moves on also where nobody
    asks, past those who went away. Where the database does not answer, it is tried again a second later."""
    room = _ready()
    if not room.is_open or not room.turns.has_people_waiting or _is_last:
        return
    try:
        room.turns.current()
    except SQLAlchemyError as failure:
        if not is_passing(failure):
            raise


def queue_unless(condition: str, parameters: tuple[Any, ...], email_key: str, figure: Figure | None) -> None:
    """Queue whoever comes while others wait, unless there is more to be said: where the condition holds, which is SQL
    of ours with its parameters, where the address has a ticket, and where the room is full, nothing happens.

    It is one question to the database, because in a storm this is what a process does most. Raises Queued.
    """
    if figure is not None and figure.waiting > 0 and not _is_full(figure):
        drawn = _draw(_ready().signer.mark(email_key), unless=condition, parameters=parameters)
        if drawn is not None:
            raise _newly_queued(drawn, figure)


def admit(email_key: str, ticket: str | None, figure: Figure | None) -> str | None:
    """Let a registration go on to the gate, and return the id of the ticket it comes with, if any.

    Who comes without a ticket while others wait gets one: order is kept. Who comes early keeps the place, and so does
    who comes again without the ticket, as a client does that knows of none: the address finds it. Raises Queued,
    TicketSpent, NotATicket, or RoomFull. Whose the ticket is was proved before. Holds no connection afterwards.
    """
    room = _ready()
    known = room.signer.read(ticket) if ticket is not None and room.is_open else None
    if figure is not None and known is None and figure.waiting > 0:
        waiting = _queue(email_key, figure)
        if not isinstance(waiting, Queued) or waiting.place.status == "waiting":
            raise waiting
        known = room.signer.read(waiting.ticket)
    release_connection()
    if known is None:
        return None
    place = _place_of(known)
    if place.status == "done":
        raise TicketSpent
    if place.status == "expired":
        raise _queue(email_key, room.turns.current())
    if place.status == "waiting":
        raise Queued(place, room.signer.write(known))
    return known.id


def turned_away(email_key: str, ticket: str | None) -> Overloaded:
    """Return what somebody is told whom the gate could not take: a place, or at their turn to come again at once.

    That the gate was full is not theirs to pay for, so the turn begins anew, also of who came without the ticket.
    """
    room = _ready()
    if not room.is_open:
        return Overloaded()
    if ticket is None:
        found = _queue(email_key, room.turns.current())
        if not isinstance(found, Queued) or found.place.status != "ready":
            return found
        ticket = found.ticket
    return _at_turn_anew(ticket) or _queue(email_key, room.turns.current())


def turn_back_at_full_gate(ticket: str) -> None:
    """Let somebody at their turn come again at once where the gate has no room now: what is asked before the gate is
    most of what it would cost. Whoever is not at their turn goes on. Raises Queued and NotATicket."""
    if _ready().is_open and not passwords.has_room_for_registration():
        again = _at_turn_anew(ticket)
        if again is not None:
            raise again


def use(ticket_id: str) -> None:
    """Spend the ticket in the account's own transaction. Raises TicketSpent when a twin was quicker."""
    if db.session.execute(_USE, {"id": ticket_id}).scalar() is None:
        raise TicketSpent


def id_of(ticket: str) -> str | None:
    """Return the id of a ticket that the room has drawn and not forgotten, or None; a closed room knows none."""
    room = _ready()
    try:
        known = room.signer.read(ticket) if room.is_open else None
    except NotATicket:
        return None
    return known.id if known is not None and not _is_forgotten(known) else None


def prove(ticket: str, email_key: str) -> None:
    """Let nobody go on with the ticket of another address. Raises NotATicket."""
    room = _ready()
    if room.is_open and not hmac.compare_digest(room.signer.read(ticket).email_mark, room.signer.mark(email_key)):
        raise NotATicket


def is_for_same_address(ticket: str, other: str) -> bool:
    """Say whether two tickets of ours were drawn for one address. Raises NotATicket."""
    signer = _ready().signer
    return hmac.compare_digest(signer.read(ticket).email_mark, signer.read(other).email_mark)


def get_place(ticket: str) -> Place:
    """Return where the ticket stands; asks the database only from its turn on. Raises NotATicket and Unavailable."""
    with _or_unavailable():
        return _place_of(_ready().signer.read(ticket))


def keep(ticket: str) -> bool:
    """Keep a turn for another 30 seconds, or say that it is over already. Raises NotATicket and Unavailable."""
    with _or_unavailable():
        return _renew_turn(_ready().signer.read(ticket))


def leave(ticket: str) -> None:
    """Give the place up. Raises NotATicket and Unavailable."""
    known = _ready().signer.read(ticket)
    with _or_unavailable():
        _ask(_LEAVE, (known.id,))


def count_waiting() -> int:
    """Return how many people wait for their turn, as it was at most a quarter of a second ago."""
    return _ready().turns.current().waiting


def forget_old_tickets() -> int:
    """Delete tickets that were drawn more than two hours ago, whose last turn is long over; return how many."""
    gone = db.session.execute(
        text("DELETE FROM registration_tickets WHERE created_at < clock_timestamp() - make_interval(secs => :age)"),
        {"age": _KEPT_SECONDS},
    )
    db.session.commit()
    return gone.rowcount  # type: ignore[attr-defined]


def _is_forgotten(ticket: Ticket) -> bool:
    return (clock.now() - ids.created_at(ticket.id)).total_seconds() > _KEPT_SECONDS


def _queue(email_key: str, figure: Figure) -> Overloaded:
    """Draw a ticket at the end of the queue, find the one the address has, or say at once that the room is full."""
    signer = _ready().signer
    mark = signer.mark(email_key)
    is_full = _is_full(figure)
    if not is_full:
        drawn = _draw(mark)
        if drawn is None and _ask(_END_OF_AN_OLDER_ONE, (mark,)) is not None:
            drawn = _draw(mark)
        if drawn is not None:
            return _newly_queued(drawn, figure)
    row = _ask(_FIND, (mark,))
    if row is None:
        return RoomFull() if is_full else Overloaded()
    known = Ticket(*row)
    return Queued(_place_of(known), signer.write(known))


def _is_full(figure: Figure) -> bool:
    return figure.waiting >= MOST_WAITING or _eta(figure.waiting, figure) > LONGEST_WAIT_SECONDS


def _draw(mark: str, *, unless: str = "false", parameters: tuple[Any, ...] = ()) -> Ticket | None:
    """Store a ticket, or return None when the address has one that was not used, or where `unless` holds."""
    row = _ask(_DRAW.format(unless=unless), (ids.new_id(), mark, *parameters))
    return Ticket(*row) if row else None


def _newly_queued(drawn: Ticket, figure: Figure) -> Queued:
    each_second.wake()
    return Queued(_waiting(figure.place_of(drawn.number), figure), _ready().signer.write(drawn), is_new=True)


def _ask(statement: str, parameters: tuple[Any, ...]) -> Row | None:
    """Run one statement of the room's, which waits for a lock only so long as the room does."""
    return run_alone(statement, parameters, lock_ms=LOCK_MS)


def _renew_turn(ticket: Ticket) -> bool:
    """Let a turn begin anew; say whether there was one that was not over."""
    return _ask(_RENEW, (ticket.id,)) is not None


def _at_turn_anew(ticket: str) -> Queued | None:
    """Let the turn begin anew, and return what its owner is told; None where there is no turn, or none any more."""
    is_renewed = _renew_turn(_ready().signer.read(ticket))
    return Queued(_at_turn(TURN_LASTS_SECONDS), ticket) if is_renewed else None


def _place_of(ticket: Ticket) -> Place:
    figure = _ready().turns.current(drawn=ticket.number)
    place_in_line = figure.place_of(ticket.number)
    if figure.waits(ticket.number):
        return _waiting(place_in_line, figure)
    found = _ask(_LOOK, (ticket.id,))
    row = _Row(*found) if found else None
    place = _place_in(row, place_in_line, figure)
    if row is not None and place.status == "ready" and not row.is_claimed:
        _ask(_CLAIM, (ticket.id,))
    return place


def _place_in(row: _Row | None, place_in_line: int, figure: Figure) -> Place:
    """Return the place of a ticket by its row; None where there is none any more."""
    if row is not None and row.is_done:
        detail = (
            "Your form was taken. Look into your mail." if _ready().is_private else "Your account is open. Sign in."
        )
        return Place("done", 0, 0, LONGEST_POLL_SECONDS, detail)
    if row is not None and row.is_living and not row.has_turn:
        return _waiting(place_in_line, figure)  # drawn before another that was read already, and stored after it
    if row is not None and row.is_living:
        return _at_turn(min(TURN_LASTS_SECONDS, math.ceil(row.seconds_left)))
    return GIVEN_UP_PLACE if row is not None and row.was_given_up else EXPIRED_PLACE


def _waiting(place: int, figure: Figure) -> Place:
    eta = _eta(place, figure)
    turns = _ready().turns
    longest = max(LONGEST_POLL_SECONDS, int(turns.soonest(place) / 2))
    poll = min(longest, max(turns.shortest_poll_seconds, eta // 2))
    people = "You are next" if place == 1 else f"{place - 1:,} {'person is' if place == 2 else 'people are'} before you"
    return Place("waiting", place, eta, poll, f"{people}. Your turn comes in about {_in_words(eta)}.")


def _at_turn(seconds_left: int) -> Place:
    return Place("ready", 0, 0, SHORTEST_POLL_SECONDS, "It is your turn. Send the form again now.", seconds_left)


def _eta(place: int, figure: Figure) -> int:
    return max(1, math.ceil(place / figure.pace))


def _in_words(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} {'second' if seconds == 1 else 'seconds'}"
    minutes = round(seconds / 60)
    return f"{minutes} {'minute' if minutes == 1 else 'minutes'}"


@contextmanager
def _or_unavailable() -> Iterator[None]:
    """Say in our own words that the database does not answer."""
    try:
        yield
    except SQLAlchemyError as failure:
        db.session.rollback()
        if is_passing(failure):
            raise Unavailable from failure
        raise


def _ready() -> _Room:
    if _room is None:
        raise RuntimeError("waiting_room.configure() was not called")
    return _room
