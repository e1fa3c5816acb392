"""Counters for machines: `/metrics`, open to holders of METRICS_TOKEN and to nobody else."""

import hmac
import os
from functools import cache

from flask import Blueprint, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from capecontrol.audit.delivery_state import DeliveryCollector
from capecontrol.auth.identity import public
from capecontrol.config import current_settings
from capecontrol.errors import NotFound

endpoints = Blueprint("metrics", __name__)

requests_total = Counter("capecontrol_requests_total", "Requests answered.", ["endpoint", "status"])
request_seconds = Histogram(
    "capecontrol_request_seconds",
    "Seconds from a request's arrival in the process to its answer; a stream's until its first byte.",
    ["endpoint"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 10, 30),
)


# What other processes did is read from the database.
_stored = CollectorRegistry()
_stored.register(DeliveryCollector())


@endpoints.get("/metrics")
@public
def show() -> Response:
    """Answer with every counter, of all web processes where they share PROMETHEUS_MULTIPROC_DIR."""
    if not holds_token():
        raise NotFound  # as if it were not there: its existence tells nobody anything
    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return Response(generate_latest(registry) + generate_latest(_stored), content_type=CONTENT_TYPE_LATEST)


@endpoints.after_app_request
def count(response: Response) -> Response:
    """Count a request by its endpoint; the address itself could be anything and may hold an e-mail address."""
    endpoint = request.endpoint or "none"
    _answered(endpoint, response.status_code).inc()
    if "watch" in g:
        _took(endpoint).observe(g.watch.milliseconds() / 1000)
    return response


@cache
def _answered(endpoint: str, status: int) -> Counter:
    return requests_total.labels(endpoint=endpoint, status=str(status))


@cache
def _took(endpoint: str) -> Histogram:
    return request_seconds.labels(endpoint=endpoint)


def holds_token() -> bool:
    """Say whether the caller sent METRICS_TOKEN as its bearer token; never when none is set."""
    wanted = current_settings().metrics_token.get_secret_value()
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), wanted.encode("utf-8", "replace"))
    return bool(wanted) and scheme.lower() == "bearer" and is_same
