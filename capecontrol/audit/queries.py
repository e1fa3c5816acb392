"""Reading the record: pages of events found by keyset and by index, and single events with all that is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row, Select, func, select, text

from capecontrol import ids
from capecontrol.audit import events, filtering, sentences
from capecontrol.audit.event_details import EventDetail, Tell, detail_of, log, with_names
from capecontrol.audit.filtering import Filters, Plan
from capecontrol.audit.sentences import Happening
from capecontrol.errors import NotFound
from capecontrol.extensions import db
from capecontrol.web.pagination import Position

PAGE = 50
MOST_COUNTED = 10_000
"""How far events are counted; beyond it there are "more than 10,000", which a person needs no more exactly."""

# What an event says of whoever acted, when somebody else reads it.
_NOBODY: dict[str, Any] = dict.fromkeys(
    (
        "person",
        "user_id",
        "actor_ref",
        "user_email",
        "user_role",
        "ip_address",
        "user_agent",
        "session_id",
        "request_id",
    )
)


@dataclass(frozen=True, slots=True)
class Page:
    """Events, newest first, and where the pages on either side begin; None where there is nothing further.

    `looked_back_to` is set when the search ended before the log did: it has looked through `looked_through` events,
    and further back nobody has looked yet.
    """

    events: tuple[EventDetail, ...]
    older: Position | None
    newer: Position | None
    looked_back_to: Position | None = None
    looked_through: int = 0


def search(filters: Filters, *, position: Position | None = None, limit: int = PAGE) -> Page:
    """Return the newest events, or those just older than `position`."""
    return _page(filters, position, limit, is_towards_newer=False, tell=sentences.tell)


def search_newer(filters: Filters, *, position: Position, limit: int = PAGE) -> Page:
    """Return the events just newer than `position`; they too are ordered newest first."""
    return _page(filters, position, limit, is_towards_newer=True, tell=sentences.tell)


def list_own(person_id: str, *, position: Position | None = None, limit: int = PAGE) -> Page:
    """Return what is recorded about one person, and what staff read of theirs, told to that person."""
    filters = Filters(for_person=person_id, with_readings=True)
    page = _page(filters, position, limit, is_towards_newer=False, tell=sentences.tell_oneself)
    return replace(page, events=tuple(_without_others(event, person_id) for event in page.events))


def get_event(reference: str, *, for_person: str | None = None) -> EventDetail:
    """Return one event by its event id or its number. Raises NotFound, also for an event of somebody else's record
    when `for_person` is given."""
    if ids.is_uuid(reference):
        found = log.c.event_id == reference
    elif reference.isascii() and reference.isdigit() and len(reference) <= 18:  # what a bigint surely holds
        found = log.c.id == int(reference)
    else:
        raise NotFound("There is no such event.")
    if for_person is not None:
        found &= log.c.user_id == for_person
    row = db.session.execute(with_names(select(log).where(found))).one_or_none()
    if row is None:
        raise NotFound("There is no such event.")
    return detail_of(row, sentences.tell)


def list_event_types() -> list[str]:
    """Return every event name there is to look for: our closed list, and what an inherited database brought."""
    # A jump from name to name along the index: as many steps as there are names, however long the log is.
    stored = text(
        "WITH RECURSIVE names(name) AS (SELECT min(event_type) FROM audit_logs UNION ALL "
        "SELECT (SELECT min(event_type) FROM audit_logs WHERE event_type > name) FROM names WHERE name IS NOT NULL) "
        "SELECT name FROM names WHERE name IS NOT NULL"
    )
    return sorted({*events.all_events(), *db.session.scalars(stored)})


def count_up_to(filters: Filters, most: int = MOST_COUNTED) -> int | None:
    """Return how many events there are, or `most` + 1 for more; None when only looking at each of them would tell."""
    plan = filtering.plan(filters)
    if not plan.is_exact:
        return None
    counted = [select(log.c.created_at).where(*one, *plan.span).limit(most + 1).subquery() for one in plan.ranges]
    each = [select(func.count()).select_from(one).scalar_subquery() for one in counted]
    total: int = db.session.scalar(select(sum(each[1:], each[0]))) or 0
    return min(total, most + 1)


def _page(filters: Filters, position: Position | None, limit: int, *, is_towards_newer: bool, tell: Tell) -> Page:
    plan = filtering.plan(filters)
    rows, scanned_to = _find(plan, position, limit, is_towards_newer)
    has_more = len(rows) > limit
    rows = rows[:limit]
    onward = _position(rows[-1]) if has_more else scanned_to
    back = _position(rows[0]) if rows and position is not None else None
    if is_towards_newer:
        rows = rows[::-1]
    return Page(
        tuple(detail_of(row, tell) for row in rows),
        older=back if is_towards_newer else onward,
        newer=onward if is_towards_newer else back,
        looked_back_to=None if is_towards_newer else scanned_to,
        looked_through=plan.window,
    )


def _without_others(event: EventDetail, person_id: str) -> EventDetail:
    """Return an event as somebody may see it: what staff did to them is told without who it was, and from where."""
    if event.user_id == person_id:
        return event
    told = sentences.tell_concerned(Happening(event.event_type, event.success, who=None))
    return replace(event, sentence=told, **_NOBODY)


def _find(
    plan: Plan, position: Position | None, limit: int, is_towards_newer: bool
) -> tuple[Sequence[Row[Any]], Position | None]:
    """Return up to one row more than `limit`, and where to go on when the window ended before the log did."""
    if plan.is_exact:
        return _rows(plan.rows(position, limit + 1, is_towards_newer=is_towards_newer), is_towards_newer), None
    window = plan.rows(position, plan.window, is_towards_newer=is_towards_newer).subquery()
    order = filtering.order(window.c, is_towards_newer)
    rows = _rows(select(window).where(*plan.rest(window.c)).order_by(*order).limit(limit + 1), is_towards_newer)
    if len(rows) > limit:
        return rows, None
    return rows, _end_of_window(plan, position, is_towards_newer)


def _end_of_window(plan: Plan, position: Position | None, is_towards_newer: bool) -> Position | None:
    window = plan.rows(position, plan.window, is_towards_newer=is_towards_newer).subquery()
    order = filtering.order(window.c, is_towards_newer)
    last = select(window.c.created_at, window.c.event_id).order_by(*order).offset(plan.window - 1).limit(1)
    end = db.session.execute(last).one_or_none()
    return Position(end.created_at, end.event_id) if end else None


def _rows(found: Select[tuple[Any, ...]], is_towards_newer: bool) -> Sequence[Row[Any]]:
    named = with_names(found)
    return db.session.execute(named.order_by(*filtering.order(named.selected_columns, is_towards_newer))).all()


def _position(row: Row[Any]) -> Position:
    return Position(row.created_at, row.event_id)
