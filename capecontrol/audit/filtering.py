"""What to look for in the record, and the rows that answer it: found by one index, within a bounded part of the log."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnCollection, ColumnElement, Select, and_, func, literal, or_, select, tuple_, union_all

from capecontrol import ids
from capecontrol.audit import events
from capecontrol.audit.event_details import log, people
from capecontrol.extensions import db
from capecontrol.web.pagination import Position

Columns = ColumnCollection[str, Any]

WINDOW = 5_000
"""How many events one search looks through for what its index does not know, so that it ends in time."""

TEXT_WINDOW = 2_500
"""The same for text, which takes longer to look at."""

# The inherited vocabulary has three pairs of names for one thing; either finds both.
SYNONYMS = {
    "user_register": "user_registration",
    "login_failed": "user_login_failed",
    "system_config_change": "configuration_changed",
}
SYNONYMS |= {name: synonym for synonym, name in SYNONYMS.items()}

_key = tuple_(log.c.created_at, log.c.event_id)


@dataclass(frozen=True, slots=True)
class Filters:
    """What to look for; everything is optional and all of it must hold.

    `event` and `category` are a name, or several of which any will do; `q` is a text, or several that must all be
    found. `person` is an address in any case, or an account's id, also of one that is gone; `plan` fills in `address`,
    that account's own. `after` is the first moment that counts, `before` the first that does not. `for_person` is the
    one whose own record it is, whoever else is asked for; `with_readings` adds what staff read of theirs, which is in
    the record of these others and names them.
    """

    event: str | tuple[str, ...] | None = None
    category: str | tuple[str, ...] | None = None
    level: str | None = None
    outcome: Literal["success", "refused"] | None = None
    person: str | None = None
    ip: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    min_risk_score: int | None = None
    q: str | tuple[str, ...] | None = None
    for_person: str | None = None
    with_readings: bool = False
    address: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the events asked for, with their synonyms."""
        given = (self.event,) if isinstance(self.event, str) else self.event or ()
        return tuple(dict.fromkeys(each for name in given for each in (name, SYNONYMS.get(name, name))))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that must all be found."""
        return (self.q,) if isinstance(self.q, str) else self.q or ()


@dataclass(frozen=True, slots=True)
class Plan:
    """How filters are answered: by which index ranges, of which any will do, and what is left to look at.

    Which index is chosen here and not by the planner: it would now and then walk through millions of rows of one
    index for a handful that another would have found at once, or that are not there at all.
    """

    ranges: tuple[tuple[ColumnElement[bool], ...], ...]
    span: tuple[ColumnElement[bool], ...]
    filters: Filters
    led_by: str

    @property
    def is_exact(self) -> bool:
        """Whether the index alone knows the answer."""
        return not any(True for _ in self.rest(log.c))

    @property
    def window(self) -> int:
        """How many rows of the index one search looks at."""
        return TEXT_WINDOW if self.filters.texts else WINDOW

    def rest(self, columns: Columns) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that the index does not answer."""
        asked = self.filters
        for name, condition in _conditions(asked, columns):
            if name != self.led_by:
                yield condition
        if asked.category is not None:
            wanted = (asked.category,) if isinstance(asked.category, str) else asked.category
            yield columns.event_category.in_(wanted)
        if asked.level is not None:
            yield columns.event_level == asked.level
        if asked.min_risk_score:
            yield columns.risk_score >= asked.min_risk_score
        for words in asked.texts:
            yield _says(words, columns)

    def rows(self, position: Position | None, limit: int, *, is_towards_newer: bool = False) -> Select[tuple[Any, ...]]:
        """Return the first rows of the index, in the order of reading, whatever the rest says of them."""
        conditions = list(self.span)
        if position is not None:
            mark = tuple_(literal(position.at, log.c.created_at.type), literal(position.id, log.c.event_id.type))
            conditions.append(_key > mark if is_towards_newer else _key < mark)
        branches = [
            select(log).where(*one, *conditions).order_by(*order(log.c, is_towards_newer)).limit(limit)
            for one in self.ranges
        ]
        if len(branches) == 1:
            return branches[0]
        either = union_all(*branches).subquery()
        return select(either).order_by(*order(either.c, is_towards_newer)).limit(limit)


def plan(filters: Filters) -> Plan:
    """Choose the index: a person's range before an address's, that before an event's, and time for the rest.

    Of an account it looks up the address, since who is turned away at the door has nothing else.
    """
    if filters.person is not None and "@" not in filters.person:
        own = select(people.c.email).where(people.c.id == filters.person)
        filters = replace(filters, address=db.session.scalar(own))
    ranges: tuple[tuple[ColumnElement[bool], ...], ...]
    span = []
    if filters.after is not None:
        span.append(log.c.created_at >= filters.after)
    if filters.before is not None:
        span.append(log.c.created_at < filters.before)
    led_by, condition = next(_conditions(filters, log.c), ("time", None))
    if led_by == "person":
        address = filters.address or filters.person
        ranges = tuple((one,) for one in _whose(filters.person or "", address, log.c))
    elif led_by == "for_person" and filters.with_readings:
        ranges = ((log.c.user_id == filters.for_person,), (was_read(filters.for_person or "", log.c),))
    elif led_by == "event":
        ranges = tuple((log.c.event_type == name,) for name in filters.names)
    elif condition is None or (led_by == "outcome" and filters.outcome == "success"):
        led_by, ranges = "time", ((),)  # nearly everything succeeds, so no index is kept for it
    else:
        ranges = ((condition,),)
    return Plan(ranges, tuple(span), filters, led_by)


def order(columns: Columns, is_towards_newer: bool = False) -> list[ColumnElement[Any]]:
    """Return the order of reading: newest first, or towards newer ones."""
    key = (columns.created_at, columns.event_id)
    return [each.asc() if is_towards_newer else each.desc() for each in key]


def start_of(day: date) -> datetime:
    """Return the first moment of a day, in UTC."""
    return datetime.combine(day, time(), UTC)


def end_of(day: date) -> datetime:
    """Return the first moment after a day, in UTC; the last moment there is for the last day there is."""
    return start_of(day + timedelta(days=1)) if day < date.max else datetime.max.replace(tzinfo=UTC)


def first_moment(given: datetime | date | None) -> datetime | None:
    """Return the first moment that counts, from a day or a moment on."""
    return start_of(given) if given is not None and not isinstance(given, datetime) else given


def moment_after(given: datetime | date | None) -> datetime | None:
    """Return the first moment that no longer counts; PostgreSQL keeps time to the microsecond."""
    if given is None:
        return None
    if not isinstance(given, datetime):
        return end_of(given)
    step = timedelta(microseconds=1)
    return given + step if given < datetime.max.replace(tzinfo=given.tzinfo) - step else given


def _conditions(filters: Filters, columns: Columns) -> Iterator[tuple[str, ColumnElement[bool]]]:
    """Yield what an index could answer, the index that leaves fewest rows first."""
    if filters.for_person is not None:
        yield "for_person", columns.user_id == filters.for_person
    if filters.person is not None:
        yield "person", or_(*_whose(filters.person, filters.address or filters.person, columns))
    if filters.ip is not None:
        yield "ip", columns.ip_address == filters.ip
    if filters.names:
        yield "event", columns.event_type.in_(filters.names)
    if filters.outcome is not None:
        yield "outcome", columns.success if filters.outcome == "success" else ~columns.success


def is_about(person: str, columns: Columns) -> ColumnElement[bool]:
    """Return what makes an event the person's, for a statement that looks up the account's own address itself."""
    own = select(people.c.email).where(people.c.id == person).scalar_subquery()
    return or_(*_whose(person, func.coalesce(own, person), columns))


def was_read(owner: str, columns: Columns) -> ColumnElement[bool]:
    """Return what makes an event one of staff reading this person's conversation; it has an index of its own."""
    is_reading = columns.event_type == events.CONVERSATION_READ_BY_STAFF.name
    return and_(is_reading, columns.event_metadata["owner_id"].astext == owner)


def _whose(person: str, address: Any, columns: Columns) -> tuple[ColumnElement[bool], ...]:
    """Return what makes an event the person's; none has two of it, so that none is found twice."""
    if "@" in person:
        return (func.lower(columns.user_email) == func.lower(person),)
    nobodys = func.lower(func.coalesce(columns.actor_ref, columns.user_email))
    return (columns.user_id == person, and_(columns.user_id.is_(None), nobodys == func.lower(address)))


def _says(words: str, columns: Columns) -> ColumnElement[bool]:
    """Return whether an event says these words: in what it is called, whom it names, and what went wrong."""
    searched = (columns.event_type, columns.user_email, columns.event_description, columns.error_message)
    found = [each.icontains(words, autoescape=True) for each in searched]
    name = select(people.c.full_name).where(people.c.id == columns.user_id).scalar_subquery()
    found.append(name.icontains(words, autoescape=True))
    if ids.is_uuid(words):
        found = [each == words for each in (columns.event_id, columns.request_id, columns.subject_id)]
        found.append(columns.session_id == words)
    return or_(*found)
