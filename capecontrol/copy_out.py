"""Reading a long result while the server still makes it: COPY on a connection of its own, in constant memory.

psycopg2 cannot COPY beside the wait callback that bounds its answers (database.py), so this is done with the worker's
driver. Its connection stands in for one of the requests' pool, whose place it holds: the number of connections a
process may have stays what it was.
"""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import ClientCursor, pq
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import URL

from capecontrol import clock
from capecontrol.config import libpq_url
from capecontrol.database import CONNECT_SECONDS, LOCK_MS
from capecontrol.extensions import db

ANSWER_SECONDS = 50.0
"""How long one wait for the server's next row may take; a router gives up on a silent answer after 55 s."""

STATEMENT_MS = 2 * 60 * 60 * 1000
"""A long file over a slow line takes hours, and the server's clock runs while the reader makes it wait."""

# Rows come along an index from the first on; sorting all of them first would fill the server's disk and keep the
# reader waiting. Whoever reads a file in the background has no claim to a second core.
_LIMITS = (
    f"SET LOCAL statement_timeout = {STATEMENT_MS}; SET LOCAL lock_timeout = {LOCK_MS}; "
    "SET LOCAL timezone = 'UTC'; SET LOCAL enable_sort = off; SET LOCAL jit = off; "
    "SET LOCAL max_parallel_workers_per_gather = 0"
)


class CopyFailed(Exception):
    """The server refused the statement or was lost; the text is a SQLSTATE or our own, never the server's words."""


class Rows(Iterator[bytes]):
    """The rows as they come, each a line of COPY's with its line break."""

    def __init__(self, connection: "psycopg.Connection[Any]", statement: bytes, *, beside: Any = None) -> None:
        """Send the statement and wait until its first row could come. Raises CopyFailed."""
        self.beside = beside
        self._pgconn = connection.pgconn
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)
        self._send(statement)

    def __next__(self) -> bytes:
        """Return the next row. Raises CopyFailed when the server is lost or the statement ends in an error."""
        try:
            length, row = self._pgconn.get_copy_data(1)
            while length == 0:
                self._wait()
                length, row = self._pgconn.get_copy_data(1)
        except psycopg.Error as error:
            raise CopyFailed(_state(error)) from None
        if length > 0:
            return bytes(row)
        self._finish()
        raise StopIteration

    def _send(self, statement: bytes) -> None:
        try:
            self._pgconn.send_query(statement)
            while self._pgconn.flush():
                self._wait()
            result = self._result()
        except psycopg.Error as error:
            raise CopyFailed(_state(error)) from None
        if result is None or result.status != pq.ExecStatus.COPY_OUT:
            raise CopyFailed(_state_of(result))

    def _finish(self) -> None:
        """Read how the statement ended: an error in its middle looks like the end of the rows until here."""
        try:
            result = self._result()
        except psycopg.Error as error:
            raise CopyFailed(_state(error)) from None
        if result is None or result.status != pq.ExecStatus.COMMAND_OK:
            raise CopyFailed(_state_of(result))

    def _result(self) -> Any:
        while self._pgconn.is_busy():
            self._wait()
        return self._pgconn.get_result()

    def _wait(self) -> None:
        ends_at = clock.monotonic() + ANSWER_SECONDS
        while not self._poll.poll(1000):
            if clock.monotonic() >= ends_at:
                raise CopyFailed("the database did not answer in time")
        self._pgconn.consume_input()


@contextmanager
def copy_out(rows: Select[Any], *, options: str, beside: Select[Any] | None = None) -> Iterator[Rows]:
    """Yield the rows of a select as COPY writes them with these options, such as `FORMAT csv`.

    The select's values are bound on this side, since COPY takes no parameters. `beside` asks for one value as it is in
    the same moment as the rows, which then have it. Leaving early ends the statement by closing its connection. Raises
    CopyFailed, and SQLAlchemy's TimeoutError when the pool has no place for a second.
    """
    engine = db.engines[None]
    place = engine.raw_connection()
    if place.driver_connection is not None:
        place.driver_connection.close()  # what is held from here on is its place
    try:
        with _connected(engine.url) as connection:
            value = connection.execute(_bound(connection, beside)).fetchone() if beside is not None else None
            statement = b"COPY (%b) TO STDOUT WITH (%b)" % (_bound(connection, rows), options.encode())
            yield Rows(connection, statement, beside=value and value[0])
    finally:
        place.invalidate()


@contextmanager
def _connected(url: URL) -> Iterator["psycopg.Connection[Any]"]:
    try:
        connection = psycopg.connect(
            libpq_url(url.render_as_string(hide_password=False)),
            connect_timeout=CONNECT_SECONDS,
            application_name="capecontrol-export",
            client_encoding="utf8",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            autocommit=True,
        )
    except psycopg.Error as error:
        raise CopyFailed(_state(error)) from None
    try:
        connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_LIMITS}")
        yield connection
    except psycopg.Error as error:
        raise CopyFailed(_state(error)) from None
    finally:
        connection.close()


def _bound(connection: "psycopg.Connection[Any]", rows: Select[Any]) -> bytes:
    compiled = rows.compile(dialect=PGDialect_psycopg(), compile_kwargs={"render_postcompile": True})
    return ClientCursor(connection).mogrify(str(compiled), dict(compiled.params)).encode()


def _state(error: psycopg.Error) -> str:
    return error.sqlstate or "the database was lost"


def _state_of(result: Any) -> str:
    state = result.error_field(pq.DiagnosticField.SQLSTATE) if result is not None else None
    return state.decode() if state else "the database was lost"
