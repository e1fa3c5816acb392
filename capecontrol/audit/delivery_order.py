"""The order in which the record is delivered, and a receiver's place in it.

Rows go in the order of their transactions' numbers, and only below the oldest transaction still open: ids are drawn
before the commit, so an order by id alone would pass over what commits late.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, select, text

from capecontrol.audit.models import AuditLog
from capecontrol.audit.receivers import Event

COUNTED = 10_000

STORED_XID = "stored_xid"
"""The column that holds the number of the transaction that stored a row."""

# Rows stored this long before a look cannot belong to a transaction that is still open: none may last that long.
_SETTLED = timedelta(hours=1)

_log = AuditLog.__table__


@dataclass(frozen=True, slots=True)
class Place:
    """How far a receiver has come.

    Up to `inherited_to` rows go by `id` alone: what was there when the receiver was set up, or when the database was
    restored into another cluster, whose transaction numbers say nothing here. From then on by (`xid`, `id`), leaving
    out rows up to `floor`, which are among those already sent.
    """

    xid: int
    id: int
    inherited_to: int | None
    floor: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The next rows, and the place behind them."""

    rows: Sequence[Event]
    behind: Place


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one snapshot shows: whatever it does not has the transaction number `horizon` or a higher one.

    `newest` is the highest id, `settled` the highest of a row that no transaction still open can have stored.
    """

    horizon: int
    cluster: str
    newest: int
    settled: int


def look(connection: Connection) -> Snapshot:
    """Return what there is at this moment."""
    found = connection.execute(
        text(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon, "
            "(SELECT system_identifier::text FROM pg_control_system()) AS cluster, "
            "(SELECT coalesce(max(id), 0) FROM audit_logs) AS newest, "
            "(SELECT coalesce(max(id), 0) FROM audit_logs WHERE recorded_at < now() - :settled) AS settled"
        ),
        {"settled": _SETTLED},
    ).one()
    return Snapshot(**found._asdict())


def inherited_from(connection: Connection, row: Mapping[str, Any]) -> int:
    """Return the id behind which a receiver may lack rows of the cluster it was delivered from so far.

    There they came by transaction, so what it lacks has a higher id than its last or a transaction at least as high.
    """
    if row["cluster"] is None:
        return 0
    if row["inherited_to"] is not None:
        return int(row["position_id"])
    lowest = connection.execute(
        text(f"SELECT min(id) FROM audit_logs WHERE {STORED_XID} >= CAST(CAST(:xid AS text) AS xid8)"),  # noqa: S608
        {"xid": str(row["position_xid"])},
    ).scalar()
    return int(min(row["position_id"], lowest - 1 if lowest is not None else row["position_id"]))


def next_batch(connection: Connection, place: Place, horizon: int, size: int) -> Batch:
    """Return the next rows behind a place, at most `size`; after the inherited, of transactions below `horizon`."""
    if place.inherited_to is not None:
        found = select(_log).where(_log.c.id > place.id, _log.c.id <= place.inherited_to).order_by(_log.c.id)
        rows = _rows(connection, found.limit(size))
        if len(rows) == size:
            return Batch(rows, Place(place.xid, rows[-1]["id"], place.inherited_to, place.floor))
        return Batch(rows, Place(place.xid, 0, None, place.floor))
    behind = text(
        f"({STORED_XID}, id) > (CAST(CAST(:xid AS text) AS xid8), :id) "
        f"AND {STORED_XID} < CAST(CAST(:horizon AS text) AS xid8) AND id > :floor"
    ).bindparams(xid=str(place.xid), id=place.id, horizon=str(horizon), floor=place.floor)
    order = text(f"{STORED_XID}, id")
    rows = _rows(connection, select(_log).where(behind).order_by(order).limit(size))
    if len(rows) == size:
        return Batch(rows, Place(int(rows[-1][STORED_XID]), rows[-1]["id"], None, place.floor))
    # Everything below the horizon is seen: the next look begins there.
    return Batch(rows, Place(horizon, 0, None, place.floor) if rows else place)


def waiting(connection: Connection, row: Mapping[str, Any] | None) -> tuple[int, datetime | None]:
    """Return how many rows wait, counted so far, and when the first of them was stored."""
    if row is None or row["cluster"] is None:
        behind = text("id > 0")
    elif row["inherited_to"] is not None:
        behind = text("id > :id").bindparams(id=row["position_id"])
    else:
        behind = text(f"({STORED_XID}, id) > (CAST(CAST(:xid AS text) AS xid8), :id) AND id > :floor").bindparams(
            xid=str(row["position_xid"]), id=row["position_id"], floor=row["floor_id"]
        )
    by_id = row is None or row["cluster"] is None or row["inherited_to"] is not None
    order = text("id" if by_id else f"{STORED_XID}, id")
    some = select(_log.c.recorded_at).where(behind).order_by(order).limit(COUNTED).subquery()
    found = connection.execute(select(func.count(), func.min(some.c.recorded_at))).one()
    return int(found[0]), found[1]


def _rows(connection: Connection, found: Select[Any]) -> list[Event]:
    return [dict(row) for row in connection.execute(found).mappings()]
