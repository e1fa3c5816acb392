"""How the delivery to each receiver goes, for people and as metrics."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock
from capecontrol.audit import delivery_order
from capecontrol.audit.delivery import receivers
from capecontrol.audit.models import AuditDelivery
from capecontrol.database import release_connection
from capecontrol.extensions import db

_deliveries = AuditDelivery.__table__

log = structlog.get_logger("audit_delivery")


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


def delivery_states() -> list[DeliveryState]:
    """Return how the delivery to each receiver goes, also to those that are no longer in the settings."""
    configured = {receiver.name: receiver.destination for receiver in receivers()}
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


def _state(connection: Connection, name: str, destination: str | None, row: Mapping[str, Any] | None) -> DeliveryState:
    waiting, since = delivery_order.waiting(connection, row)
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
