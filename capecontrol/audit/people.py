"""One person in the record: who they are, what is recorded about them, and of what kinds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import func, select

from capecontrol import clock
from capecontrol.audit import filtering, queries
from capecontrol.audit.event_details import EventDetail, people
from capecontrol.audit.filtering import Filters
from capecontrol.errors import NotFound
from capecontrol.extensions import db
from capecontrol.web.text_rules import one_line

MOST_EVENTS = 1000
LOOKED_THROUGH = 5_000
"""How many of somebody's newest events are looked at for their categories."""
LONGEST_REFERENCE = 320

_NOBODY = "The record knows nobody of that id or address."


@dataclass(frozen=True, slots=True)
class Portrait:
    """Who somebody is: an account, one that is gone, or only an address that was given when signing in or registering
    failed. Of an account that is gone `email` is what its newest event says."""

    reference: str
    user_id: str | None
    email: str | None
    name: str | None
    role: str | None
    is_open: bool
    since: datetime | None
    last_sign_in_at: datetime | None


@dataclass(frozen=True, slots=True)
class Activity:
    """What one person did in some days. `total` is counted up to queries.MOST_COUNTED, and one more stands for more;
    `refused` and `by_category` are of the newest LOOKED_THROUGH."""

    person: Portrait
    days: int
    total: int
    refused: int
    by_category: dict[str, int]


def get_portrait(reference: str) -> Portrait:
    """Return who is meant by an account's id or an address. Raises NotFound when the record knows nobody of that."""
    try:
        reference = one_line(reference, label="This", limit=LONGEST_REFERENCE)
    except ValueError:
        raise NotFound(_NOBODY) from None
    is_address = "@" in reference
    known = people.c.email_key == func.lower(reference) if is_address else people.c.id == reference
    row = db.session.execute(select(people).where(known)).one_or_none()
    if row is None and is_address:  # the key has its own rules; the address may be written as it was stored
        row = db.session.execute(select(people).where(people.c.email == reference)).first()
    if row is not None:
        return Portrait(
            reference=row.id,
            user_id=row.id,
            email=row.email,
            name=row.full_name,
            role=row.user_role,
            is_open=row.is_active,
            since=row.created_at,
            last_sign_in_at=row.last_login_at,
        )
    newest = queries.search(Filters(person=reference), limit=1).events
    if not newest:
        raise NotFound(_NOBODY)
    email = reference if is_address else newest[0].user_email
    return Portrait(reference, None, email, None, None, False, None, None)


def everything_about(person: Portrait, *, for_person: str | None = None) -> Filters:
    """Return what finds everything recorded about somebody; for themselves only what belongs to their account, since
    nobody has proven that an address is theirs."""
    return Filters(for_person=for_person) if for_person is not None else Filters(person=person.reference)


def list_activity(
    person: Portrait, *, days: int, categories: Sequence[str] = (), for_person: str | None = None
) -> tuple[EventDetail, ...]:
    """Return what somebody did in the last days, newest first, up to MOST_EVENTS."""
    wanted = replace(
        everything_about(person, for_person=for_person),
        category=tuple(categories) or None,
        after=clock.now() - timedelta(days=days),
    )
    return queries.search(wanted, limit=MOST_EVENTS).events


def summarize(
    person: Portrait, *, days: int, categories: Sequence[str] = (), for_person: str | None = None
) -> Activity:
    """Count what somebody did in the last days, in these categories or in all."""
    wanted = replace(everything_about(person, for_person=for_person), after=clock.now() - timedelta(days=days))
    newest = filtering.plan(wanted).rows(None, LOOKED_THROUGH).subquery()
    rows = db.session.execute(
        select(newest.c.event_category, newest.c.success, func.count().label("often")).group_by(
            newest.c.event_category, newest.c.success
        )
    ).all()
    rows = [row for row in rows if not categories or row.event_category in categories]
    by_category: Counter[str] = Counter()
    for row in rows:
        by_category[row.event_category] += row.often
    return Activity(
        person=person,
        days=days,
        total=sum(row.often for row in rows) if categories else queries.count_up_to(wanted) or 0,
        refused=sum(row.often for row in rows if not row.success),
        by_category=dict(by_category.most_common()),
    )
