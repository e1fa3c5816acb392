"""What machines are told about the product, with each part broken for real."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Mapped, mapped_column, registry, relationship

from capecontrol import clock, create_app, each_second
from capecontrol.audit import alerts, events, recorder, replay, spilling
from capecontrol.extensions import db
from capecontrol.operations import readiness, tasks
from capecontrol.operations.readiness import Watch
from tests.conftest import dispose, settings_for

TOKEN = "a-token-for-machines-only"
NOBODY_THERE = "postgresql://postgres@127.0.0.1:9/nothing"
REPORTED = "INSERT INTO procrastinate_workers DEFAULT VALUES"
REFUSE_ALL = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION refuse();
"""
OLD_JOB = """
    INSERT INTO procrastinate_jobs (queue_name, task_name, scheduled_at)
    VALUES ('replies', 'conversations.make_reply', now() - interval '10 minutes')
"""

MAIL_NOBODY_TOOK = """
    INSERT INTO outgoing_mails (id, letter, recipient, state, attempts, last_trouble, created_at)
    VALUES ('1', 'alerts', 'ayanda@example.com', 'waiting', 1, 'connection refused', now())
"""


@pytest.fixture(autouse=True)
def _remembers_no_swallowed_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests made this process swallow: readiness tells it."""
    monkeypatch.setattr(spilling, "health", spilling.Health())


@pytest.fixture
def watched(databases) -> Iterator[Flask]:
    """Yield an application with METRICS_TOKEN, a database of its own and a worker that has just reported."""
    with databases.clone() as url:
        app = create_app(settings_for(url, metrics_token=TOKEN))
        change(app, REPORTED)
        yield app
        dispose(app)


@pytest.fixture
def ask(watched: Flask) -> Callable[[str], tuple[int, dict]]:
    """Return a function that asks /readyz with the token, looking afresh."""

    def asked(path: str = "/readyz") -> tuple[int, dict]:
        watched.extensions["readiness"] = Watch()
        answer = watched.test_client().get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        return answer.status_code, answer.json

    return asked


def change(app: Flask, statement: str) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_healthz_asks_nobody() -> None:
    app = create_app(settings_for(NOBODY_THERE))
    answer = app.test_client().get("/healthz")
    assert (answer.status_code, answer.text, answer.mimetype) == (200, "ok", "text/plain")
    assert app.test_client().head("/healthz").status_code == 200


def test_with_everything_well_all_is_ok(ask) -> None:
    status, body = ask()
    assert status == 200
    assert body["status"] == "ok"
    assert list(body["parts"]) == ["database", "migrations", "mapping", "audit", "queue", "worker", "mail"]
    assert {part["state"] for part in body["parts"].values()} == {"ok"}


@pytest.mark.parametrize(
    ("part", "breakage"),
    [
        ("audit", "ALTER TABLE audit_logs RENAME TO audit_logs_away"),
        ("audit", REFUSE_ALL),
        ("audit", "ALTER TABLE audit_logs DROP COLUMN event_id"),
        ("queue", OLD_JOB),
        ("queue", "DROP TABLE procrastinate_events CASCADE"),
        ("worker", "DELETE FROM procrastinate_workers"),
        ("worker", "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '2 minutes'"),
        ("mail", MAIL_NOBODY_TOOK),
    ],
)
def test_what_the_product_can_do_without_is_degraded_with_200(watched: Flask, ask, part: str, breakage: str) -> None:
    change(watched, breakage)
    status, body = ask()
    assert status == 200
    assert body["status"] == "degraded"
    assert [name for name, found in body["parts"].items() if found["state"] != "ok"] == [part]
    assert body["parts"][part]["detail"]


@pytest.mark.parametrize(
    ("part", "breakage"),
    [
        ("migrations", "UPDATE alembic_version SET version_num = 'of_another_release'"),
        ("migrations", "DELETE FROM alembic_version"),
        ("migrations", "DROP TABLE alembic_version"),
        ("mapping", "ALTER TABLE conversations RENAME TO conversations_away"),
        ("mapping", "ALTER TABLE users_v2 RENAME TO users"),
        ("mapping", "ALTER TABLE users_v2 DROP COLUMN full_name"),
    ],
)
def test_what_nothing_works_without_is_503(watched: Flask, ask, part: str, breakage: str) -> None:
    change(watched, breakage)
    status, body = ask()
    assert status == 503
    assert body["status"] == "down"
    assert body["parts"][part]["state"] == "down"
    assert body["parts"]["database"]["state"] == "ok"


def test_models_that_do_not_fit_together_are_503(ask) -> None:
    """The first version's incident: a relationship that cannot be resolved, found by the first query."""
    broken = registry()

    @broken.mapped
    class Lost:
        __tablename__ = "lost"
        id: Mapped[int] = mapped_column(primary_key=True)
        user = relationship("SomebodyNobodyDefined")

    try:
        status, body = ask()
    finally:
        broken.dispose()
    assert (status, body["parts"]["mapping"]["state"]) == (503, "down")
    assert ask()[0] == 200


def test_a_locked_audit_table_is_degraded_and_costs_a_tenth_of_a_second(watched: Flask, ask) -> None:
    ask()
    with watched.app_context(), db.engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE")
        started = time.perf_counter()
        status, body = ask()
        took = time.perf_counter() - started
    assert (status, body["parts"]["audit"]["state"]) == (200, "degraded")
    assert body["parts"]["mapping"]["state"] == "ok"
    assert took < 1.5


def test_a_process_that_swallowed_its_last_events_says_so(watched: Flask, ask, monkeypatch) -> None:
    monkeypatch.setattr(spilling, "health", spilling.Health(swallowed=3, is_degraded=True, last_reason="55P03"))
    status, body = ask()
    assert (status, body["parts"]["audit"]["state"]) == (200, "degraded")
    assert "55P03" in body["parts"]["audit"]["detail"]


def test_what_waits_and_a_breaker_that_is_open_are_told(watched: Flask, ask, audit_spool) -> None:
    each_second.of(watched).close()
    change(watched, "ALTER TABLE audit_logs RENAME TO audit_logs_away")
    for _ in range(6):
        with watched.app_context():
            recorder.record_failure(events.ACCESS_DENIED, actor=None, error="no", details={"wanted": "audit.search"})
    told = ask()[1]["parts"]["audit"]
    assert told["state"] == "degraded"
    assert "1 spool file " in told["detail"]
    assert str(audit_spool) in told["detail"]
    assert "The breaker is open" in told["detail"]
    change(watched, "ALTER TABLE audit_logs_away RENAME TO audit_logs")
    with watched.app_context():
        replay.replay()
    assert ask()[1]["parts"]["audit"] == {"state": "ok", "detail": "Events can be written."}


def test_a_spool_that_could_take_nothing_is_told_before_it_is_needed(watched: Flask, ask, audit_spool) -> None:
    audit_spool.write_text("a file, where a folder should be")
    told = ask()[1]["parts"]["audit"]
    assert told["state"] == "degraded"
    assert "AUDIT_SPOOL_DIR" in told["detail"]


def test_lines_set_aside_are_told_until_somebody_has_looked(watched: Flask, ask, audit_spool) -> None:
    audit_spool.mkdir(mode=0o700)
    (audit_spool / "unknown.1.bad").write_text("{")
    assert "could not be read" in ask()[1]["parts"]["audit"]["detail"]


def test_only_a_record_that_cannot_be_written_raises_the_alert(watched: Flask, audit_spool) -> None:
    """What only waits for somebody to look would keep it from ever going quiet."""
    audit_spool.mkdir(mode=0o700)
    (audit_spool / "unknown.1.bad").write_text("{")
    with watched.app_context():
        tasks.watch_record(0)
        assert alerts.list_alerts() == []
        change(watched, REFUSE_ALL)
        tasks.watch_record(0)
        assert [alert.kind for alert in alerts.list_alerts()] == ["audit_degraded"]


def test_a_probe_writes_nothing(watched: Flask, ask) -> None:
    for _ in range(3):
        ask()
    with watched.app_context(), db.engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM audit_logs")).scalar() == 0


def test_a_database_that_is_gone_is_503(databases) -> None:
    with databases.clone() as url:
        app = create_app(settings_for(url))
        assert app.test_client().get("/readyz").status_code == 200
    app.extensions["readiness"] = Watch()
    answer = app.test_client().get("/readyz")
    dispose(app)
    assert (answer.status_code, answer.json) == (503, {"status": "down"})
    assert int(answer.headers["Retry-After"]) > 0


def test_a_database_that_was_never_there_is_503_in_json() -> None:
    client = create_app(settings_for(NOBODY_THERE)).test_client()
    for path in ("/api/health", "/api/health/"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert answer.mimetype == "application/json"
        assert answer.json == {
            "detail": "Not ready: database.",
            "errors": {},
            "status": "down",
            "parts": {"database": "down"},
        }
    assert client.head("/api/health").status_code == 503
    assert client.head("/readyz").status_code == 503


def test_the_public_answer_has_states_and_no_internals(watched: Flask, ask) -> None:
    change(watched, "ALTER TABLE audit_logs RENAME TO audit_logs_away")
    watched.extensions["readiness"] = Watch()
    for path in ("/api/health", "/api/health/"):
        answer = watched.test_client().get(path)
        assert answer.status_code == 200
        assert answer.json["status"] == "degraded"
        assert answer.json["parts"]["audit"] == "degraded"
        assert set(answer.json) == {"status", "parts"}
        assert "42P01" not in answer.text


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"Basic {TOKEN}", "Bearer ", f"Bearer {TOKEN}x", "Bearer \xff", TOKEN]
)
def test_details_are_for_holders_of_the_token(watched: Flask, header: str | None) -> None:
    answer = watched.test_client().get("/readyz", headers={"Authorization": header} if header else {})
    assert answer.json == {"status": "ok"}


def test_without_a_token_set_nobody_gets_details(databases) -> None:
    with databases.clone() as url:
        app = create_app(settings_for(url))
        for header in ("Bearer ", "Bearer", "bearer  "):
            answer = app.test_client().get("/readyz", headers={"Authorization": header})
            assert list(answer.json) == ["status"]
        dispose(app)


def test_a_look_is_kept_for_two_seconds(watched: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    real = readiness.look
    monkeypatch.setattr(readiness, "look", lambda: looks.append(1) or real())
    client = watched.test_client()
    for _ in range(5):
        client.get("/readyz")
    assert len(looks) == 1
    later = clock.monotonic() + readiness.FRESH_SECONDS
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    client.get("/readyz")
    assert len(looks) == 2


def test_while_one_looks_the_others_get_the_last_look(watched: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched.app_context():
        watch = Watch()
        first = watch.current()
    begun, go_on = threading.Event(), threading.Event()

    def slow_look() -> readiness.Readiness:
        begun.set()
        assert go_on.wait(10)
        return first

    later = clock.monotonic() + readiness.FRESH_SECONDS
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    monkeypatch.setattr(readiness, "look", slow_look)
    thread = threading.Thread(target=watch.current)
    thread.start()
    assert begun.wait(10)
    assert watch.current() is first  # at once, though the look is not over
    go_on.set()
    thread.join(10)


def test_a_busy_probe_connection_is_not_a_broken_database(watched: Flask, ask) -> None:
    with watched.app_context(), db.engines["audit"].connect():
        status, body = ask()
    assert (status, body["status"]) == (200, "degraded")


def test_a_connection_that_was_cut_is_replaced(watched: Flask, ask) -> None:
    assert ask()[0] == 200
    with watched.app_context():
        engine = create_engine(db.engine.url)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                    "AND application_name = 'capecontrol'"
                )
            )
        engine.dispose()
    assert ask()[0] == 200
