"""Counters for machines."""

import re
from collections.abc import Callable

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from capecontrol import create_app
from tests.conftest import settings_for
from tests.live_server import LiveServer

TOKEN = "a-token-for-machines-only"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
NOBODY_THERE = "postgresql://postgres@127.0.0.1:9/nothing"


@pytest.fixture
def metered() -> Flask:
    """Return an application with METRICS_TOKEN; counting needs no database."""
    return create_app(settings_for(NOBODY_THERE, metrics_token=TOKEN))


def counted(page: str, endpoint: str, status: int) -> float:
    found = re.search(
        rf'^capecontrol_requests_total{{endpoint="{endpoint}",status="{status}"}} ([0-9.e+]+)$', page, re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def test_requests_are_counted_by_endpoint_and_status(metered: Flask) -> None:
    client = metered.test_client()
    before = client.get("/metrics", headers=AUTHORISED).text
    for _ in range(3):
        client.get("/healthz")
    client.get("/thandi@example.com")
    client.get("/readyz")
    answer = client.get("/metrics", headers=AUTHORISED)
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    assert counted(answer.text, "operations.healthz", 200) - counted(before, "operations.healthz", 200) == 3
    assert counted(answer.text, "operations.readyz", 503) - counted(before, "operations.readyz", 503) == 1
    assert counted(answer.text, "none", 404) > counted(before, "none", 404)
    assert "thandi" not in answer.text
    assert 'capecontrol_request_seconds_bucket{endpoint="operations.healthz",le="0.1"}' in answer.text
    assert "capecontrol_audit_swallowed_total" in answer.text


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Bearer ", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN} x", "Bearer \xff\xfe"]
)
def test_without_the_token_there_is_nothing(metered: Flask, header: str | None) -> None:
    answer = metered.test_client().get("/metrics", headers={"Authorization": header} if header else {})
    assert answer.status_code == 404
    assert "capecontrol_" not in answer.text


def test_without_a_token_set_there_is_nothing_for_anybody(client: FlaskClient) -> None:
    for header in ("Bearer ", "Bearer", f"Bearer {TOKEN}"):
        assert client.get("/metrics", headers={"Authorization": header}).status_code == 404


def test_the_processes_of_a_server_are_counted_together(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(worker=False, METRICS_TOKEN=TOKEN, WEB_CONCURRENCY="2")

    def fetch(path: str) -> str:
        return requests.get(server.url + path, headers=AUTHORISED, timeout=10).text

    before = counted(fetch("/metrics"), "operations.healthz", 200)
    for _ in range(40):
        fetch("/healthz")
    totals = {counted(fetch("/metrics"), "operations.healthz", 200) - before for _ in range(6)}
    assert totals == {40.0}
    assert requests.get(f"{server.url}/metrics", timeout=10).status_code == 404
