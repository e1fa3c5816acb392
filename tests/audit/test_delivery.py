"""The record delivered to other systems: in order, at least once, whatever breaks; nothing skipped, nothing forged."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import requests
from flask import Flask
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from capecontrol import create_app
from capecontrol.audit import delivery, receivers
from capecontrol.audit.delivery_state import delivery_states
from capecontrol.audit.models import AuditDelivery, AuditLog
from capecontrol.audit.receivers import HttpReceiver, SyslogReceiver
from capecontrol.config import Settings, SettingsError, check, libpq_url
from capecontrol.database import AUDIT
from capecontrol.extensions import db
from tests.audit.receiving import (
    Certificate,
    HttpEndpoint,
    SyslogServer,
    http_endpoint,
    make_certificate,
    syslog_server,
)
from tests.audit.recorded import make_event
from tests.conftest import dispose, settings_for
from tests.live_server import REPOSITORY, environment_of_processes, free_port
from tests.people import PASSWORD

TOKEN = "token-of-the-receiver"


@pytest.fixture
def context(committed_app: Flask) -> Iterator[None]:
    """Hold an application context, as a job does."""
    with committed_app.app_context():
        yield


@pytest.fixture
def stored(committed_app: Flask) -> Iterator[Session]:
    """Yield a session of the test's own."""
    engine = create_engine(committed_app.config["SETTINGS"].database_url, poolclass=NullPool)
    with Session(engine, expire_on_commit=False) as session:
        yield session


@pytest.fixture
def endpoint() -> Iterator[HttpEndpoint]:
    with http_endpoint() as running:
        yield running


@pytest.fixture
def http(endpoint: HttpEndpoint) -> HttpReceiver:
    return HttpReceiver(endpoint.url, TOKEN)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def events(session: Session, count: int, **columns: Any) -> list[str]:
    """Store events, each in a transaction of its own, and return their ids in that order."""
    return [make_event(session, **columns).event_id for _ in range(count)]


def state(session: Session, name: str = "http") -> AuditDelivery:
    session.rollback()
    session.expire_all()
    return session.scalars(select(AuditDelivery).where(AuditDelivery.name == name)).one()


def leave_no_pause(session: Session) -> None:
    """Let the pause after a failure be over."""
    session.execute(text("UPDATE audit_deliveries SET retry_at = now() - interval '1 second'"))
    session.commit()


# What arrives


@pytest.mark.usefixtures("context")
def test_everything_arrives_once_and_in_order(endpoint, http: HttpReceiver, stored: Session) -> None:
    first = events(stored, 7)
    assert delivery.deliver(http, batch_size=3) == 7
    second = events(stored, 3)
    assert delivery.deliver(http, batch_size=3) == 3
    assert delivery.deliver(http) == 0
    assert endpoint.received.ids == first + second
    assert len(endpoint.received.requests) == 4 or len(endpoint.received.requests) == 5
    asked = endpoint.received.requests[0]
    assert asked["path"] == "/events?source=cape"
    assert asked["Authorization"] == f"Bearer {TOKEN}"
    assert asked["Content-Type"] == "application/x-ndjson"
    assert endpoint.received.events[0]["class_uid"] == 3002


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("batch_size", [1, 2, 5, 500])
def test_no_size_of_batch_passes_over_anything(endpoint, http: HttpReceiver, stored: Session, batch_size: int) -> None:
    sent = []
    for _ in range(3):
        rows = [
            AuditLog(
                event_id=f"event-{len(sent) + number}",
                event_type="user_login",
                event_category="authentication",
                event_level="info",
                success=True,
                created_at=datetime(2026, 1, 1, tzinfo=UTC),
            )
            for number in range(5)
        ]
        stored.add_all(rows)
        stored.commit()
        sent += [row.event_id for row in rows]
        while delivery.deliver(http, batch_size=batch_size):
            pass
    assert endpoint.received.ids == sent


@pytest.mark.usefixtures("context")
def test_what_commits_late_is_not_passed_over(endpoint, http: HttpReceiver, committed_app: Flask, stored) -> None:
    """Ids are drawn before the commit (P22): the later id is there first."""
    events(stored, 1)
    delivery.deliver(http)
    engine = create_engine(committed_app.config["SETTINGS"].database_url, poolclass=NullPool)
    with Session(engine) as slow, Session(engine) as failing:
        slow.add(late := _event("late"))
        slow.flush()
        failing.add(_event("never"))
        failing.flush()
        early = events(stored, 2)
        delivery.deliver(http)
        assert len(endpoint.received.ids) == 1, "a transaction below them is still open"
        slow_id = late.id
        slow.commit()
        delivery.deliver(http)
        assert endpoint.received.ids[1:] == ["late"]
        failing.rollback()
    assert delivery.deliver(http) == 2
    stored.rollback()
    assert slow_id < stored.scalars(select(AuditLog.id).where(AuditLog.event_id == early[0])).one()
    assert endpoint.received.ids[1:] == ["late", *early]


def _event(event_id: str, **columns: Any) -> AuditLog:
    return AuditLog(
        event_id=event_id,
        event_type="user_login",
        event_category="authentication",
        event_level="info",
        success=True,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        **columns,
    )


@pytest.mark.usefixtures("context")
def test_nothing_anybody_writes_begins_a_line_of_its_own(endpoint, http, certificate, stored: Session) -> None:
    hostile = 'x"\r\n{"class_uid": 3002}\n\x00\x1b[31m\x7f\x85\u2028\u202e]\\ <134>1 2026-01-01T00:00:00Z evil - - - '
    hostile = hostile.replace("\x00", "")
    columns = ("user_email", "user_agent", "error_message", "endpoint", "request_id", "ip_address", "actor_ref")
    sent = events(stored, 2, **dict.fromkeys(columns, hostile), event_metadata={"method": hostile, hostile: 1})
    delivery.deliver(http)
    with syslog_server(certificate.server) as server:
        delivery.deliver(syslog(server, certificate))
    for received in (endpoint.received, server.received):
        assert received.ids == sent
        assert received.events[0]["http_request"]["user_agent"] == hostile
    for line in server.received.lines:
        assert all(32 <= byte < 127 for byte in line)


# When it breaks


@pytest.mark.usefixtures("context")
def test_a_receiver_that_is_down_gets_everything_when_it_is_back(stored: Session) -> None:
    port = free_port()
    receiver = HttpReceiver(f"http://127.0.0.1:{port}/", TOKEN)
    sent = events(stored, 5)
    assert delivery.deliver(receiver) == 0
    failed = state(stored)
    assert failed.last_error == "Connection refused"
    assert failed.failures == 1
    assert failed.lease is None
    assert failed.retry_at is not None
    with http_endpoint(port=port) as endpoint:
        assert delivery.deliver(receiver) == 0, "it is left in peace for a while"
        assert endpoint.received.requests == []
        sent += events(stored, 2)
        leave_no_pause(stored)
        assert delivery.deliver(receiver) == 7
        assert endpoint.received.ids == sent
    done = state(stored)
    assert (done.failures, done.failed_total, done.last_error, done.failed_at) == (0, 1, None, None)
    assert done.last_event_id == sent[-1]
    assert done.delivered == 7


@pytest.mark.usefixtures("context")
def test_pauses_grow_and_end_somewhere(stored: Session) -> None:
    receiver = HttpReceiver(f"http://127.0.0.1:{free_port()}/", TOKEN)
    events(stored, 1)
    pauses = []
    for _ in range(8):
        delivery.deliver(receiver)
        pauses.append((state(stored).retry_at - stored.scalar(text("SELECT now()"))).total_seconds())
        leave_no_pause(stored)
    assert pauses[0] < 16
    assert pauses[0] < pauses[2] < pauses[4]
    assert 400 < pauses[7] <= 600


@pytest.mark.usefixtures("context")
def test_a_connection_cut_after_the_batch_sends_it_again_under_the_same_ids(endpoint, http, stored: Session) -> None:
    sent = events(stored, 6)
    answers = iter([200, None, 200, 200])
    endpoint.answer = lambda _batch: next(answers)
    assert delivery.deliver(http, batch_size=2) == 2
    leave_no_pause(stored)
    assert delivery.deliver(http, batch_size=2) == 4
    assert endpoint.received.ids == sent[:4] + sent[2:]
    assert list(dict.fromkeys(endpoint.received.ids)) == sent


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 500, 503])
def test_a_refused_batch_is_kept(endpoint: HttpEndpoint, http: HttpReceiver, stored: Session, status: int) -> None:
    sent = events(stored, 2)
    with http_endpoint() as elsewhere:
        endpoint.answer = lambda _batch: (status, {"Location": elsewhere.url, "Retry-After": "300"})
        assert delivery.deliver(http) == 0
        assert elsewhere.received.requests == [], "the token is for its own address"
    failed = state(stored)
    assert failed.last_error == f"it answered {status}"
    pause = failed.retry_at - stored.scalar(text("SELECT now()"))
    assert timedelta(seconds=200) < pause <= timedelta(seconds=300)
    endpoint.answer = lambda _batch: 204
    leave_no_pause(stored)
    assert delivery.deliver(http) == 2
    assert endpoint.received.ids == sent


@pytest.mark.usefixtures("context")
def test_a_batch_that_is_too_large_comes_in_smaller_ones(endpoint: HttpEndpoint, http: HttpReceiver, stored) -> None:
    sent = events(stored, 9)
    endpoint.answer = lambda batch: 413 if len(batch) > 2 else 200
    assert delivery.deliver(http) == 9
    assert endpoint.received.ids == sent
    endpoint.answer = lambda _batch: 413
    events(stored, 1)
    assert delivery.deliver(http) == 0
    assert state(stored).last_error == "it answered 413"


@pytest.mark.usefixtures("context")
def test_a_receiver_too_slow_for_a_batch_gets_smaller_ones(endpoint: HttpEndpoint, http: HttpReceiver, stored) -> None:
    sent = events(stored, 9)
    endpoint.answer = lambda batch: 503 if len(batch) > 2 else 200
    for _ in range(3):
        assert delivery.deliver(http, batch_size=8) == 0
        leave_no_pause(stored)
    assert delivery.deliver(http, batch_size=8) == 9
    assert endpoint.received.ids == sent
    assert delivery.ROUND_SECONDS + receivers.BATCH_SECONDS < delivery.LEASE_SECONDS


@contextmanager
def dripping(at_once: bytes, then: bytes) -> Iterator[HttpReceiver]:
    """Yield a receiver that answers with the first bytes at once, and with the others one by one."""
    is_over = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.send(at_once)
            for byte in then:
                if is_over.wait(0.05):
                    return
                try:
                    connection.send(bytes([byte]))
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        yield HttpReceiver(f"http://127.0.0.1:{listener.getsockname()[1]}/", TOKEN)
        is_over.set()
        thread.join()


@pytest.mark.usefixtures("context")
def test_a_receiver_that_answers_byte_by_byte_is_cut_off(stored: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "BATCH_SECONDS", 0.5)
    events(stored, 1)
    with dripping(b"", b"HTTP/1.1 200 OK\r\n" + b"X-Slow: and slower\r\n" * 1000) as receiver:
        assert delivery.deliver(receiver) == 0
    assert state(stored).last_error


@pytest.mark.usefixtures("context")
def test_a_receiver_that_has_said_yes_is_not_listened_to_for_ever(stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "BATCH_SECONDS", 0.5)
    events(stored, 1)
    began = time.monotonic()
    with dripping(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"and so on " * 40) as receiver:
        assert delivery.deliver(receiver) == 1
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("context")
def test_no_error_tells_the_token_or_what_the_receiver_said(endpoint: HttpEndpoint, http, stored: Session) -> None:
    events(stored, 1)
    endpoint.answer = lambda _batch: (500, {"X-Echo": TOKEN})
    delivery.deliver(http)
    assert TOKEN not in json.dumps([str(each) for each in delivery_states()])
    assert "source=" not in state(stored).destination, "an address may carry a key in its query"


# One at a time


@pytest.mark.usefixtures("context")
def test_while_one_delivers_another_leaves_it_alone(endpoint, http, committed_app: Flask, stored: Session) -> None:
    sent = events(stored, 3)
    is_there, may_go = threading.Event(), threading.Event()

    def hold(_batch: object) -> int:
        is_there.set()
        may_go.wait(20)
        return 200

    endpoint.answer = hold

    def deliver_in_thread() -> None:
        with committed_app.app_context():
            delivery.deliver(http)

    other = threading.Thread(target=deliver_in_thread)
    other.start()
    assert is_there.wait(20)
    assert delivery.deliver(http) == 0
    may_go.set()
    other.join()
    assert endpoint.received.ids == sent


@pytest.mark.usefixtures("context")
def test_a_lease_of_one_that_died_runs_out(endpoint: HttpEndpoint, http: HttpReceiver, stored: Session) -> None:
    sent = events(stored, 1)
    delivery.deliver(http)
    stored.execute(text("UPDATE audit_deliveries SET lease = 'dead', leased_until = now() + interval '9 seconds'"))
    stored.commit()
    sent += events(stored, 1)
    assert delivery.deliver(http) == 0
    stored.execute(text("UPDATE audit_deliveries SET leased_until = now() - interval '1 second'"))
    stored.commit()
    assert delivery.deliver(http) == 1
    assert endpoint.received.ids == sent


@pytest.mark.usefixtures("context")
def test_one_whose_lease_was_taken_over_moves_nothing(
    endpoint: HttpEndpoint, http: HttpReceiver, stored, databases
) -> None:
    events(stored, 2)
    url = stored.get_bind().url

    def take_over(_batch: object) -> int:
        with psycopg2.connect(libpq_url(url.render_as_string(hide_password=False))) as connection:
            connection.cursor().execute(
                "UPDATE audit_deliveries SET lease = 'another', leased_until = now() + interval '1 minute'"
            )
        return 200

    endpoint.answer = take_over
    assert delivery.deliver(http) == 0
    kept = state(stored)
    assert (kept.lease, kept.delivered) == ("another", 0)


# Another cluster


@pytest.mark.usefixtures("context")
def test_a_database_restored_elsewhere_goes_on_without_a_gap(endpoint, http: HttpReceiver, stored: Session) -> None:
    """In the cluster it came from, transaction numbers were far higher than here."""
    far = 9_000_000_000
    inherited = [f"inherited-{number}" for number in range(6)]
    for number, event_id in enumerate(inherited):
        stored.execute(
            text(
                "INSERT INTO audit_logs (event_id, event_type, event_category, event_level, success, created_at, "
                "stored_xid) VALUES (:id, 'user_login', 'authentication', 'info', true, now(), CAST(:xid AS xid8))"
            ),
            {"id": event_id, "xid": str(far + number)},
        )
    stored.commit()
    last = stored.scalar(text("SELECT id FROM audit_logs WHERE event_id = 'inherited-2'"))
    stored.add(
        AuditDelivery(
            name="http", destination="", cluster="another", position_xid=far + 2, position_id=last, delivered=3
        )
    )
    stored.commit()
    here = events(stored, 2)
    delivery.deliver(http, batch_size=2)
    more = events(stored, 2)
    delivery.deliver(http, batch_size=2)
    arrived = list(dict.fromkeys(endpoint.received.ids))
    assert [each for each in arrived if each not in inherited[:3]] == inherited[3:] + here + more
    assert delivery.deliver(http) == 0


# TLS


@pytest.mark.usefixtures("context")
def test_https_is_verified(certificate: Certificate, stored: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    events(stored, 1)
    with http_endpoint(tls=certificate.server) as endpoint:
        receiver = HttpReceiver(endpoint.url, TOKEN)
        assert delivery.deliver(receiver) == 0
        assert "certificate is not valid" in (state(stored).last_error or "")
        assert endpoint.received.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
        leave_no_pause(stored)
        assert delivery.deliver(receiver) == 1


def syslog(server: SyslogServer, certificate: Certificate) -> SyslogReceiver:
    return SyslogReceiver(server.address, ca=str(certificate.file), hostname="app.example.com")


@pytest.mark.usefixtures("context")
def test_syslog_lines_say_what_happened(certificate: Certificate, stored: Session) -> None:
    sent = events(
        stored,
        3,
        at=datetime(2026, 11, 24, 9, 30, 0, 123456, tzinfo=UTC),
        actor_ref="7d0c1f1e",
        user_email="thandi@example.com",
        request_id="request-0001",
    )
    with syslog_server(certificate.server) as server:
        assert delivery.deliver(syslog(server, certificate), batch_size=2) == 3
    assert server.received.ids == sent
    assert server.received.lines[0].startswith(
        b"<110>1 2026-11-24T09:30:00.123456Z app.example.com capecontrol - user_login [capecontrol@32473 "
        b'event_id="' + sent[0].encode() + b'" event_type="user_login" outcome="success" user_id="7d0c1f1e" '
        b'request_id="request-0001"] {'
    )


@pytest.mark.usefixtures("context")
def test_syslog_refuses_a_certificate_it_does_not_trust_or_of_another_host(
    certificate: Certificate, stored: Session, tmp_path: Path
) -> None:
    events(stored, 1)
    other = make_certificate(tmp_path, name="other")
    elsewhere = make_certificate(tmp_path, name="elsewhere", address="192.0.2.1")
    for serving, trusting in ((certificate, other), (elsewhere, elsewhere)):
        with syslog_server(serving.server) as server:
            assert delivery.deliver(syslog(server, trusting)) == 0
        assert "certificate is not valid" in (state(stored, "syslog").last_error or "")
        assert server.received.lines == []
        leave_no_pause(stored)


@pytest.mark.usefixtures("context")
def test_a_syslog_connection_cut_in_the_middle_sends_the_batch_again(certificate, stored: Session) -> None:
    sent = events(stored, 60, user_agent="x" * 900)
    with syslog_server(certificate.server) as server:
        server.breaks_after = 40_000
        assert delivery.deliver(syslog(server, certificate)) == 0
        assert server.received.lines, "it got some of them"
        assert state(stored, "syslog").last_error
        server.breaks_after = None
        leave_no_pause(stored)
        assert delivery.deliver(syslog(server, certificate)) == 60
    assert server.received.ids[-60:] == sent
    assert list(dict.fromkeys(server.received.ids)) == sent


@pytest.mark.usefixtures("context")
def test_a_syslog_receiver_that_is_down_gets_everything_when_it_is_back(certificate, stored: Session) -> None:
    port = free_port()
    receiver = SyslogReceiver(f"127.0.0.1:{port}", ca=str(certificate.file), hostname="app")
    sent = events(stored, 3)
    assert delivery.deliver(receiver) == 0
    leave_no_pause(stored)
    with syslog_server(certificate.server, port=port) as server:
        assert delivery.deliver(receiver) == 3
    assert server.received.ids == sent


@pytest.mark.usefixtures("context")
def test_a_syslog_receiver_that_is_slow_at_every_step_has_one_limit_for_all_of_them(
    certificate: Certificate, stored: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivers, "BATCH_SECONDS", 1.0)
    events(stored, 1)
    with syslog_server(certificate.server) as server:
        server.rests = 0.7
        assert delivery.deliver(syslog(server, certificate)) == 0
    kept = state(stored, "syslog")
    assert (kept.last_error, kept.delivered, kept.lease) == ("it did not answer in time", 0, None)


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("kind", ["http", "syslog"])
def test_a_name_with_many_silent_addresses_is_given_up(
    certificate: Certificate, stored: Session, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(receivers, "BATCH_SECONDS", 0.5)
    monkeypatch.setattr(receivers, "STEP_SECONDS", 0.3)
    events(stored, 1)
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):  # they fill its queue; who knocks next hears nothing
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(silent.getsockname())
        port = silent.getsockname()[1]
        found = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM) * 100
        find = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *args, **how: found if host == "many" else find(host, *args, **how)
        )
        receiver = {
            "http": HttpReceiver(f"http://many:{port}/", TOKEN),
            "syslog": SyslogReceiver(f"many:{port}", ca=str(certificate.file), hostname="app"),
        }[kind]
        began = time.monotonic()
        assert delivery.deliver(receiver) == 0
        assert time.monotonic() - began < 10
    assert state(stored, kind).last_error == "it did not answer in time"


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, list[str]]]:
    """Let the system's resolver hang on the name `slow` until the event is set, for 20 s at most; yield the event and
    the names it was asked for."""
    answers, asked = threading.Event(), []
    find = socket.getaddrinfo

    def find_slowly(host: str, *arguments: Any, **how: Any) -> Any:
        asked.append(host)
        if host == "slow":
            answers.wait(20)
            host = "127.0.0.1"
        return find(host, *arguments, **how)

    monkeypatch.setattr(socket, "getaddrinfo", find_slowly)
    yield answers, asked
    answers.set()
    for thread in threading.enumerate():
        if thread.name == "resolver":
            thread.join(10)


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("kind", ["http", "syslog"])
def test_a_name_nobody_resolves_is_given_up_within_the_batchs_time(
    certificate: Certificate, stored: Session, monkeypatch: pytest.MonkeyPatch, resolver, kind: str
) -> None:
    monkeypatch.setattr(receivers, "BATCH_SECONDS", 0.5)
    _, asked = resolver
    events(stored, 1)
    receiver = {
        "http": HttpReceiver("http://slow:9/", TOKEN),
        "syslog": SyslogReceiver("slow:9", ca=str(certificate.file), hostname="app"),
    }[kind]
    for _ in range(3):
        began = time.monotonic()
        assert delivery.deliver(receiver, is_patient=False) == 0
        assert time.monotonic() - began < 5
    kept = state(stored, kind)
    assert (kept.last_error, kept.failures, kept.lease) == ("its name was not resolved in time", 3, None)
    assert asked.count("slow") == 1, "a resolver that hangs is not asked again while it does"


@pytest.mark.usefixtures("context")
def test_a_resolver_that_answers_again_is_asked_anew(endpoint, stored: Session, monkeypatch, resolver) -> None:
    answers, asked = resolver
    port = urlsplit(endpoint.url).port
    receiver = HttpReceiver(f"http://slow:{port}/", TOKEN)
    monkeypatch.setattr(receivers, "STEP_SECONDS", 1.5)
    sent = events(stored, 2)
    assert delivery.deliver(receiver) == 0
    answers.set()
    assert delivery.deliver(receiver, is_patient=False) == 2
    assert endpoint.received.ids == sent
    sent += events(stored, 1)
    assert delivery.deliver(receiver) == 1
    assert asked.count("slow") >= 2


@pytest.mark.usefixtures("context")
def test_a_name_that_does_not_exist_is_told_as_the_system_tells_it(stored: Session) -> None:
    events(stored, 1)
    for host in ("nowhere.invalid", "a" * 70):
        assert delivery.deliver(HttpReceiver(f"http://{host}/", TOKEN), is_patient=False) == 0
        assert state(stored).last_error
        assert state(stored).last_error != "its name was not resolved in time"


@pytest.mark.usefixtures("context")
def test_a_syslog_receiver_that_closes_without_a_word_has_read_everything(certificate, stored: Session) -> None:
    sent = events(stored, 3)
    with syslog_server(certificate.server) as server:
        server.says_goodbye = False
        assert delivery.deliver(syslog(server, certificate)) == 3
    assert server.received.ids == sent


# What is told about it


@contextmanager
def configured(databases, **settings: object) -> Iterator[tuple[Flask, Session]]:
    """Yield an application with receivers, and a session on its database."""
    with databases.clone() as url:
        app = create_app(settings_for(url, **settings))
        with Session(create_engine(app.config["SETTINGS"].database_url, poolclass=NullPool)) as session:
            yield app, session
        dispose(app)
    delivery.configure(settings_for(url))


def test_states_and_metrics_say_how_it_goes(databases, certificate: Certificate) -> None:
    with http_endpoint() as endpoint:
        settings = {
            "audit_stream_url": endpoint.url,
            "audit_stream_token": TOKEN,
            "audit_syslog_address": f"127.0.0.1:{free_port()}",
            "audit_syslog_ca": str(certificate.file),
            "metrics_token": "metrics",
        }
        with configured(databases, **settings) as (app, session):
            events(session, 4)
            with app.app_context():
                fresh = {each.name: each for each in delivery_states()}
                assert {name: each.waiting for name, each in fresh.items()} == {"http": 4, "syslog": 4}
                assert all(each.lag_seconds > 0 and each.is_configured for each in fresh.values())
                assert delivery.deliver_all() == 4
                states = {each.name: each for each in delivery_states()}
            assert states["http"].delivered == 4
            assert (states["http"].waiting, states["http"].lag_seconds, states["http"].last_error) == (0, 0.0, None)
            assert states["http"].last_delivered_at is not None
            assert states["http"].destination == endpoint.url.partition("?")[0]
            assert states["syslog"].last_error == "Connection refused"
            assert (states["syslog"].waiting, states["syslog"].failed_total) == (4, 1)
            answer = app.test_client().get("/metrics", headers={"Authorization": "Bearer metrics"})
            assert 'capecontrol_audit_delivered_total{receiver="http"} 4.0' in answer.text
            assert 'capecontrol_audit_delivery_failures_total{receiver="syslog"} 1.0' in answer.text
            assert re.search(r'lag_seconds{receiver="syslog"} [0-9.]+', answer.text)


def test_whoever_looks_leaves_the_connection_for_failures_alone(databases) -> None:
    with configured(databases, audit_stream_url="https://logs.example.com/", metrics_token="metrics") as (app, session):
        events(session, 4)
        with app.app_context():
            engine = db.engines[AUDIT]
        with engine.connect():
            answer = app.test_client().get("/metrics", headers={"Authorization": "Bearer metrics"})
            with app.app_context():
                assert [each.waiting for each in delivery_states()] == [4]
        assert 'capecontrol_audit_delivered_total{receiver="http"} 0.0' in answer.text


def test_metrics_come_without_the_database_too() -> None:
    app = create_app(settings_for("postgresql://nobody@127.0.0.1:9/none", metrics_token="metrics"))
    answer = app.test_client().get("/metrics", headers={"Authorization": "Bearer metrics"})
    assert answer.status_code == 200
    assert "capecontrol_audit_delivered_total" not in answer.text
    dispose(app)


def test_without_receivers_nothing_is_kept(databases) -> None:
    with configured(databases) as (app, _), app.app_context():
        assert delivery.deliver_all() == 0
        assert delivery_states() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audit_stream_url", "http://logs.example.com/events"),
        ("audit_stream_url", "ftp://logs.example.com"),
        ("audit_stream_url", "https://user:password@logs.example.com/"),
        ("audit_stream_url", "logs.example.com"),
        ("audit_syslog_address", "logs.example.com"),
        ("audit_syslog_address", "logs.example.com:0"),
        ("audit_syslog_address", ":6514"),
        ("audit_syslog_ca", "/no/such/file.pem"),
    ],
)
def test_a_receiver_that_cannot_be_right_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="must"):
        settings_for("postgresql://nobody@127.0.0.1:9/none", **{name: value})


@pytest.mark.parametrize("value", ["https://logs.example.com/in?x=1", "http://127.0.0.1:9/", "http://localhost/"])
def test_a_receiver_that_can_be_right_is_taken(value: str) -> None:
    settings: Settings = settings_for("postgresql://nobody@127.0.0.1:9/none", audit_stream_url=value)
    try:
        check(settings)
    except SettingsError as refusal:
        pytest.fail(str(refusal))


# As it runs


def test_the_command_delivers_at_once_and_says_how_it_went(committed_app: Flask, stored: Session) -> None:
    url = committed_app.config["SETTINGS"].database_url
    sent = events(stored, 3)

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", "audit", "deliver"],
            cwd=REPOSITORY,
            env=environment_of_processes(url, **settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    port = free_port()
    failed = run(AUDIT_STREAM_URL=f"http://127.0.0.1:{port}/")
    assert failed.returncode == 1
    assert "0 delivered, 3 waiting, failing: Connection refused" in failed.stdout
    with http_endpoint(port=port) as endpoint:
        done = run(AUDIT_STREAM_URL=f"http://127.0.0.1:{port}/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 delivered, 0 waiting" in done.stdout
    assert endpoint.received.ids == sent
    assert "There is no receiver" in committed_app.test_cli_runner().invoke(args=["audit", "deliver"]).output


def test_the_worker_delivers_what_people_do(start_server: Callable[..., Any]) -> None:
    with http_endpoint() as endpoint:
        server = start_server(WEB_CONCURRENCY="1", AUDIT_STREAM_URL=endpoint.url, AUDIT_STREAM_TOKEN=TOKEN)
        made = requests.post(
            f"{server.url}/api/auth/v2/register",
            json={"full_name": "Thandi Nkosi", "email": "thandi@example.com", "password": PASSWORD},
            timeout=20,
        )
        assert made.status_code == 201, made.text
        deadline = time.monotonic() + 60
        while not endpoint.received.events and time.monotonic() < deadline:
            time.sleep(0.2)
    assert endpoint.received.events, server.log()
    assert endpoint.received.events[0]["metadata"]["event_code"] == "user_registration"
    assert PASSWORD not in json.dumps(endpoint.received.events)
