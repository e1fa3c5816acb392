"""Reading the record for alerts: each row once, in the order it was stored, never in a request.

Numbers are given out before their transactions commit, so a higher one can be seen before a lower one (P22 of the
audit design). A number therefore counts as settled only a minute after it was the highest: no transaction of ours
lives that long, since statements, locks and idle ones are limited to seconds. Above the settled number the rows that
were read are remembered one by one.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, tuple_

from capecontrol import clock
from capecontrol.audit import alert_rules, alerts
from capecontrol.audit.alert_rules import Row, Rule, Sign
from capecontrol.audit.models import AuditAlert, AuditAlertCursor, AuditLog
from capecontrol.extensions import db

SETTLES_AFTER = timedelta(seconds=60)
OLDEST = timedelta(days=2)
"""What happened longer ago is history and no news, however late it was stored: a replayed line is, an inherited
database is not."""

STEP = 100_000
"""How many rows are read in one transaction."""

# "alerts" in hexadecimal: one reader at a time.
_ADVISORY_LOCK = 0x616C65727473
_MOST_FAILED = 50_000
_MOST_PAST = 500
_COLUMNS = tuple(AuditLog.__table__.c[name] for name in Row.__dataclass_fields__)
_log = AuditLog.__table__.c


def raise_alerts() -> int:
    """Read what is new, open and count alerts, and order their mails; returns how many were opened.

    Each step is one transaction that one reader at a time can be in, so any number of workers may do this at once and
    a crash leaves nothing half done. Raises SQLAlchemyError.
    """
    opened = 0
    while True:
        count, is_all = _step()
        opened += count
        if is_all:
            return opened


def _step() -> tuple[int, bool]:
    """Read on, and return how many alerts were opened and whether nothing more can be read now."""
    if not db.session.scalar(select(func.pg_try_advisory_xact_lock(_ADVISORY_LOCK))):
        db.session.rollback()
        return 0, True  # somebody else is reading this moment
    now = clock.now()
    cursor = _cursor(now)
    highest = db.session.scalar(select(func.max(_log.id))) or 0
    safe = cursor.seen_id if now - cursor.seen_at >= SETTLES_AFTER else cursor.settled_id
    # Rows are counted and not their numbers, of which a purge, or what was rolled back, leaves any amount out.
    further = select(_log.id).where(_log.id > cursor.settled_id).order_by(_log.id).offset(STEP).limit(1)
    upper = db.session.scalar(further) or highest
    rows = _rows_between(cursor.settled_id, upper, without=cursor.done_ids, since=now - OLDEST)
    alerts.hush()
    opened = _evaluate(rows)
    alerts.order_mails(opened)
    before = cursor.settled_id
    cursor.settled_id = max(cursor.settled_id, min(upper, safe))
    done = [*cursor.done_ids, *(row.id for row in rows)]
    cursor.done_ids = sorted(number for number in done if number > cursor.settled_id)
    if cursor.settled_id >= cursor.seen_id and highest > cursor.seen_id:
        cursor.seen_id, cursor.seen_at = highest, now
    is_all = upper >= highest or cursor.settled_id == before
    db.session.commit()
    return len(opened), is_all


def _cursor(now: datetime) -> AuditAlertCursor:
    """Return the cursor; the first time it begins two days ago."""
    cursor = db.session.scalar(select(AuditAlertCursor).execution_options(populate_existing=True))
    if cursor is not None:
        return cursor
    begin = db.session.scalar(
        select(_log.id)
        .where(_log.created_at < now - OLDEST)
        .order_by(_log.created_at.desc(), _log.event_id.desc())
        .limit(1)
    )
    cursor = AuditAlertCursor(id=1, settled_id=begin or 0, seen_id=begin or 0, seen_at=now, done_ids=[])
    db.session.add(cursor)
    return cursor


def _rows_between(lower: int, upper: int, *, without: Sequence[int], since: datetime) -> list[Row]:
    found = db.session.execute(
        select(*_COLUMNS)
        .where(
            _log.id > lower,
            _log.id <= upper,
            _log.event_type.in_(alert_rules.READ_TYPES),
            _log.created_at > since,
        )
        .order_by(_log.created_at, _log.event_id)
    )
    known = set(without)
    return [Row(*each) for each in found if each.id not in known]


def _evaluate(rows: Sequence[Row]) -> list[AuditAlert]:
    """Count the rows towards open alerts, and open those whose threshold is reached."""
    groups: dict[tuple[str, str], list[Sign]] = defaultdict(list)
    for sign in _signs(rows):
        groups[sign.rule.kind, sign.subject].append(sign)
    # In one order everywhere, so that two transactions that count the same alerts wait and do not deadlock.
    fresh = {key: signs for key, signs in sorted(groups.items()) if not alerts.count_on(signs[-1], signs)}
    past = _failed_before(rows) if any(signs[0].rule.threshold > 1 for signs in fresh.values()) else {}
    opened = []
    for key, signs in fresh.items():
        rule: Rule = signs[0].rule
        crossing = alert_rules.first_crossing(rule, past.get(key, signs) if rule.threshold > 1 else signs)
        if crossing and (alert := alerts.open_alert(crossing)):
            opened.append(alert)
    return opened


def _signs(rows: Iterable[Row]) -> Iterable[Sign]:
    for row in rows:
        yield from alert_rules.signs_of(row)
        if row.event_type == alert_rules.SIGN_IN and row.success and row.user_id is not None:
            sign = alert_rules.new_device(row, _past_of(row))
            if sign is not None:
                yield sign


def _past_of(row: Row) -> list[tuple[str | None, str | None]]:
    """Return browser and address of the person's sign-ins before this one, the newest 500."""
    mark = tuple_(_log.created_at, _log.event_id) < tuple_(row.created_at, row.event_id)
    found = db.session.execute(
        select(_log.user_agent, _log.ip_address)
        .where(_log.user_id == row.user_id, _log.event_type.in_(alert_rules.KNOWN_BY), _log.success, mark)
        .order_by(_log.created_at.desc(), _log.event_id.desc())
        .limit(_MOST_PAST)
    )
    return [(user_agent, address) for user_agent, address in found]


def _failed_before(rows: Sequence[Row]) -> dict[tuple[str, str], list[Sign]]:
    """Return the signs of failed sign-ins about the rows' accounts and addresses, from a window before the first."""
    failed = [row for row in rows if row.event_type == alert_rules.FAILED]
    if not failed:
        return {}
    window = max(rule.within for rule in alert_rules.RULES.values())
    addresses = {row.ip_address for row in failed if row.ip_address}
    about = [
        _log.user_id.in_({row.user_id for row in failed if row.user_id}),
        _log.ip_address.in_(addresses),
    ]
    if any(":" in address for address in addresses):
        about.append(_log.ip_address.contains(":"))  # counted by network, whose addresses differ
    found = db.session.execute(
        select(*_COLUMNS)
        .where(
            _log.event_type == alert_rules.FAILED,
            _log.created_at >= failed[0].created_at - window,
            _log.created_at <= failed[-1].created_at,
            or_(*about),
        )
        .order_by(_log.created_at.desc(), _log.event_id.desc())
        .limit(_MOST_FAILED)
    )
    groups: dict[tuple[str, str], list[Sign]] = defaultdict(list)
    for each in found:
        for sign in alert_rules.signs_of(Row(*each)):
            groups[sign.rule.kind, sign.subject].append(sign)
    return groups
