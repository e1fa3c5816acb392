"""The log in numbers: how much happened in a span of days, of what kind, and who was refused most."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import DateTime, Interval, bindparam, func, select, text

from capecontrol import clock
from capecontrol.audit.event_details import log
from capecontrol.audit.filtering import start_of
from capecontrol.audit.queries import MOST_COUNTED
from capecontrol.extensions import db

HIGH_RISK = 70
LOOKED_THROUGH = 5_000
"""How many of the newest events are looked through for who is most in them; the hours know kinds, not people."""

LISTED = 10

# One statement and so one moment: between two, the running hour could be closed and then be counted twice or not.
_COUNTS = text(
    "WITH counted AS (SELECT coalesce((SELECT closed_before FROM audit_hours_progress), '-infinity') AS until), "
    "each AS ("
    "SELECT hour, event_type, category, success, count FROM audit_hours "
    "WHERE hour >= :since AND hour < (SELECT until FROM counted) "
    "UNION ALL SELECT date_trunc('hour', created_at, 'UTC'), event_type, event_category, success, count(*)::int "
    "FROM audit_logs WHERE created_at >= greatest(:since, (SELECT until FROM counted)) AND created_at < :until "
    "GROUP BY 1, 2, 3, 4) "
    "SELECT date_bin(:step, hour, :since) AS at, category, event_type, "
    "coalesce(sum(count) FILTER (WHERE success), 0)::bigint AS done, "
    "coalesce(sum(count) FILTER (WHERE NOT success), 0)::bigint AS refused "
    "FROM each WHERE hour < :until GROUP BY GROUPING SETS ((1), (2), (3))"
).bindparams(bindparam("step", type_=Interval), bindparam("since", type_=DateTime(timezone=True)))


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something happened: `name` says what, `at` when; one of the two is set."""

    done: int
    refused: int
    name: str = ""
    at: datetime | None = None

    @property
    def total(self) -> int:
        """Both together."""
        return self.done + self.refused


@dataclass(frozen=True, slots=True)
class Ranked:
    """A person or an address, and how many of the events looked through are theirs."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A span of time in numbers; `step` is what one column of `by_time` stands for.

    `people` and `addresses` are counted among the newest events of the span: `people_among` and `addresses_among` say
    how many those are. `high_risk` is counted up to MOST_COUNTED, and one more stands for more.
    """

    days: int
    step: timedelta
    since: datetime
    by_time: tuple[Tally, ...]
    by_category: tuple[Tally, ...]
    by_event: tuple[Tally, ...]
    people: tuple[Ranked, ...]
    people_among: int
    addresses: tuple[Ranked, ...]
    addresses_among: int
    high_risk: int

    @property
    def done(self) -> int:
        """How much went well."""
        return sum(tally.done for tally in self.by_time)

    @property
    def refused(self) -> int:
        """How much was refused or failed."""
        return sum(tally.refused for tally in self.by_time)

    @property
    def total(self) -> int:
        """How much happened."""
        return self.done + self.refused

    @property
    def success_rate(self) -> float:
        """Return the share that went well, of 100; 100 where nothing happened."""
        return round(100 * self.done / self.total, 2) if self.total else 100.0


def over_days(days: int) -> Statistics:
    """Return the last days in UTC, today as far as it has come; for one day, the last 24 hours by the hour."""
    now = clock.now()
    if days == 1:
        step, columns = timedelta(hours=1), 24
        since = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=23)
    else:
        step, columns = timedelta(days=1), days
        since = start_of(now.date()) - timedelta(days=days - 1)
    rows = db.session.execute(_COUNTS, {"since": since, "until": since + columns * step, "step": step}).all()
    moments = {row.at: row for row in rows if row.at is not None}
    people, people_among = _most("user_email", since, is_refused_only=False)
    addresses, addresses_among = _most("ip_address", since, is_refused_only=True)
    return Statistics(
        days=days,
        step=step,
        since=since,
        by_time=tuple(
            Tally(moments[at].done, moments[at].refused, at=at) if at in moments else Tally(0, 0, at=at)
            for at in (since + number * step for number in range(columns))
        ),
        by_category=_ranked([Tally(row.done, row.refused, row.category) for row in rows if row.category is not None]),
        by_event=_ranked([Tally(row.done, row.refused, row.event_type) for row in rows if row.event_type is not None]),
        people=people,
        people_among=people_among,
        addresses=addresses,
        addresses_among=addresses_among,
        high_risk=_count_high_risk(since),
    )


def _ranked(tallies: list[Tally]) -> tuple[Tally, ...]:
    return tuple(sorted(tallies, key=lambda tally: (-tally.total, tally.name)))


def _most(column: str, since: datetime, *, is_refused_only: bool) -> tuple[tuple[Ranked, ...], int]:
    """Return who is most often in the newest events, and in how many of them anybody was looked for."""
    newest = select(log.c[column].label("name")).where(log.c.created_at >= since)
    if is_refused_only:
        newest = newest.where(~log.c.success)
    looked_at = newest.order_by(log.c.created_at.desc(), log.c.event_id.desc()).limit(LOOKED_THROUGH).cte("looked_at")
    often = func.count().label("often")
    named = select(looked_at.c.name, often).group_by(looked_at.c.name)
    rows: Sequence = db.session.execute(named).all()
    most = sorted((row for row in rows if row.name), key=lambda row: (-row.often, row.name))[:LISTED]
    return tuple(Ranked(row.name, row.often) for row in most), sum(row.often for row in rows)


def _count_high_risk(since: datetime) -> int:
    some = select(log.c.id).where(log.c.risk_score >= text(str(HIGH_RISK)), log.c.created_at >= since)
    return db.session.scalar(select(func.count()).select_from(some.limit(MOST_COUNTED + 1).subquery())) or 0
