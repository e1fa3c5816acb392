"""How long events are kept, by category, and the purge of those whose time is over.

The purge deletes in batches, and in the transaction of each batch a link of the chain of seals names the rows it
takes. So a row that is missing without one is found, and the seals over the purged rows stay as they are.
"""

import json
from collections import Counter
from datetime import datetime, timedelta

from sqlalchemy import text

from capecontrol import clock
from capecontrol.audit import events, seals
from capecontrol.audit.actor import Actor
from capecontrol.audit.recorder import record
from capecontrol.config import SettingsError
from capecontrol.extensions import db

BATCH = 5_000
WINDOW = 20_000
"""How many rows one statement looks through for those whose time is over, so that it ends."""

LONGEST_DAYS = 36_500
"""A hundred years: much more, and the moment before which is purged would lie before the calendar begins."""

DEFAULT_DAYS = dict.fromkeys(events.CATEGORIES, 730) | {"request": 90, "ai_service": 365, "admin": 2555}

_days: dict[str, int] = {}


def configure(setting: str) -> None:
    """Read AUDIT_RETENTION_DAYS: pairs of a category and days, separated by commas. Raises SettingsError."""
    days = dict(DEFAULT_DAYS)
    for pair in filter(None, (part.strip() for part in setting.split(","))):
        category, _, number = (part.strip() for part in pair.partition("="))
        is_number = number.isascii() and number.isdigit() and len(number) <= 6
        if category not in events.CATEGORIES or not is_number or int(number) > LONGEST_DAYS:
            raise SettingsError(
                f"AUDIT_RETENTION_DAYS: {pair!r} is not a category and a number of days up to {LONGEST_DAYS:,}, such "
                f"as request=90. 0 keeps it for ever. The categories: {', '.join(events.CATEGORIES)}."
            )
        days[category] = int(number)
    _days.clear()
    _days.update({category: number for category, number in days.items() if number})


def cutoffs() -> dict[str, datetime]:
    """Return the moment before which events are purged, by category. A category that is not named is kept for ever."""
    now = clock.now()
    return {category: now - timedelta(days=days) for category, days in _days.items()}


def purge(*, actor: Actor | None, is_dry_run: bool = False) -> Counter[str]:
    """Delete the events whose time is over, or only count them; return how many by category.

    Seals first, so that the chain tells what was purged from what was lost. Each batch of 5,000 is a transaction and
    an event of its own.
    """
    before = cutoffs()
    if not is_dry_run:
        seals.seal()
    purged: Counter[str] = Counter()
    position: tuple[datetime | None, str] = (None, "")
    while True:
        found, position = _find_over(before, position)
        for start in range(0, len(found), BATCH):
            batch = found[start : start + BATCH]
            if not is_dry_run:
                _delete(batch, before, actor)
            purged.update(category for _, category in batch)
        if position[0] is None:
            return purged


def _find_over(
    before: dict[str, datetime], position: tuple[datetime | None, str]
) -> tuple[list[tuple[int, str]], tuple[datetime | None, str]]:
    """Look through the next rows, oldest first. Return those whose time is over, and where to go on, if anywhere."""
    if not before:
        return [], (None, "")
    rows = db.session.execute(
        text(
            "SELECT id, event_category, created_at, event_id, "
            "created_at < (CAST(:before AS jsonb) ->> event_category)::timestamptz AS is_over FROM audit_logs "
            "WHERE created_at < :latest AND (CAST(:at AS timestamptz) IS NULL OR (created_at, event_id) > (:at, :id)) "
            "ORDER BY created_at, event_id LIMIT :window"
        ),
        {
            "before": _as_json(before),
            "latest": max(before.values()),
            "at": position[0],
            "id": position[1],
            "window": WINDOW,
        },
    ).all()
    db.session.rollback()
    following = (rows[-1].created_at, rows[-1].event_id) if len(rows) == WINDOW else (None, "")
    return [(row.id, row.event_category) for row in rows if row.is_over], following


def _delete(batch: list[tuple[int, str]], before: dict[str, datetime], actor: Actor | None) -> None:
    counts = dict(Counter(category for _, category in batch))
    moments = {category: before[category].isoformat() for category in counts}
    with seals.adding_to_the_chain(wait=True) as chain:
        session = db.session()
        # The trigger asks this for every row; it ends with the transaction.
        session.execute(text("SELECT set_config('audit.purge', :before, true)"), {"before": json.dumps(moments)})
        gone = session.execute(
            text("DELETE FROM audit_logs WHERE id = ANY(:ids) RETURNING id"), {"ids": [row_id for row_id, _ in batch]}
        )
        if chain:
            chain.add_purge(sorted(gone.scalars()), {"rows": counts, "before": moments})
        record(events.AUDIT_PURGED, actor=actor, details={"rows": counts, "before": moments})


def _as_json(moments: dict[str, datetime]) -> str:
    return json.dumps({category: moment.isoformat() for category, moment in moments.items()})
