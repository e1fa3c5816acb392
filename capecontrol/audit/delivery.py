"""Delivering the record to other systems as it grows: in order, at least once, never in a request.

Each receiver has a row in `audit_deliveries` that says how far it has come (delivery_order.py). An event is sent again
when it is not known whether it arrived; it carries its id.

Who delivers holds a lease on the row and renews it with each batch. An advisory lock would need a connection for as
long as the receiver takes, and none behind a transaction pooler.
"""

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, ids
from capecontrol.audit import delivery_order
from capecontrol.audit.delivery_order import Batch, Place, next_batch
from capecontrol.audit.models import AuditDelivery
from capecontrol.audit.receivers import BATCH_SECONDS, DeliveryFailed, HttpReceiver, Receiver, SyslogReceiver
from capecontrol.config import Settings
from capecontrol.database import short_transaction

BATCH = 500
ROUND_SECONDS = 20.0
"""How long one round goes on to one receiver; the next follows within seconds."""

LEASE_SECONDS = ROUND_SECONDS + BATCH_SECONDS + 10
"""Longer than anything between two renewals: a batch refused as too large, over and over, and a last one that takes its
time. So nobody delivers what another is still sending."""

FIRST_PAUSE_SECONDS = 15
LONGEST_PAUSE_SECONDS = 600
_deliveries = AuditDelivery.__table__
_receivers: list[Receiver] = []

log = structlog.get_logger("audit_delivery")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to deliver to one receiver, until it runs out or is given back.

    `failures` are those in a row before it.
    """

    receiver: str
    token: str
    failures: int


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
        here = delivery_order.look(connection)
        if row["cluster"] == here.cluster:
            place = Place(row["position_xid"], row["position_id"], row["inherited_to"], row["floor_id"])
        else:
            begins_after = delivery_order.inherited_from(connection, row)
            place = Place(here.horizon, begins_after, here.newest, here.settled)
            if row["cluster"] is not None:
                log.warning("delivery_in_another_cluster", receiver=lease.receiver, again_from=begins_after)
            _keep(connection, lease, place, cluster=here.cluster)
        return place, next_batch(connection, place, here.horizon, size)


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


def _from_now(seconds: float) -> Any:
    return func.now() + timedelta(seconds=seconds)
