"""The fixtures of all tests: the application on a rolled-back transaction, or committed, or as real processes.

Never hold an application context across calls of a client: the requests would share one `g`, and with it the person
who is signed in.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import TRANSACTION_STATUS_INERROR
from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.orm import Session

from capecontrol import create_app, each_second
from capecontrol.audit import recorder, spool
from capecontrol.auth import waiting_room
from capecontrol.config import Settings
from capecontrol.database import CHECK, KEPT_FOR_LOOK_UPS, LOCK_MS, STATEMENT_MS
from capecontrol.extensions import db
from tests.live_server import SECRET_KEY, LiveServer
from tests.postgres import Databases, RunServer

pytest_plugins = ("tests.people",)

RUN_SERVER = pytest.StashKey[RunServer]()


def pytest_configure(config: pytest.Config) -> None:
    """Forget the developer's settings; make ready for a PostgreSQL of this process.

    Compiled modules are kept whatever the developer prefers: a run starts a hundred processes, and each would compile
    the product anew, a tenth of a second long.
    """
    for name in (*Settings.model_fields, "dyno", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name.upper(), None)
    config.stash[RUN_SERVER] = RunServer()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out the tests of `pytest -n` in our own way, unless another is asked for."""
    from tests.distribution import ModulesWithServersTogether

    return ModulesWithServersTogether(config, log) if config.getoption("dist") == "load" else None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop this process's PostgreSQL, after Ctrl-C too."""
    if server := config.stash.get(RUN_SERVER, None):
        server.close()


@pytest.fixture(autouse=True)
def audit_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield where this test's swallowed events wait; what others made this process see of the table is forgotten."""
    folder = tmp_path / "audit-spool"
    monkeypatch.setenv("AUDIT_SPOOL_DIR", str(folder))
    spool.configure(str(folder), is_lost_at_restart=False)
    recorder.forget()
    yield folder
    spool.spool.close()


@pytest.fixture(autouse=True)
def _event_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let every test run a loop of its own: Playwright leaves its loop marked as this thread's between two calls."""
    if request.node.get_closest_marker("browser"):
        yield
        return
    playwright = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(playwright)


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Databases:
    """Return this process's PostgreSQL, which gives a migrated database to whoever asks."""
    return Databases(request.config.stash[RUN_SERVER])


@pytest.fixture(scope="session")
def _application(databases: Databases) -> Iterator[Flask]:
    with databases.clone() as url:
        app = create_app(settings_for(url))
        each_second.of(app).close()  # the one connection of a test belongs to one thread
        # Code under test commits; joined like this it only releases a savepoint of the test's transaction.
        db.session.session_factory.configure(join_transaction_mode="create_savepoint")
        yield app
        dispose(app)


@pytest.fixture
def connection(_application: Flask) -> Iterator[Connection]:
    """Yield the one connection everything in the test uses, in a transaction that is rolled back at its end."""
    with _application.app_context():
        engines = db.engines
    originals = dict(engines)
    with originals[None].connect() as connection, connection.begin() as transaction:
        # A test may think for longer than a request may.
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        # Flask-SQLAlchemy asks this mapping for each statement, so a session bound to the connection is not enough.
        engines.update(dict.fromkeys(originals, connection))  # type: ignore[attr-defined]
        engines[CHECK] = lender = _Lender(connection)  # type: ignore[index]
        connection.raw_connection = lender.raw_connection  # type: ignore[attr-defined]
        _application.extensions[KEPT_FOR_LOOK_UPS].keep_seconds = 0  # a savepoint each, as for what runs alone
        waiting_room.forget_figure()
        yield connection
        engines.update(originals)  # type: ignore[attr-defined]
        transaction.rollback()


class _Lender:
    """Lends the test's connection to what asks an engine for one of the driver's own: statements that run alone.

    Each is a savepoint of the test's transaction here, which a refused statement leaves as it was.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._savepoint: NestedTransaction | None = None
        self.driver_connection = SimpleNamespace(autocommit=True, closed=False)

    def raw_connection(self) -> "_Lender":
        self._savepoint = self._connection.begin_nested()
        return self

    def cursor(self):
        return self._connection.connection.cursor()

    def close(self) -> None:
        """Keep the connection, with the limits such a statement leaves where the transaction goes on."""
        assert self._savepoint is not None
        if self._connection.connection.driver_connection.info.transaction_status == TRANSACTION_STATUS_INERROR:
            self._savepoint.rollback()
        else:
            self._savepoint.commit()
        self._connection.exec_driver_sql(
            f"SET LOCAL statement_timeout = {STATEMENT_MS}; SET LOCAL lock_timeout = {LOCK_MS}"
        )


@pytest.fixture
def app(_application: Flask, connection: Connection) -> Flask:
    """Return the application, whose writes last until the end of the test."""
    return _application


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Return a browser without cookies; `app.test_client()` makes another."""
    return app.test_client()


@pytest.fixture
def db_session(connection: Connection) -> Iterator[Session]:
    """Yield the test's own session, to prepare rows and to look at them; apart from the application's."""
    with Session(connection, join_transaction_mode="create_savepoint", expire_on_commit=False) as session:
        yield session


@pytest.fixture
def committed_app(databases: Databases) -> Iterator[Flask]:
    """Yield the application on a database of its own, really committed: for threads, races and locks."""
    with databases.clone() as url:
        app = create_app(settings_for(url))
        yield app
        dispose(app)


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """Yield the address of a database without any table."""
    with databases.clone("template0") as url:
        yield url


@pytest.fixture(scope="module")
def live_server(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """Yield two web processes and a worker, shared by the tests of a module, with a database of their own.

    A module that needs less says so, because each process takes a second of a core: `LIVE_SERVER = {"worker": False,
    "WEB_CONCURRENCY": "1"}`.
    """
    settings = {"worker": True, **getattr(request.module, "LIVE_SERVER", {})}
    worker = settings.pop("worker")
    with databases.clone() as url:
        server = LiveServer(url, tmp_path_factory.mktemp("live"), **settings)
        try:
            server.start(worker=worker)
            yield server
        finally:
            server.stop()


@pytest.fixture
def start_server(databases: Databases, tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Yield a function that starts web and worker for this test alone, with the settings it is given.

    `start_server(WEB_CONCURRENCY="1")`, `start_server(worker=False)`; each call has a database of its own.
    """
    with ExitStack() as stack:

        def start(*, worker: bool = True, **settings: str) -> LiveServer:
            server = LiveServer(stack.enter_context(databases.clone()), tmp_path, **settings)
            stack.callback(server.stop)
            server.start(worker=worker)
            return server

        yield start


def settings_for(database_url: str, **changes: object) -> Settings:
    """Return the settings of tests: everything by default but rate limits, off, and what a password's hash costs.

    Two thousand are made in a run. They are argon2id's as always, far below the floor that nobody can set.
    """
    defaults: dict[str, object] = {"secret_key": SECRET_KEY, "ratelimit_enabled": False}
    settings = Settings(database_url=database_url, **(defaults | changes))
    cheapest = {"password_hash_memory_kib": 64, "password_hash_passes": 1}
    return settings.model_copy(update={name: cost for name, cost in cheapest.items() if name not in changes})


def dispose(app: Flask) -> None:
    """End what the application does by itself, and close its database connections."""
    each_second.of(app).close()
    app.extensions[KEPT_FOR_LOOK_UPS].close()
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()
