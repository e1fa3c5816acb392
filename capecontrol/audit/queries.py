"""Reading the record: pages of events found by keyset and by index, and single events with all that is known."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

from sqlalchemy import (
    ColumnCollection,
    ColumnElement,
    Row,
    Select,
    column,
    func,
    literal,
    or_,
    select,
    table,
    text,
    tuple_,
    union_all,
)

from capecontrol import ids
from capecontrol.audit import events, sentences
from capecontrol.audit.models import AuditLog
from capecontrol.audit.sentences import Happening
from capecontrol.errors import NotFound
from capecontrol.extensions import db
from capecontrol.web.pagination import Position

Columns = ColumnCollection[str, Any]
Tell = Callable[[Happening], str]

PAGE = 50
WINDOW = 20_000
"""How many events one search looks through for what no index knows (text, category, risk), so that it ends."""

# The inherited vocabulary has three pairs of names for one thing; either finds both.
_SYNONYMS = {
    "user_register": "user_registration",
    "login_failed": "user_login_failed",
    "system_config_change": "configuration_changed",
}
_SYNONYMS |= {name: synonym for synonym, name in _SYNONYMS.items()}

_log = AuditLog.__table__
_key = tuple_(_log.c.created_at, _log.c.event_id)
# The people's names are all that is read of them here; their feature is above this one.
_people = table("users_v2", column("id"), column("full_name"))


@dataclass(frozen=True, slots=True)
class Filters:
    """What to look for; everything is optional and all of it must hold.

    `person` is an address in any case, or an account's id. `after` is the first moment that counts, `before` the
    first that does not. `for_person` is the one whose own record it is, whoever else is asked for.
    """

    event: str | None = None
    category: str | None = None
    outcome: Literal["success", "refused"] | None = None
    person: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    min_risk_score: int | None = None
    q: str | None = None
    for_person: str | None = None


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event as a list shows it. `person` is the label to show, an address; `level` is the event's own."""

    event_id: str
    created_at: datetime
    event_type: str
    sentence: str
    success: bool
    person: str | None
    ip_address: str | None
    level: str

    @property
    def url(self) -> str:
        """Where administrators read all of it, without the host."""
        return f"/audit/{self.event_id}"


@dataclass(frozen=True, slots=True)
class EventDetail(EventLine):
    """An event with all that is known about it."""

    id: int
    recorded_at: datetime
    event_category: str
    event_description: str | None
    user_id: str | None
    user_email: str | None
    user_role: str | None
    subject_id: str | None
    session_id: str | None
    user_agent: str | None
    endpoint: str | None
    http_method: str | None
    request_id: str | None
    status_code: int | None
    response_time_ms: int | None
    error_message: str | None
    event_metadata: dict[str, Any]
    risk_score: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """Events, newest first, and where the pages on either side begin; None where there is nothing further."""

    events: tuple[EventDetail, ...]
    older: Position | None
    newer: Position | None


def search(filters: Filters, *, position: Position | None = None, limit: int = PAGE) -> Page:
    """Return the newest events, or those just older than `position`."""
    return _page(filters, position, limit, is_towards_newer=False, tell=sentences.tell)


def search_newer(filters: Filters, *, position: Position, limit: int = PAGE) -> Page:
    """Return the events just newer than `position`; they too are ordered newest first."""
    return _page(filters, position, limit, is_towards_newer=True, tell=sentences.tell)


def list_own(person_id: str, *, position: Position | None = None, limit: int = PAGE) -> Page:
    """Return what is recorded about one person, told to that person."""
    filters = Filters(for_person=person_id)
    return _page(filters, position, limit, is_towards_newer=False, tell=sentences.tell_oneself)


def get_event(reference: str, *, for_person: str | None = None) -> EventDetail:
    """Return one event by its event id or its number. Raises NotFound, also for an event of somebody else's record
    when `for_person` is given."""
    if ids.is_uuid(reference):
        found = _log.c.event_id == reference
    elif reference.isascii() and reference.isdigit() and len(reference) <= 18:  # what a bigint surely holds
        found = _log.c.id == int(reference)
    else:
        raise NotFound("There is no such event.")
    if for_person is not None:
        found &= _log.c.user_id == for_person
    row = db.session.execute(_with_names(select(_log).where(found))).one_or_none()
    if row is None:
        raise NotFound("There is no such event.")
    return _detail(row, sentences.tell)


def list_event_types() -> list[str]:
    """Return every event name there is to look for: our closed list, and what an inherited database brought."""
    # A jump from name to name along the index: as many steps as there are names, however long the log is.
    stored = text(
        "WITH RECURSIVE names(name) AS (SELECT min(event_type) FROM audit_logs UNION ALL "
        "SELECT (SELECT min(event_type) FROM audit_logs WHERE event_type > name) FROM names WHERE name IS NOT NULL) "
        "SELECT name FROM names WHERE name IS NOT NULL"
    )
    return sorted({*events.all_events(), *db.session.scalars(stored)})


def start_of(day: date) -> datetime:
    """Return the first moment of a day, in UTC."""
    return datetime.combine(day, time(), UTC)


def end_of(day: date) -> datetime:
    """Return the first moment after a day, in UTC; the last moment there is for the last day there is."""
    return start_of(day + timedelta(days=1)) if day < date.max else datetime.max.replace(tzinfo=UTC)


def _page(filters: Filters, position: Position | None, limit: int, *, is_towards_newer: bool, tell: Tell) -> Page:
    rows, scanned_to = _find(filters, position, limit, is_towards_newer)
    has_more = len(rows) > limit
    rows = rows[:limit]
    onward = _position(rows[-1]) if has_more else scanned_to
    back = _position(rows[0]) if rows and position is not None else None
    if is_towards_newer:
        rows = rows[::-1]
    return Page(
        tuple(_detail(row, tell) for row in rows),
        older=back if is_towards_newer else onward,
        newer=onward if is_towards_newer else back,
    )


def _find(
    filters: Filters, position: Position | None, limit: int, is_towards_newer: bool
) -> tuple[Sequence[Row[Any]], Position | None]:
    """Return up to one row more than `limit`, and where to go on when the window ended before the log did."""
    if not any(True for _ in _unindexed(filters, _log.c)):
        return _rows(_candidates(filters, position, limit + 1, is_towards_newer), is_towards_newer), None
    window = _candidates(filters, position, WINDOW, is_towards_newer).subquery()
    order = _order(window.c, is_towards_newer)
    rows = _rows(
        select(window).where(*_unindexed(filters, window.c)).order_by(*order).limit(limit + 1), is_towards_newer
    )
    if len(rows) > limit:
        return rows, None
    end = db.session.execute(
        select(window.c.created_at, window.c.event_id).order_by(*order).offset(WINDOW - 1).limit(1)
    ).one_or_none()
    return rows, Position(end.created_at, end.event_id) if end else None


def _candidates(
    filters: Filters, position: Position | None, limit: int, is_towards_newer: bool
) -> Select[tuple[Any, ...]]:
    """Return the rows that the indexed filters leave, in order: each name of the event from its own index range."""
    conditions = list(_indexed(filters))
    if position is not None:
        mark = tuple_(literal(position.at, _log.c.created_at.type), literal(position.id, _log.c.event_id.type))
        conditions.append(_key > mark if is_towards_newer else _key < mark)
    by_name = [[_log.c.event_type == name] for name in _names(filters.event)] or [[]]
    branches = [
        select(_log).where(*conditions, *name).order_by(*_order(_log.c, is_towards_newer)).limit(limit)
        for name in by_name
    ]
    if len(branches) == 1:
        return branches[0]
    either = union_all(*branches).subquery()
    return select(either).order_by(*_order(either.c, is_towards_newer)).limit(limit)


def _indexed(filters: Filters) -> Iterator[ColumnElement[bool]]:
    if filters.for_person is not None:
        yield _log.c.user_id == filters.for_person
    if filters.person is not None and "@" in filters.person:
        yield func.lower(_log.c.user_email) == func.lower(filters.person)
    elif filters.person is not None:
        yield _log.c.user_id == filters.person
    if filters.outcome is not None:
        yield _log.c.success if filters.outcome == "success" else ~_log.c.success
    if filters.after is not None:
        yield _log.c.created_at >= filters.after
    if filters.before is not None:
        yield _log.c.created_at < filters.before


def _unindexed(filters: Filters, columns: Columns) -> Iterator[ColumnElement[bool]]:
    if filters.category is not None:
        yield columns.event_category == filters.category
    if filters.min_risk_score:
        yield columns.risk_score >= filters.min_risk_score
    if filters.q is not None:
        searched = (columns.event_description, columns.user_email, columns.event_type)
        yield or_(*(each.icontains(filters.q, autoescape=True) for each in searched))


def _names(event: str | None) -> list[str]:
    if event is None:
        return []
    return [event, _SYNONYMS[event]] if event in _SYNONYMS else [event]


def _order(columns: Columns, is_towards_newer: bool) -> list[ColumnElement[Any]]:
    key = (columns.created_at, columns.event_id)
    return [each.asc() if is_towards_newer else each.desc() for each in key]


def _rows(found: Select[tuple[Any, ...]], is_towards_newer: bool) -> Sequence[Row[Any]]:
    named = _with_names(found)
    return db.session.execute(named.order_by(*_order(named.selected_columns, is_towards_newer))).all()


def _with_names(found: Select[tuple[Any, ...]]) -> Select[tuple[Any, ...]]:
    inner = found.subquery()
    return select(inner, _people.c.full_name).outerjoin(_people, _people.c.id == inner.c.user_id)


def _position(row: Row[Any]) -> Position:
    return Position(row.created_at, row.event_id)


def _detail(row: Row[Any], tell: Tell) -> EventDetail:
    fields = row._asdict()
    name = fields.pop("full_name")
    actor = fields.pop("actor_ref")
    fields.pop("stored_xid")
    details = row.event_metadata if isinstance(row.event_metadata, dict) else {}
    is_unproven = actor is None and not row.success  # somebody gave this address; it names nobody
    happening = Happening(
        kind=row.event_type,
        success=row.success,
        who=row.user_email if is_unproven else name or row.user_email,
        has_actor=actor is not None,
        details=details,
    )
    level = fields.pop("event_level")
    fields["event_metadata"] = details
    return EventDetail(**fields, sentence=tell(happening), person=row.user_email or name, level=level)
