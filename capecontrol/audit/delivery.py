"""Delivering the record to other systems as it grows: in order, at least once, never in a request.

Each receiver has a row in `audit_deliveries` that says how far it has come. Rows are read in the order of their
transactions' numbers, and only below the oldest transaction still open: ids are drawn before the commit, so an order
by id alone would pass over what commits late. An event is sent again when it is not known whether it arrived; it
carries its id.

Who delivers holds a lease on the row and renews it with each batch. An advisory lock would need a connection for as
long as the receiver takes, and none behind a transaction pooler.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Select, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, ids
from capecontrol.audit.models import AuditDelivery, AuditLog
from capecontrol.audit.receivers import BATCH_SECONDS, DeliveryFailed, Event, HttpReceiver, Receiver, SyslogReceiver
from capecontrol.config import Settings
from capecontrol.database import release_connection, short_transaction
from capecontrol.extensions import db

BATCH = 500
ROUND_SECONDS = 20.0
"""How long one round goes on to one receiver; the next follows within seconds."""

LEASE_SECONDS = ROUND_SECONDS + BATCH_SECONDS + 10
"""Longer than anything between two renewals: a batch refused as too large, over and over, and a last one that takes its
time. So nobody delivers what another is still sending."""

FIRST_PAUSE_SECONDS = 15
LONGEST_PAUSE_SECONDS = 600
COUNTED = 10_000

STORED_XID = "stored_xid"
"""The column that holds the number of the transaction that stored a row."""

# Rows stored this long before a look cannot belong to a transaction that is still open: none may last that long.
_SETTLED = timedelta(hours=1)

_log = AuditLog.__table__
_deliveries = AuditDelivery.__table__
_receivers: list[Receiver] = []

log = structlog.get_logger("audit_delivery")


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
class Lease:
    """The right to deliver to one receiver, until it runs out or is given back.

    `failures` are those in a row before it.
    """

    receiver: str
    token: str
    failures: int


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """How the delivery to one receiver goes, for whoever runs the product.

    `waiting` counts up to 10,000; `lag_seconds` is how long the oldest event that is not delivered has been stored,
    0 when none waits. `last_error` is None when the last try succeeded.
    """

    name: str
    destination: str
    is_configured: bool
    delivered: int
    waiting: int
    lag_seconds: float
    last_event_id: str | None = None
    last_event_at: datetime | None = None
    last_delivered_at: datetime | None = None
    failures: int = 0
    failed_total: int = 0
    failed_at: datetime | None = None
    last_error: str | None = None
    retry_at: datetime | None = None


def configure(settings: Settings) -> None:
    """Take the receivers from the settings."""
    _receivers.clear()
    if settings.audit_stream_url:
        _receivers.append(HttpReceiver(settings.audit_stream_url, settings.audit_stream_token.get_secret_value()))
    if settings.audit_syslog_address:
        hostname = settings.public_url.partition("://")[2] or socket.gethostname()
        _receivers.append(SyslogReceiver(settings.audit_syslog_address, ca=settings.audit_syslog_ca, hostname=hostname))


def deliver_all() -> int:
    """Deliver to every receiver what waits for it, for some seconds each; return how many events were delivered."""
    return sum(deliver(receiver) for receiver in list(_receivers))


def deliver(
    receiver: Receiver, *, seconds: float = ROUND_SECONDS, batch_size: int = BATCH, is_patient: bool = True
) -> int:
    """Deliver what waits for one receiver and return how many events it took.

    Returns 0 at once while another process delivers to it, or, when `is_patient`, while it is left in peace after a
    failure.
    """
    lease = _take_lease(receiver, is_patient=is_patient)
    if lease is None:
        return 0
    ends_at = clock.monotonic() + seconds
    delivered = 0
    # From the second failure in a row on with fewer events: it may be too slow to take them in the time of a batch.
    size = max(1, batch_size >> min(max(0, lease.failures - 1), 16))
    try:
        while clock.monotonic() < ends_at:
            place, batch = _next(lease, size)
            if not batch.rows and batch.behind == place:
                break
            try:
                if batch.rows:
                    receiver.send(batch.rows)
            except DeliveryFailed as failure:
                if failure.is_too_large and size > 1:
                    size = max(1, min(size, len(batch.rows)) // 2)
                    continue
                _note_failure(lease, failure)
                break
            if not _advance(lease, batch):
                break
            delivered += len(batch.rows)
    finally:
        _give_back(lease)
    return delivered


def receivers() -> list[Receiver]:
    """Return the receivers there are."""
    return list(_receivers)


def delivery_states() -> list[DeliveryState]:
    """Return how the delivery to each receiver goes, also to those that are no longer in the settings."""
    configured = {receiver.name: receiver.destination for receiver in _receivers}
    try:
        connection = db.session.connection()  # the request's: the separate one is for events of what failed
        rows = {row["name"]: dict(row) for row in connection.execute(select(_deliveries)).mappings()}
        return [_state(connection, name, configured.get(name), rows.get(name)) for name in sorted({*configured, *rows})]
    finally:
        release_connection()


class DeliveryCollector(Collector):
    """The deliveries as metrics, read from the database: they happen in another process than the one that is asked."""

    def collect(self) -> Iterator[Metric]:
        """Yield counts and lag by receiver; nothing while the database does not answer."""
        delivered = CounterMetricFamily(
            "capecontrol_audit_delivered", "Audit events other systems took.", labels=["receiver"]
        )
        failed = CounterMetricFamily(
            "capecontrol_audit_delivery_failures", "Deliveries of audit events that failed.", labels=["receiver"]
        )
        lag = GaugeMetricFamily(
            "capecontrol_audit_delivery_lag_seconds",
            "Seconds since the oldest audit event that is not delivered was stored.",
            labels=["receiver"],
        )
        try:
            states = delivery_states()
        except SQLAlchemyError as error:
            log.warning("deliveries_not_read", kind=type(error).__name__)
            return
        for state in states:
            delivered.add_metric([state.name], state.delivered)
            failed.add_metric([state.name], state.failed_total)
            lag.add_metric([state.name], state.lag_seconds)
        yield from (delivered, failed, lag)


def _take_lease(receiver: Receiver, *, is_patient: bool) -> Lease | None:
    token = ids.new_id()
    with short_transaction(None) as connection:
        connection.execute(
            insert(_deliveries)
            .values(name=receiver.name, destination=receiver.destination)
            .on_conflict_do_nothing(index_elements=["name"])
        )
        is_free = (_deliveries.c.leased_until.is_(None)) | (_deliveries.c.leased_until < func.now())
        is_due = (_deliveries.c.retry_at.is_(None)) | (_deliveries.c.retry_at <= func.now()) | (not is_patient)
        taken = connection.execute(
            update(_deliveries)
            .where(_deliveries.c.name == receiver.name, is_free, is_due)
            .values(lease=token, leased_until=_from_now(LEASE_SECONDS), destination=receiver.destination)
            .returning(_deliveries.c.failures)
        )
        failures = taken.scalar()
        return Lease(receiver.name, token, failures) if failures is not None else None


def _next(lease: Lease, size: int) -> tuple[Place, Batch]:
    """Return where the receiver is and its next rows. Settles first where it begins, in a cluster that is new to it."""
    with short_transaction(None) as connection:
        mine = select(_deliveries).where(_deliveries.c.name == lease.receiver)
        row = dict(connection.execute(mine).mappings().one())
        # One snapshot: whatever it does not show has this number or a higher one.
        here = connection.execute(
            text(
                "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon, "
                "(SELECT system_identifier::text FROM pg_control_system()) AS cluster, "
                "(SELECT coalesce(max(id), 0) FROM audit_logs) AS newest, "
                "(SELECT coalesce(max(id), 0) FROM audit_logs WHERE recorded_at < now() - :settled) AS settled"
            ),
            {"settled": _SETTLED},
        ).one()
        if row["cluster"] == here.cluster:
            place = Place(row["position_xid"], row["position_id"], row["inherited_to"], row["floor_id"])
        else:
            begins_after = _inherited_from(connection, row)
            place = Place(here.horizon, begins_after, here.newest, here.settled)
            if row["cluster"] is not None:
                log.warning("delivery_in_another_cluster", receiver=lease.receiver, again_from=begins_after)
            _keep(connection, lease, place, cluster=here.cluster)
        return place, _batch(connection, place, here.horizon, size)


def _inherited_from(connection: Connection, row: Mapping[str, Any]) -> int:
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


def _batch(connection: Connection, place: Place, horizon: int, size: int) -> Batch:
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


def _rows(connection: Connection, found: Select[Any]) -> list[Event]:
    return [dict(row) for row in connection.execute(found).mappings()]


def _advance(lease: Lease, batch: Batch) -> bool:
    """Note what was delivered and renew the lease. False when somebody else has taken it over meanwhile."""
    with short_transaction(None) as connection:
        last = batch.rows[-1] if batch.rows else None
        news: dict[str, Any] = {"failures": 0, "last_error": None, "failed_at": None, "retry_at": None}
        if last is not None:
            news |= {
                "delivered": _deliveries.c.delivered + len(batch.rows),
                "last_event_id": last["event_id"],
                "last_event_at": last["created_at"],
                "last_delivered_at": func.now(),
            }
        return _keep(connection, lease, batch.behind, **news)


def _keep(connection: Connection, lease: Lease, place: Place, **news: Any) -> bool:
    kept = connection.execute(
        update(_deliveries)
        .where(_deliveries.c.name == lease.receiver, _deliveries.c.lease == lease.token)
        .values(
            position_xid=place.xid,
            position_id=place.id,
            inherited_to=place.inherited_to,
            floor_id=place.floor,
            leased_until=_from_now(LEASE_SECONDS),
            **news,
        )
    )
    return bool(kept.rowcount)


def _note_failure(lease: Lease, failure: DeliveryFailed) -> None:
    with short_transaction(None) as connection:
        mine = (_deliveries.c.name == lease.receiver) & (_deliveries.c.lease == lease.token)
        failures = connection.execute(select(_deliveries.c.failures).where(mine)).scalar()
        if failures is None:
            return
        pause = failure.retry_after or min(FIRST_PAUSE_SECONDS * 2 ** min(failures, 16), LONGEST_PAUSE_SECONDS)
        connection.execute(
            update(_deliveries)
            .where(mine)
            .values(
                failures=failures + 1,
                failed_total=_deliveries.c.failed_total + 1,
                failed_at=func.coalesce(_deliveries.c.failed_at, func.now()),
                last_error=str(failure),
                # Not all installations come back to a receiver in the same second.
                retry_at=_from_now(pause * ids.new_share(0.8, 1.0)),
            )
        )
    if failures == 0:  # once, however long it takes; the state keeps counting
        log.warning("audit_delivery_failed", receiver=lease.receiver, reason=str(failure))


def _give_back(lease: Lease) -> None:
    try:
        with short_transaction(None) as connection:
            connection.execute(
                update(_deliveries)
                .where(_deliveries.c.name == lease.receiver, _deliveries.c.lease == lease.token)
                .values(lease=None, leased_until=None)
            )
    except SQLAlchemyError as error:  # it runs out by itself
        log.warning("delivery_lease_left", receiver=lease.receiver, kind=type(error).__name__)


def _state(connection: Connection, name: str, destination: str | None, row: Mapping[str, Any] | None) -> DeliveryState:
    waiting, since = _waiting(connection, row)
    lag = max(0.0, (clock.now() - since).total_seconds()) if since is not None else 0.0
    if row is None:
        return DeliveryState(name, destination or "", True, 0, waiting, lag)
    return DeliveryState(
        name=name,
        destination=destination or row["destination"],
        is_configured=destination is not None,
        waiting=waiting,
        lag_seconds=lag,
        **{
            field: row[field]
            for field in (
                "delivered",
                "last_event_id",
                "last_event_at",
                "last_delivered_at",
                "failures",
                "failed_total",
                "failed_at",
                "last_error",
                "retry_at",
            )
        },
    )


def _waiting(connection: Connection, row: Mapping[str, Any] | None) -> tuple[int, datetime | None]:
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


def _from_now(seconds: float) -> Any:
    return func.now() + timedelta(seconds=seconds)
