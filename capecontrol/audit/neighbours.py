"""What stands round one event: in the same request, in the same session, of the same person, and in the log itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, select

from capecontrol.audit import sentences
from capecontrol.audit.event_details import EventDetail, detail_of, with_names
from capecontrol.audit.filtering import Filters, Plan, order, plan
from capecontrol.extensions import db
from capecontrol.web.pagination import Position

FEW = 3
MOST_OF_REQUEST = 10
LOOKED_THROUGH = 1_000
"""How many events on either side are looked through for those of the same request or session."""

REQUEST_LASTS = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Events round one event, newest first; it is in none of them, and each stands only where it belongs most."""

    newer: EventDetail | None
    older: EventDetail | None
    same_request: tuple[EventDetail, ...]
    same_session: tuple[EventDetail, ...]
    same_person: tuple[EventDetail, ...]


def around(event: EventDetail) -> Neighbours:
    """Return what stands round an event."""
    seen = {event.event_id}

    def unseen(found: Sequence[EventDetail]) -> tuple[EventDetail, ...]:
        fresh = tuple(each for each in found if each.event_id not in seen)
        seen.update(each.event_id for each in fresh)
        return fresh

    return Neighbours(
        newer=_beside(event, is_towards_newer=True),
        older=_beside(event, is_towards_newer=False),
        same_request=unseen(_of_request(event)),
        same_session=unseen(_of_session(event)),
        same_person=unseen(_of_person(event)),
    )


def _beside(event: EventDetail, *, is_towards_newer: bool) -> EventDetail | None:
    rows = _near(plan(Filters()), event, 1, {}, is_towards_newer=is_towards_newer)
    return detail_of(rows[0], sentences.tell) if rows else None


def _of_request(event: EventDetail) -> list[EventDetail]:
    """Return the others of the request. No index knows requests, but one is short and comes from one address."""
    if event.request_id is None:
        return []
    closely = Filters(
        ip=event.ip_address,
        after=event.created_at - REQUEST_LASTS,
        before=event.created_at + REQUEST_LASTS,
    )
    return _round(plan(closely), event, MOST_OF_REQUEST, {"request_id": event.request_id})


def _of_session(event: EventDetail) -> list[EventDetail]:
    if event.session_id is None or event.person_ref is None:
        return []
    return _round(plan(Filters(person=event.person_ref)), event, FEW, {"session_id": event.session_id})


def _of_person(event: EventDetail) -> list[EventDetail]:
    if event.person_ref is None:
        return []
    return _round(plan(Filters(person=event.person_ref)), event, 2 * FEW, {})


def _round(wanted: Plan, event: EventDetail, few: int, same: Mapping[str, str]) -> list[EventDetail]:
    """Return up to `few` events on either side that have the `same` in these columns, newest first."""
    newer = _near(wanted, event, few, same, is_towards_newer=True)
    older = _near(wanted, event, few, same, is_towards_newer=False)
    return [detail_of(row, sentences.tell) for row in (*newer[::-1], *older)]


def _near(
    wanted: Plan, event: EventDetail, few: int, same: Mapping[str, str], *, is_towards_newer: bool
) -> Sequence[Row[Any]]:
    position = Position(event.created_at, event.event_id)
    found = wanted.rows(position, LOOKED_THROUGH if same else few, is_towards_newer=is_towards_newer)
    if same:
        window = found.subquery()
        alike = [window.c[column] == value for column, value in same.items()]
        found = select(window).where(*alike).order_by(*order(window.c, is_towards_newer)).limit(few)
    named = with_names(found)
    return db.session.execute(named.order_by(*order(named.selected_columns, is_towards_newer))).all()
