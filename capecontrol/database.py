"""Engines, the timeout ladder inside the database, and what begins and ends a transaction."""

import math
import select
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
import structlog
from flask import Flask, current_app
from sqlalchemy import Connection, Engine, PoolProxiedConnection, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, configure_mappers

from capecontrol import clock, ids
from capecontrol.config import AUDIT_POOL, CHECK_POOL, Settings, in_a_web_process
from capecontrol.extensions import db

log = structlog.get_logger("database")


Parameters = Sequence[Any] | Mapping[str, Any]
Row = tuple[Any, ...]


class BoundedConnection(psycopg2.extensions.connection):
    """A connection whose every answer is waited for only so long.

    The server's own limits hold while it works. One that is frozen, or behind a network that swallows packets, works
    no more and would be waited for without end.
    """

    answer_seconds = 4.0  # a second more than the longest statement
    answered_at = -math.inf

    def rollback(self) -> None:
        """Undo what was not committed. Where the connection is gone, the server has done so.

        SQLAlchemy rolls back where nobody handles errors any more: an answer that is ready would be lost at the end of
        its application context, and the session with it stay for ever.
        """
        try:
            super().rollback()
        except psycopg2.Error:
            if not self.closed:
                raise

    def is_surely_alive(self) -> bool:
        """Say whether it has answered within the last second and nothing has come since, such as its end.

        A ping before each use would be a round trip before each statement of a storm.
        """
        if self.closed or clock.monotonic() - self.answered_at > TRUSTED_SECONDS:
            return False
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        return not poller.poll(0)


AUDIT = "audit"
"""The bind for events about operations that failed, and other short writes of their own: a pool apart from the
requests', so that a failed request's connection is never needed to say that it failed."""

CHECK = "check"
"""The bind for single look-ups that must be quick whatever else happens: a pool apart from the requests', where each
statement is its own transaction, without a begin, a commit or a ping around it. Use it through `look_up`."""

KEPT_FOR_LOOK_UPS = "kept_for_look_ups"
"""The application's extension that is its KeptConnection."""

WEB_PROCESS = "capecontrol-web-"
"""How the names begin under which web processes are connected; each goes on in its own way, so they can be counted."""

# Limits of separate steps whose sum stays under the request's budget of 8 s.
POOL_WAIT_SECONDS = 1
POOL_RECYCLE_SECONDS = 300
CONNECT_SECONDS = 2
STATEMENT_MS = 3000
LOCK_MS = 1000
IDLE_MS = 5000
LOOK_UP_MS = 1000

TRUSTED_SECONDS = 1
"""So long after its last answer a connection is used without being asked whether it lives."""

# SQLSTATEs that mean "not now": connection, resources, cancelled or shutting down, serialisation, lock.
_PASSING_CLASSES = ("08", "53", "57", "40", "55")
_READ_ONLY = "25006"  # as while a standby takes over, or a provider works on it

_BEGIN = (
    "SET LOCAL statement_timeout = {statement_ms}; "
    f"SET LOCAL lock_timeout = {LOCK_MS}; SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS}; "
    "SET LOCAL timezone = 'UTC'"  # pages and files say UTC, whatever the server's own zone
)


def engine_options(settings: Settings, *, pool_size: int, name: str = "capecontrol") -> dict[str, Any]:
    """Return options for a small pool without overflow, which waits at most a second for a connection; `name` is what
    the server calls its connections."""
    return {
        "url": settings.database_url,
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": POOL_WAIT_SECONDS,
        "pool_use_lifo": True,
        "pool_recycle": POOL_RECYCLE_SECONDS,
        "hide_parameters": True,  # an error's text goes to the log, and what people wrote must not
        "connect_args": {"application_name": name, "connection_factory": BoundedConnection},
    }


def init_app(app: Flask, settings: Settings) -> None:
    """Give the application its engines and prove that its mapping can work.

    A foreign key to a table nobody defines imports well and fails at the first query of another model: that was
    the first version's incident. Both calls below raise at once instead, so a bad mapping cannot start.
    """
    name = WEB_PROCESS + ids.new_id()[-12:] if in_a_web_process() else "capecontrol"
    app.config["SQLALCHEMY_BINDS"] = {
        None: engine_options(settings, pool_size=settings.database_pool, name=name),
        AUDIT: engine_options(settings, pool_size=AUDIT_POOL, name=name),
        CHECK: engine_options(settings, pool_size=CHECK_POOL, name=name)
        # What lives for one statement leaves nothing to undo.
        | {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None},
    }
    app.extensions[KEPT_FOR_LOOK_UPS] = KeptConnection(POOL_RECYCLE_SECONDS)
    psycopg2.extensions.set_wait_callback(wait_for_answer)
    db.init_app(app)
    configure_mappers()
    _ = db.metadata.sorted_tables
    with app.app_context():
        for bind, engine in db.engines.items():
            _install_limits(engine)
            if bind != CHECK:  # where a dead connection is noticed by its use
                _install_ping(engine)
    if in_a_web_process():  # a command has its own say, and doctor tells the sum too
        log.info(
            "database_connections",
            at_most=settings.connections_in_words,
            limit=settings.database_connection_limit,
        )


def wait_for_answer(connection: Any) -> None:
    """Wait for the server as psycopg2 would, but give up on a bounded connection when its time is over.

    A connection being made gets two seconds, an answer four, and neither more than the request has left:
    the steps of one whose database hangs would else add up beyond what anybody waits for. psycopg2 closes what is
    given up on, since an answer that comes after all would belong to nobody. Raises psycopg2.OperationalError.
    """
    is_new = connection.status == psycopg2.extensions.STATUS_SETUP
    limit = CONNECT_SECONDS if is_new else getattr(connection, "answer_seconds", None)
    ends_at = clock.monotonic() + clock.within_budget(limit) if limit else math.inf
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        left = ends_at - clock.monotonic()
        poller = select.poll()
        wanted = select.POLLIN if state == psycopg2.extensions.POLL_READ else select.POLLOUT
        poller.register(connection.fileno(), wanted)
        if left <= 0 or not poller.poll(None if left == math.inf else left * 1000):
            raise psycopg2.OperationalError("the database did not answer in time")
    if isinstance(connection, BoundedConnection):
        connection.answered_at = clock.monotonic()


@contextmanager
def short_transaction(pool: str | None = AUDIT) -> Iterator[Connection]:
    """Yield a connection in a short transaction apart from the request's session, committed at the end.

    `pool` is AUDIT, the small separate one, or None for the requests' own. Raises SQLAlchemy's errors.
    """
    with Session(db.engines[pool], join_transaction_mode="create_savepoint") as session, session.begin():
        yield session.connection()


class KeptConnection:
    """A process's one connection for look-ups, kept in hand for as long as a pool would keep it.

    Fetched from its pool and given back each time, that alone would take as long as all else a look-up does here.
    """

    def __init__(self, keep_seconds: float) -> None:
        """Hold nothing yet; the first look-up connects."""
        self.keep_seconds = keep_seconds
        self._in_use = threading.Lock()
        self._connection: PoolProxiedConnection | None = None
        self._since = -math.inf

    def first_row(self, statement: str, parameters: Parameters) -> Row | None:
        """Return a statement's first row; asked once more on a new connection where the old one was dead. One caller
        at a time. Raises psycopg2's errors, and SQLAlchemy's TimeoutError who waits longer than for a pool."""
        if not self._in_use.acquire(timeout=POOL_WAIT_SECONDS):
            raise PoolTimeout("the connection for look-ups was not free in time")
        try:
            return self._ask(statement, parameters)
        finally:
            if clock.monotonic() - self._since >= self.keep_seconds:
                self._give_back()
            self._in_use.release()

    def close(self) -> None:
        """Give the connection back to its pool, when nobody is using it."""
        with self._in_use:
            self._give_back()

    def _ask(self, statement: str, parameters: Parameters, *, is_last: bool = False) -> Row | None:
        if self._connection is None:
            self._connection, self._since = db.engines[CHECK].raw_connection(), clock.monotonic()
        connection = self._connection
        try:
            return _first_row(connection, statement, parameters)
        except psycopg2.Error as error:
            if not getattr(connection.driver_connection, "closed", True):
                raise
            self._connection = None
            connection.invalidate(error)
            if is_last:
                raise
        return self._ask(statement, parameters, is_last=True)

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def look_up(statement: str, parameters: Parameters) -> Row | None:
    """Return the first row of one statement in psycopg2's notation, or None; no session, no objects, one round trip.

    An AUTOCOMMIT connection has no beginning at which the ladder's limits could be set, and limits set for a session
    would go astray behind a transaction pooler. So the limit of one second travels in front of the statement: the
    server takes both as one transaction, in which SET LOCAL ends with it. A connection that turns out to be dead is
    replaced, and the statement, which must only read, is tried once more. Raises SQLAlchemyError.
    """
    watch = clock.Stopwatch()
    limited = f"SET LOCAL statement_timeout = {LOOK_UP_MS}; {statement}"
    kept: KeptConnection = current_app.extensions[KEPT_FOR_LOOK_UPS]
    try:
        return kept.first_row(limited, parameters)
    except psycopg2.Error as error:
        raise _as_sqlalchemy_has_it(error, statement) from error
    finally:
        watch.add_to("db")


def run_alone(statement: str, parameters: Parameters, *, lock_ms: int = LOCK_MS) -> Row | None:
    """Run one statement in psycopg2's notation as a transaction of its own; return its first row, or None. For a lock
    it waits `lock_ms` milliseconds.

    What a process does most when it has least time, drawing tickets and looking addresses up for it, comes this way:
    one round trip with the ladder's limits in front, as for a look-up, on a connection of the requests' own pool that
    is free again when this returns. What it wrote is committed then, and on the disk a moment later: it is for places
    and counts, which may be forgotten when the database's machine dies (decision 011). Raises SQLAlchemyError.
    """
    watch = clock.Stopwatch()
    milliseconds = int(clock.within_budget(STATEMENT_MS / 1000) * 1000)
    limited = (
        f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = {lock_ms}; "
        f"SET LOCAL synchronous_commit = off; {statement}"
    )
    try:
        with closing(db.engines[None].raw_connection()) as connection:
            driver: Any = connection.driver_connection
            driver.autocommit = True
            try:
                return _first_row(connection, limited, parameters)
            except psycopg2.Error as error:
                if driver.closed:
                    connection.invalidate(error)
                raise
            finally:
                if not driver.closed:
                    driver.autocommit = False
    except psycopg2.Error as error:
        raise _as_sqlalchemy_has_it(error, statement) from error
    finally:
        watch.add_to("db")


def _first_row(connection: PoolProxiedConnection, statement: str, parameters: Parameters) -> Row | None:
    cursor = connection.cursor()
    cursor.execute(statement, parameters)
    return cursor.fetchone() if cursor.description else None


def _as_sqlalchemy_has_it(error: psycopg2.Error, statement: str) -> Exception:
    return DBAPIError.instance(statement, None, error, psycopg2.Error, hide_parameters=True)


def is_passing(error: SQLAlchemyError) -> bool:
    """Say whether the trouble is one that passes: no connection, no room, a limit reached, a restart."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "pgcode", None)
    if state is None:  # the server said nothing
        return isinstance(error.orig, psycopg2.OperationalError | psycopg2.InterfaceError)
    return state == _READ_ONLY or state[:2] in _PASSING_CLASSES


def is_lost(error: SQLAlchemyError) -> bool:
    """Say whether the connection was lost before the server had answered: what was asked may have been done."""
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or getattr(error.orig, "pgcode", None) is None
    )


def reason_of(failure: SQLAlchemyError) -> str:
    """Return a failure's SQLSTATE, or the kind of error where the server said nothing; never the driver's text, which
    may hold an address."""
    return getattr(getattr(failure, "orig", None), "pgcode", None) or type(failure).__name__


def in_safe_words(error: BaseException) -> dict[str, Any]:
    """Return an error as fields of a log line: all of it, but for the text of a database error anywhere in its chain.

    PostgreSQL's DETAIL quotes the row that failed, and with it what people wrote.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    from_database = [part for part in chain if isinstance(part, DBAPIError | psycopg2.Error)]
    if not from_database:
        return {"exc_info": error}
    states = [getattr(getattr(part, "orig", part), "pgcode", None) for part in from_database]
    return {
        "kind": " from ".join(type(part).__name__ for part in chain),
        "sqlstate": next((state for state in states if state), None),
        "stack": "".join(traceback.format_tb(error.__traceback__)),
    }


def release_connection() -> None:
    """End the session's transaction, so that nothing is held while hashing, rendering or waiting. Where nobody has
    used the session it is not even made, which costs more than drawing a ticket's number."""
    if db.session.registry.has():
        db.session.rollback()


def _install_ping(engine: Engine) -> None:
    """Ask a connection whether it lives before it is used, unless it just was; a dead one has its whole pool replaced,
    as SQLAlchemy's own ping has it."""

    @event.listens_for(engine, "checkout")
    def prove_alive(connection: BoundedConnection, *_: Any) -> None:
        if connection.is_surely_alive():
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg2.Error as error:
            raise InvalidatePoolError from error


def _install_limits(engine: Engine) -> None:
    @event.listens_for(engine, "begin")
    def set_limits(connection: Connection) -> None:
        # SET LOCAL survives transaction pooling, where start-up options are refused or ignored.
        left = clock.within_budget(STATEMENT_MS / 1000)
        connection.exec_driver_sql(_BEGIN.format(statement_ms=int(left * 1000)))

    @event.listens_for(engine, "before_cursor_execute")
    def start_clock(connection: Connection, *_: Any) -> None:
        connection.info["statement"] = clock.Stopwatch()

    @event.listens_for(engine, "after_cursor_execute")
    def stop_clock(connection: Connection, *_: Any) -> None:
        connection.info["statement"].add_to("db")
