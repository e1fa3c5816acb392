"""The log by the hour: how many events of each kind happened, counted once when an hour is over.

An hour is closed when every event that came on time must be there. An event comes on time when it is stored within
ten minutes of happening; one that is replayed or brought along later has an index of its own, and its hour is counted
again. Counting again replaces, so it may happen any number of times, and everything here can be made anew.

A transaction that is still open may hold events nobody else sees yet. So a mark is made: the time, and the number of
the marking transaction. Once every transaction of a lower number has ended, everything stored until the mark is there
to be seen, or never will be: the record is settled until then. (The end of a snapshot would not do: it is the number
after the last transaction that ended, and one that is still open may have that.)
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, func, select, text, update

from capecontrol import clock
from capecontrol.audit.models import AuditHour, AuditHoursProgress, AuditLog
from capecontrol.extensions import db

HOUR = timedelta(hours=1)
ON_TIME = timedelta(minutes=10)
"""As in the condition of ix_audit_logs_late: what is stored later than this after it happened came late."""

SLACK = timedelta(minutes=1)
"""A row's time of storing is read just before its transaction has a number; far more than that moment."""

LATE_ROWS_AT_ONCE = 5_000
_LAST_ID = 2**63 - 1
_BEFORE_ALL = datetime(1, 1, 2, tzinfo=UTC)
_LOCK = 0x686F757273  # "hours" in hexadecimal

_COUNT = text(
    "INSERT INTO audit_hours (hour, event_type, category, success, count) "
    "SELECT CAST(:hour AS timestamptz), event_type, event_category, success, count(*) FROM audit_logs "
    "WHERE created_at >= :hour AND created_at < CAST(:hour AS timestamptz) + interval '1 hour' "
    "GROUP BY event_type, event_category, success"
)
_LATE = text(
    "SELECT id, created_at, recorded_at FROM audit_logs WHERE recorded_at - created_at > interval '10 minutes' "
    "AND (recorded_at, id) > (:since, :since_id) AND recorded_at <= :until ORDER BY recorded_at, id LIMIT :most"
)
_HORIZON = text(
    "SELECT clock_timestamp() AS at, pg_current_xact_id()::text AS own, "
    "pg_snapshot_xmin(pg_current_snapshot())::text AS oldest"
)


def count_hours(*, seconds: float = 45.0) -> int:
    """Close the hours that are over and count again those that something late belongs to; return how many.

    Stops after about `seconds` and goes on the next time; each hour is a transaction of its own. Returns 0 at once
    while somebody else is at it.
    """
    ends_at = clock.monotonic() + seconds
    counted = 0
    settled = _settle()
    while settled is not None and clock.monotonic() < ends_at:
        if not _close_next(settled):
            break
        counted += 1
    while settled is not None and clock.monotonic() < ends_at:
        again = _count_late(settled)
        if again is None:
            break
        counted += again
    return counted


def recount() -> None:
    """Forget every count, so that the next rounds make all of them anew."""
    _lock()
    db.session.execute(delete(AuditHour))
    db.session.execute(delete(AuditHoursProgress))
    db.session.commit()


def _settle() -> datetime | None:
    """Return until when the record is settled, and make a new mark when the last one is passed.

    None while somebody else counts.
    """
    if not db.session.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
        db.session.rollback()
        return None
    horizon = db.session.execute(_HORIZON).one()
    progress = db.session.scalar(select(AuditHoursProgress))
    if progress is None:
        progress = _begin(horizon.at, horizon.own)
    elif int(progress.mark_xid) <= int(horizon.oldest):
        progress.settled_until = progress.mark_at - SLACK
        progress.mark_at, progress.mark_xid = horizon.at, horizon.own
    elif int(progress.mark_xid) > int(horizon.own):  # of another server: the database was brought here
        progress.mark_at, progress.mark_xid = horizon.at, horizon.own
    settled: datetime = progress.settled_until
    db.session.commit()
    return settled


def _begin(at: datetime, own_xid: str) -> AuditHoursProgress:
    """Begin with the hour of the first event; nothing is settled yet."""
    first = db.session.scalar(select(func.min(AuditLog.created_at)))
    progress = AuditHoursProgress(
        id=1,
        closed_before=_hour_of(min(first or at, at)),
        late_until=_BEFORE_ALL,
        late_id=0,
        settled_until=_BEFORE_ALL,
        mark_at=at,
        mark_xid=own_xid,
    )
    db.session.add(progress)
    return progress


def _close_next(settled: datetime) -> bool:
    """Count the next hour that holds anything and can be closed; say whether there was one."""
    _lock()
    hour = db.session.scalar(select(AuditHoursProgress.closed_before))
    if hour is None or hour + HOUR + ON_TIME > settled:
        db.session.rollback()
        return False
    following = db.session.scalar(select(func.min(AuditLog.created_at)).where(AuditLog.created_at >= hour))
    last = _hour_of(settled - ON_TIME) - HOUR  # the last one that can be closed
    hour = min(_hour_of(following), last) if following is not None else last
    _count(hour)
    db.session.execute(update(AuditHoursProgress).values(closed_before=hour + HOUR))
    db.session.commit()
    return True


def _count_late(settled: datetime) -> int | None:
    """Count the hours again that something late belongs to; None when nothing is left of it."""
    progress = db.session.scalar(select(AuditHoursProgress).execution_options(populate_existing=True))
    if progress is None or (progress.late_until >= settled and progress.late_id == _LAST_ID):
        db.session.rollback()
        return None
    given = {"since": progress.late_until, "since_id": progress.late_id, "until": settled, "most": LATE_ROWS_AT_ONCE}
    rows = db.session.execute(_LATE, given).all()
    db.session.commit()
    again = sorted({hour for row in rows if (hour := _hour_of(row.created_at)) < progress.closed_before})
    for hour in again:
        _lock()
        _count(hour)
        db.session.commit()
    is_all = len(rows) < LATE_ROWS_AT_ONCE
    _lock()
    reached = {"late_until": settled, "late_id": _LAST_ID} if is_all else _reached(rows[-1])
    db.session.execute(update(AuditHoursProgress).values(reached))
    db.session.commit()
    return len(again)


def _reached(row: Row[Any]) -> dict[str, Any]:
    return {"late_until": row.recorded_at, "late_id": row.id}


def _count(hour: datetime) -> None:
    # A crash may take the last counts with it, and with them the progress of the same transaction.
    db.session.execute(text("SET LOCAL synchronous_commit = off"))
    db.session.execute(delete(AuditHour).where(AuditHour.hour == hour))
    db.session.execute(_COUNT, {"hour": hour})


def _lock() -> None:
    db.session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
