"""What an administrator should look at: warnings about security, and failed sign-ins by address and by person."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select

from capecontrol import clock
from capecontrol.audit import events, filtering, queries
from capecontrol.audit.event_details import EventDetail
from capecontrol.audit.filtering import Filters
from capecontrol.audit.queries import Page
from capecontrol.audit.statistics import HIGH_RISK
from capecontrol.extensions import db
from capecontrol.web.pagination import Position

GROUPED = 5_000
"""How many of the newest attempts are grouped; an attack may make millions."""

LISTED = 20
MOST_ATTEMPTS = 1000

SIGN_IN_FAILED = events.USER_LOGIN_FAILED.name

# What an inherited log calls the same; our own are found by category and level.
_INHERITED = (
    "brute_force_attempt",
    "content_blocked",
    "ddos_attempt",
    "malicious_request",
    "permission_escalation",
    "suspicious_activity",
    "unauthorized_access",
    "user_impersonation",
)
_CATEGORIES = ("security", "authorization", "admin")
_SERIOUS = ("error", "critical")


@dataclass(frozen=True, slots=True)
class Attempts:
    """Failed sign-ins of one address or to one account; `others` counts the accounts or the addresses in them."""

    name: str
    count: int
    others: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class FailedSignIns:
    """Failed sign-ins of some hours, the newest GROUPED of them grouped. `total` is counted up to
    queries.MOST_COUNTED, and one more stands for more."""

    hours: int
    total: int
    by_address: tuple[Attempts, ...]
    by_person: tuple[Attempts, ...]


def event_types() -> tuple[str, ...]:
    """Return the names of what is worth a look: warnings about security and rights, and failed sign-ins."""
    ours = [
        event.name for event in events.all_events().values() if event.level != "info" and event.category in _CATEGORIES
    ]
    return tuple(sorted({*ours, *_INHERITED, SIGN_IN_FAILED}))


def list_events(
    *, hours: int, level: str | None = None, position: Position | None = None, limit: int = queries.PAGE
) -> Page:
    """Return what is worth a look in the last hours, newest first."""
    after = clock.now() - timedelta(hours=hours)
    return queries.search(Filters(event=event_types(), level=level, after=after), position=position, limit=limit)


def needs_investigation(event: EventDetail) -> bool:
    """Say whether somebody should look into an event and not only see it."""
    return event.level in _SERIOUS or (event.risk_score or 0) >= HIGH_RISK or event.event_type in _INHERITED


def threat_indicators(event: EventDetail) -> list[str]:
    """Return what an inherited event says made it suspicious."""
    found = event.event_metadata.get("threat_indicators")
    return [str(each) for each in found] if isinstance(found, list) else []


def list_failed_sign_ins(*, hours: int, ip: str | None = None, limit: int = MOST_ATTEMPTS) -> tuple[Page, int]:
    """Return the newest failed sign-ins and how many there are; see queries.count_up_to."""
    wanted = Filters(event=SIGN_IN_FAILED, ip=ip, after=clock.now() - timedelta(hours=hours))
    page = queries.search(wanted, limit=limit)
    total = queries.count_up_to(wanted)
    if total is None:  # of one address: counted among its events
        total = _count_within(wanted)
    return page, total


def group_failed_sign_ins(*, hours: int) -> FailedSignIns:
    """Return the failed sign-ins of the last hours by address and by person, the most often first."""
    wanted = Filters(event=SIGN_IN_FAILED, after=clock.now() - timedelta(hours=hours))
    newest = filtering.plan(wanted).rows(None, GROUPED).subquery()
    person = func.lower(newest.c.user_email)
    address = newest.c.ip_address

    def grouped(by: Any, other: Any) -> tuple[Attempts, ...]:
        often = func.count().label("often")
        rows = db.session.execute(
            select(
                by.label("name"),
                often,
                func.count(other.distinct()).label("others"),
                func.min(newest.c.created_at).label("first_at"),
                func.max(newest.c.created_at).label("last_at"),
            )
            .where(by.is_not(None))
            .group_by(by)
            .order_by(often.desc(), by)
            .limit(LISTED)
        )
        return tuple(Attempts(row.name, row.often, row.others, row.first_at, row.last_at) for row in rows)

    return FailedSignIns(
        hours=hours,
        total=queries.count_up_to(wanted) or 0,
        by_address=grouped(address, person),
        by_person=grouped(person, address),
    )


def _count_within(wanted: Filters) -> int:
    plan = filtering.plan(wanted)
    window = plan.rows(None, plan.window).subquery()
    return db.session.scalar(select(func.count()).select_from(window).where(*plan.rest(window.c))) or 0
