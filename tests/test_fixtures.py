"""The fixtures keep their word: what a test writes is gone after it, and what runs for a test is the real thing."""

import http.client
from contextlib import closing

import pytest
from sqlalchemy import text

from capecontrol.database import short_transaction
from capecontrol.extensions import db

COUNT = text("SELECT count(*) FROM rate_limit_counters")


def insert(bucket: str):
    return text(f"INSERT INTO rate_limit_counters VALUES ('{bucket}', 1, 1, 1)")


@pytest.mark.parametrize("turn", ["first", "second"])
def test_what_the_application_commits_is_seen_by_the_test_and_gone_after_it(app, db_session, turn):
    with app.app_context():
        assert db.session.scalar(COUNT) == 0
        db.session.execute(insert("committed"))
        db.session.commit()
        with short_transaction() as connection:
            connection.execute(insert("on the other pool"))
        db.session.execute(insert("rolled back"))
        db.session.rollback()
    assert db_session.scalar(COUNT) == 2


@pytest.mark.parametrize("turn", ["first", "second"])
def test_the_committed_application_has_a_database_of_its_own(committed_app, turn):
    with committed_app.app_context():
        assert db.session.scalar(COUNT) == 0
        db.session.execute(insert("committed"))
        db.session.commit()
    with committed_app.app_context():
        assert db.session.scalar(COUNT) == 1


def test_the_live_server_is_web_and_worker(live_server):
    assert get(live_server, "/healthz") == 200
    assert live_server.web.poll() is None
    assert live_server.worker.poll() is None


def test_a_server_takes_settings_for_one_test(start_server):
    token = "a token of this test"
    server = start_server(worker=False, WEB_CONCURRENCY="1", METRICS_TOKEN=token)
    assert get(server, "/metrics", Authorization=f"Bearer {token}") == 200
    assert server.worker is None


def get(server, path: str, **headers: str) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)) as connection:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
