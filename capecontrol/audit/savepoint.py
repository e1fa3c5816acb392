"""Writing in one savepoint of somebody else's transaction, which goes on whatever comes of it (R3, R4, R5, R14)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from capecontrol.database import reason_of

LOCK_MS = 100
STATEMENT_MS = 500

LIMITS = f"SET LOCAL lock_timeout = {LOCK_MS}; SET LOCAL statement_timeout = {STATEMENT_MS}; "

# SQLSTATEs that leave the transaction usable after ROLLBACK TO: data and integrity (22, 23), rights and missing
# objects (42), resources (53), too large or too deep (54), a trigger's RAISE (P0), feature not supported, lock not
# available, deadlock.
_SWALLOWED_CLASSES = ("22", "23", "42", "53", "54", "P0")
_SWALLOWED_STATES = ("0A000", "55P03", "40P01")
_QUERY_CANCELED = "57014"

# The limits go back to what they were: the caller's own may differ from the ladder's (P7).
_BEFORE = (
    "SAVEPOINT audit; "
    "SELECT set_config('capecontrol.lock_timeout', current_setting('lock_timeout'), true), "
    "set_config('capecontrol.statement_timeout', current_setting('statement_timeout'), true); " + LIMITS
)
_AFTER = (
    "; SELECT set_config('lock_timeout', current_setting('capecontrol.lock_timeout'), true), "
    "set_config('statement_timeout', current_setting('capecontrol.statement_timeout'), true); "
    "RELEASE SAVEPOINT audit"
)

# An error stops PostgreSQL's clock for transaction_timeout and nothing starts it again (P8, bug 19896), so it is set
# to what is left of it: another value than before, which is what starts the clock. Before PostgreSQL 17 there is no
# such setting, and no row.
_REARM = (
    "SELECT set_config('transaction_timeout', greatest(1, setting::bigint - ceil(1000 * "
    "extract(epoch FROM clock_timestamp() - transaction_timestamp())))::bigint::text, true) "
    "FROM pg_settings WHERE name = 'transaction_timeout' AND setting <> '0'; "
)
# The transaction is given its number where it has none yet: with it, somebody can ask later what became of it.
_TRANSACTION_ID = "SELECT pg_current_xact_id()::text"
_GIVE_UP = "ROLLBACK TO SAVEPOINT audit; RELEASE SAVEPOINT audit; " + _REARM + _TRANSACTION_ID


@dataclass(frozen=True, slots=True)
class Swallowed:
    """Why nothing was written, and the number of the transaction that goes on without it."""

    reason: str
    transaction_id: str


def write(connection: Connection, strings: Sequence[tuple[str, tuple[Any, ...]]]) -> Swallowed | None:
    """Run statements in one savepoint, each string one round trip; None when all of them are done.

    A failure that leaves the transaction usable is swallowed and returned; any other is raised.
    """
    last = len(strings) - 1
    started = time.perf_counter()
    try:
        for number, (statement, parameters) in enumerate(strings):
            before, after = _BEFORE if number == 0 else "", _AFTER if number == last else ""
            started = time.perf_counter()
            connection.exec_driver_sql(before + statement + after, parameters)
    except DBAPIError as failure:
        if not _may_swallow(failure, connection, time.perf_counter() - started):
            raise
        return Swallowed(reason_of(failure), str(connection.exec_driver_sql(_GIVE_UP).scalar_one()))
    return None


def transaction_id(connection: Connection) -> str:
    """Return the number of the connection's transaction, its `xid8` as text."""
    return str(connection.exec_driver_sql(_TRANSACTION_ID).scalar_one())


def installation_id(connection: Connection) -> str | None:
    """Read which installation this is in a savepoint of its own, within the same limits; None when it cannot be."""
    statement = "SELECT set_config('capecontrol.installation', (SELECT id FROM installation), true)"
    if write(connection, [(statement, ())]) is not None:
        return None
    return connection.exec_driver_sql("SELECT current_setting('capecontrol.installation')").scalar_one() or None


def _may_swallow(failure: DBAPIError, connection: Connection, seconds: float) -> bool:
    """Say whether the transaction is still usable after this error (R5)."""
    if failure.connection_invalidated or connection.invalidated:
        return False
    driver = connection.connection.dbapi_connection
    if driver is None or driver.closed:
        return False
    state = getattr(failure.orig, "pgcode", None) or ""
    if state == _QUERY_CANCELED:
        # Ours only when the savepoint's own limit ran out; a cancel by an operator comes at any time.
        return seconds >= STATEMENT_MS / 1000 * 0.95
    return state[:2] in _SWALLOWED_CLASSES or state in _SWALLOWED_STATES
