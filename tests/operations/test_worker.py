"""The worker: replies are made whatever dies or restarts meanwhile, and it ends in order."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import psycopg2
import pytest
from flask import Flask
from procrastinate import JobContext
from structlog.testing import capture_logs

from capecontrol import config, create_app
from capecontrol.conversations import service
from capecontrol.extensions import db, jobs
from capecontrol.operations import tasks, worker
from tests.conftest import dispose, settings_for
from tests.live_server import REPOSITORY, LiveServer, environment_of_processes
from tests.people import make_person
from tests.postgres import Databases

# A worker whose provider never answers, and which says when it has been asked.
WITH_A_SILENT_PROVIDER = """
import sys, time
from capecontrol.conversations import replies
from wsgi import app
from capecontrol.operations.worker import run_worker

class Silent:
    name = "silent"
    def reply(self, question, session):
        print("asked", flush=True)
        time.sleep(600)

replies.connected_provider = Silent
run_worker(app)
"""


def ask(url: str, question: str = "How do I sign out?") -> str:
    """Post a question in a process-like application of its own; return the reply's id."""
    app = create_app(settings_for(url))
    person = make_person(app)
    with app.app_context():
        started = service.start(actor=person.actor, content=question)
    dispose(app)
    assert started.reply is not None
    return started.reply.id


def query(url: str, statement: str, *parameters: str) -> list[tuple]:
    with closing(psycopg2.connect(config.libpq_url(url))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


def status_of(url: str, reply_id: str) -> str:
    return str(query(url, "SELECT status FROM conversation_messages WHERE id = %s", reply_id)[0][0])


def wait_for(what: str, is_so: Callable[[], bool], *, seconds: float = 30) -> float:
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() - begun < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - begun


@pytest.fixture
def alone(databases: Databases, tmp_path: Path):
    """Yield a server of which nothing is started yet."""
    with databases.clone() as url:
        server = LiveServer(url, tmp_path)
        yield server
        server.stop()


def test_the_drivers_library_comes_with_the_package() -> None:
    """The pure one needs a libpq, which a dyno may lack."""
    assert psycopg.pq.__impl__ == "binary"


def test_the_worker_holds_no_more_connections_than_the_arithmetic_says() -> None:
    listening = 1
    assert listening + worker.QUEUE_POOL + worker.APPLICATION_POOL + config.AUDIT_POOL == config.WORKER_CONNECTIONS


def test_a_reply_is_made_and_its_job_is_gone(alone: LiveServer) -> None:
    reply_id = ask(alone.database_url)
    alone.start_worker()
    wait_for("the reply", lambda: status_of(alone.database_url, reply_id) == "complete")
    wait_for(
        "the job's end",
        lambda: (
            query(alone.database_url, "SELECT count(*) FROM procrastinate_jobs WHERE queue_name = 'replies'") == [(0,)]
        ),
    )
    later = ask(alone.database_url)
    took = wait_for("the reply", lambda: status_of(alone.database_url, later) == "complete")
    assert took < 4.5, "a job is announced, not found at the next look"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order(alone: LiveServer, number: signal.Signals) -> None:
    alone.start_worker()
    workers = "SELECT count(*) FROM procrastinate_workers"
    wait_for("the worker", lambda: query(alone.database_url, workers) == [(1,)])
    assert alone.worker is not None
    alone.worker.send_signal(number)
    assert alone.worker.wait(20) == 0
    assert "worker_stopped" in alone.log()
    assert "Traceback" not in alone.log()
    assert query(alone.database_url, workers) == [(0,)]


def test_a_reply_is_made_though_its_worker_was_killed_in_the_middle(alone: LiveServer) -> None:
    url = alone.database_url
    reply_id = ask(url)
    with subprocess.Popen(
        [sys.executable, "-c", WITH_A_SILENT_PROVIDER],
        cwd=REPOSITORY,
        env=environment_of_processes(url),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as doomed:
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == "asked\n"
        assert status_of(url, reply_id) == "streaming"
        doomed.kill()
    assert query(url, "SELECT status::text FROM procrastinate_jobs WHERE queue_name = 'replies'") == [("doing",)]
    # Half a minute of silence makes a worker dead; the test does not wait for it.
    query(url, "UPDATE procrastinate_workers SET last_heartbeat = last_heartbeat - interval '1 minute'")
    alone.start_worker()
    wait_for("the reply", lambda: status_of(url, reply_id) == "complete")
    assert query(url, "SELECT count(*) FROM audit_logs WHERE event_type = 'ai_response_generated'") == [(1,)]


def test_a_reply_is_made_though_its_job_was_lost(alone: LiveServer) -> None:
    url = alone.database_url
    reply_id = ask(url)
    query(url, "DELETE FROM procrastinate_jobs")
    query(url, "UPDATE conversation_messages SET created_at = created_at - interval '1 hour'")
    alone.start_worker()
    wait_for("the reply", lambda: status_of(url, reply_id) == "complete")


def test_it_comes_back_when_the_database_does(alone: LiveServer, databases: Databases) -> None:
    url = alone.database_url
    name = url.partition("?")[0].rpartition("/")[2]
    alone.start_worker()
    wait_for("the worker", lambda: "worker_started" in alone.log())
    databases._run(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
    databases._run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    wait_for("the loss", lambda: "worker_lost_database" in alone.log())
    time.sleep(4)
    databases._run(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
    reply_id = ask(url)
    wait_for("the return", lambda: "worker_connected_again" in alone.log())
    wait_for("the reply", lambda: status_of(url, reply_id) == "complete")
    assert alone.log().count("worker_lost_database") == 1
    assert "Traceback" not in alone.log()


def test_it_waits_for_the_release_step(empty_database_url: str, tmp_path: Path) -> None:
    server = LiveServer(empty_database_url, tmp_path)
    try:
        server.start_worker()
        wait_for("its word", lambda: "worker_lost_database" in server.log())
        assert "QueueMissing" in server.log()
        assert server.worker is not None
        assert server.worker.poll() is None
    finally:
        server.stop()


# Inside


def run_jobs(app: Flask, until: Callable[[], bool]) -> None:
    """Run a worker in this process until something is so."""

    async def run() -> None:
        stop = asyncio.Event()
        working = asyncio.create_task(worker.work(app, stop))
        for _ in range(300):
            await asyncio.sleep(0.05)
            if until():
                break
        stop.set()
        await working

    asyncio.run(run())


@pytest.fixture
def seen():
    """Yield what a task of the tests saw, and forget the task afterwards."""
    saw: list[object] = []

    @jobs.task(name="tests.look", queue="tests", pass_context=True)
    def look(context: JobContext, fail: bool = False) -> None:
        db.session.execute(db.text("SELECT 1"))
        saw.append((context.job.id, db.engines[None].pool.checkedout()))
        if fail:
            raise LookupError("a job that fails")

    yield saw
    jobs.tasks.pop("tests.look")


def order(app: Flask, count: int, **arguments: object) -> None:
    with app.app_context():
        for _ in range(count):
            jobs.configure_task("tests.look", queue="tests", connection=db.session.connection()).defer(**arguments)
        db.session.commit()


def test_each_job_has_an_application_and_gives_its_connection_back(committed_app: Flask, seen) -> None:
    order(committed_app, 8)
    order(committed_app, 4, fail=True)
    run_jobs(committed_app, lambda: len(seen) == 12)
    assert len({job for job, _ in seen}) == 12
    with committed_app.app_context():
        assert db.engines[None].pool.checkedout() == 0


def test_a_job_says_in_one_line_how_it_went(committed_app: Flask, seen) -> None:
    order(committed_app, 1)
    order(committed_app, 1, fail=True)
    with capture_logs() as lines:
        run_jobs(committed_app, lambda: len(seen) == 2)
    said = {line["job"]: (line["event"], line["log_level"]) for line in lines if line.get("task") == "tests.look"}
    assert sorted(said.values()) == [("job", "info"), ("job_failed", "error")]


def test_services_order_jobs_inside_a_worker_too(committed_app: Flask) -> None:
    """The queue's own connector is asynchronous there, and orders on the session's connection all the same."""
    person = make_person(committed_app)
    with committed_app.app_context():
        started = service.start(actor=person.actor, content="Hello")
    made: list[str] = []

    @jobs.task(name="tests.ask", queue="tests")
    def ask_again() -> None:
        made.append(service.post_message(started.conversation.id, "Again", actor=person.actor).reply.id)

    try:
        with committed_app.app_context():
            jobs.configure_task("tests.ask", queue="tests", connection=db.session.connection()).defer()
            db.session.commit()
        run_jobs(committed_app, lambda: bool(made) and _is_complete(committed_app, made[0]))
    finally:
        jobs.tasks.pop("tests.ask")
    assert _is_complete(committed_app, made[0])


def _is_complete(app: Flask, reply_id: str) -> bool:
    with app.app_context():
        found = db.session.execute(
            db.text("SELECT status FROM conversation_messages WHERE id = :id"), {"id": reply_id}
        ).scalar()
        return found == "complete"


def test_every_round_of_housekeeping_runs() -> None:
    periodic = {task.name for task in (each.task for each in jobs.periodic_registry.periodic_tasks.values())}
    assert periodic == {
        "audit.replay",
        "audit.seal",
        "audit.seal_full",
        "audit.purge",
        "audit.deliver",
        "operations.retry_stalled",
        "operations.order_lost",
        "operations.watch_record",
        "operations.count_audit_hours",
        "operations.forget",
        "operations.forget_jobs",
    }


def strand(app: Flask) -> str:
    """Leave a reply as a killed worker leaves it; return its id."""
    person = make_person(app)
    with app.app_context():
        started = service.start(actor=person.actor, content="Hello")
        db.session.execute(db.text("UPDATE procrastinate_jobs SET status = 'doing'"))
        db.session.execute(db.text("UPDATE conversation_messages SET status = 'streaming' WHERE role = 'assistant'"))
        db.session.commit()
    assert started.reply is not None
    return started.reply.id


def test_what_cannot_be_forgotten_keeps_nothing_else(committed_app: Flask) -> None:
    with committed_app.app_context():
        db.session.execute(
            db.text(
                "ALTER TABLE idempotency_keys RENAME TO away; "
                "INSERT INTO registration_tickets (id, email_mark, created_at) VALUES ('old', 'mark', '2020-01-01')"
            )
        )
        db.session.commit()
        with capture_logs() as lines, pytest.raises(RuntimeError, match=r"forget_old_keys$"):
            tasks.forget(timestamp=0)
        assert db.session.scalar(db.text("SELECT count(*) FROM registration_tickets")) == 0
    assert [(line["event"], line["step"], line["sqlstate"]) for line in lines] == [
        ("not_forgotten", "forget_old_keys", "42P01")
    ]


def test_the_worker_brings_back_what_is_stranded_without_the_periodic_jobs(
    committed_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.periodic_registry, "periodic_tasks", {})
    reply_id = strand(committed_app)
    run_jobs(committed_app, lambda: _is_complete(committed_app, reply_id))
    assert _is_complete(committed_app, reply_id)


def test_the_periodic_jobs_bring_back_what_is_stranded_without_the_worker(
    committed_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_sweep(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(worker, "_sweep", no_sweep)
    reply_id = strand(committed_app)
    with committed_app.app_context():
        db.session.execute(
            db.text("INSERT INTO rate_limit_counters VALUES ('old', 1, 1, 1), ('new', 1, 1, 99999999999)")
        )
        for name in ("retry_stalled", "order_lost", "forget", "forget_jobs"):
            jobs.configure_task(f"operations.{name}", queue="housekeeping", connection=db.session.connection()).defer(
                timestamp=0
            )
        db.session.commit()

    def is_done() -> bool:
        with committed_app.app_context():
            return db.session.scalar(db.text("SELECT count(*) FROM procrastinate_jobs")) == 0

    run_jobs(committed_app, lambda: is_done() and _is_complete(committed_app, reply_id))
    assert _is_complete(committed_app, reply_id)
    with committed_app.app_context():
        assert db.session.scalars(db.text("SELECT bucket FROM rate_limit_counters")).all() == ["new"]
