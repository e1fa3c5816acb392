"""record(): freeze an event now, write it in a savepoint just before the commit, and never lose or hide it.

The rules R1 to R7 of the audit design. A failure that leaves the main transaction usable is swallowed for the
person, printed as one `AUDIT_SPILL {json}` line on stderr and counted; every other error rises as its own kind.
"""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, SessionTransaction

from capecontrol import clock, ids
from capecontrol.audit.actor import Actor
from capecontrol.audit.commitments import commitment_of
from capecontrol.audit.events import Event
from capecontrol.audit.origin import Origin, current_origin
from capecontrol.database import short_transaction
from capecontrol.extensions import db

LOCK_MS = 100
STATEMENT_MS = 500

_PENDING = "audit_events"

# SQLSTATEs that leave the transaction usable after ROLLBACK TO: data and integrity (22, 23), rights and missing
# objects (42), resources (53), a trigger's RAISE (P0), feature not supported, lock not available, deadlock.
_SWALLOWED_CLASSES = ("22", "23", "42", "53", "P0")
_SWALLOWED_STATES = ("0A000", "55P03", "40P01")
_QUERY_CANCELED = "57014"

_COLUMNS = (
    "event_id",
    "user_id",
    "actor_ref",
    "user_email",
    "user_role",
    "subject_id",
    "event_type",
    "event_category",
    "event_level",
    "event_description",
    "ip_address",
    "user_agent",
    "endpoint",
    "http_method",
    "request_id",
    "session_id",
    "success",
    "error_message",
    "event_metadata",
    "created_at",
    "salt",
    "commitment",
)
_LENGTHS = {"user_agent": 1000, "endpoint": 255, "user_email": 320, "error_message": 1000, "request_id": 100}

# The limits go back to what they were: the caller's own may differ from the ladder's.
_BEFORE = (
    "SAVEPOINT audit; "
    "SELECT set_config('capecontrol.lock_timeout', current_setting('lock_timeout'), true), "
    "set_config('capecontrol.statement_timeout', current_setting('statement_timeout'), true); "
    f"SET LOCAL lock_timeout = {LOCK_MS}; SET LOCAL statement_timeout = {STATEMENT_MS}; "
)
_AFTER = (
    "; SELECT set_config('lock_timeout', current_setting('capecontrol.lock_timeout'), true), "
    "set_config('statement_timeout', current_setting('capecontrol.statement_timeout'), true); "
    "RELEASE SAVEPOINT audit"
)
_GIVE_UP = "ROLLBACK TO SAVEPOINT audit; RELEASE SAVEPOINT audit; SELECT pg_current_xact_id_if_assigned()::text"
_ROW = "(" + ", ".join("%s" for _ in _COLUMNS) + ")"

swallowed_total = Counter(
    "capecontrol_audit_swallowed_total",
    "Audit events that could not be written and went to stderr, by SQLSTATE or kind of error.",
    ["reason"],
)

unprinted_total = Counter(
    "capecontrol_audit_unprinted_total", "Swallowed audit events that standard error did not take either."
)


@dataclass(slots=True)
class Health:
    """What this process last saw of the audit table."""

    swallowed: int = 0
    is_degraded: bool = False
    last_reason: str | None = None


health = Health()
_installation: list[str] = []


def record(
    kind: Event,
    *,
    actor: Actor | None,
    details: Mapping[str, Any] | None = None,
    subject_id: str | None = None,
    description: str | None = None,
    on_behalf_of: Actor | None = None,
) -> None:
    """Remember that something happened, to be written with the session's next commit and dropped by its rollback.

    Runs no SQL (R1). `actor` is who did it and may be None (the system) but may not be left out; `on_behalf_of`
    names the person whose record it belongs to where the system acts. Raises ValueError when the details are not
    exactly the event's own.
    """
    frozen = _freeze(kind, actor or on_behalf_of, details, subject_id, description)
    if actor is None:
        frozen["actor_ref"] = None
    session = db.session()
    if not session.in_transaction():
        session.begin()  # sends nothing yet; without it a rollback would have nothing to tell us of
    session.info.setdefault(_PENDING, []).append(frozen)


def record_failure(
    kind: Event,
    *,
    actor: Actor | None,
    error: str,
    details: Mapping[str, Any] | None = None,
    subject_id: str | None = None,
    email: str | None = None,
    account_id: str | None = None,
) -> None:
    """Write at once that something was refused or failed, on a connection of its own; never raises (R7).

    To be called after the session's rollback. `error` is our own sentence or reason, never a driver's text.
    `email` and `account_id` say whom it concerns when nobody is proven to act.
    """
    frozen = _freeze(kind, actor, details, subject_id, None)
    frozen.update(
        success=False,
        error_message=_clean(error, "error_message"),
        user_email=_clean(email, "user_email") or frozen["user_email"],
        user_id=frozen["user_id"] or account_id,
    )
    frozen |= commitment_of(frozen)
    with clock.timed("audit"):
        try:
            with short_transaction() as connection:
                connection.exec_driver_sql(
                    f"SET LOCAL lock_timeout = {LOCK_MS}; SET LOCAL statement_timeout = {STATEMENT_MS}; " + _insert(1),
                    _parameters([frozen]),
                )
        except SQLAlchemyError as failure:
            _spill([frozen], reason=_reason(failure), xid=None)
        else:
            health.is_degraded = False


def record_refusal(kind: Event, *, actor: Actor | None, error: str, details: Mapping[str, Any]) -> None:
    """Record a refusal that happens before any service is reached; the door `web/` and `identity` may use."""
    record_failure(kind, actor=actor, error=error, details=details)


def install(session: Any) -> None:
    """Make every outermost commit of the session write its events, and every outermost rollback forget them."""
    if not event.contains(session, "before_commit", _write_pending):
        event.listen(session, "before_commit", _write_pending)
        event.listen(session, "after_soft_rollback", _forget_pending)


def _write_pending(session: Session) -> None:
    if session.in_nested_transaction():  # the hook fires for savepoints too (P14)
        return
    events = session.info.pop(_PENDING, [])
    if not events:
        return
    session.flush()  # outside any try: the main work's errors rise with their own type (R2)
    with clock.timed("audit"):
        _append(session.connection(), events)


def _forget_pending(session: Session, previous_transaction: SessionTransaction) -> None:
    if not previous_transaction.nested:
        session.info.pop(_PENDING, None)


def _append(connection: Connection, events: list[dict[str, Any]]) -> None:
    """Insert the events in one savepoint, sent as one string: one round trip however many there are (R3, R14)."""
    started = time.perf_counter()
    try:
        connection.exec_driver_sql(_BEFORE + _insert(len(events)) + _AFTER, _parameters(events))
    except DBAPIError as failure:
        if not _may_swallow(failure, connection, time.perf_counter() - started):
            raise
        xid = connection.exec_driver_sql(_GIVE_UP).scalar()
        _spill(events, reason=_reason(failure), xid=xid)
    else:
        health.is_degraded = False


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


def _spill(events: list[dict[str, Any]], *, reason: str, xid: str | None) -> None:
    """Print swallowed events where a log drain keeps them, and count them.

    A success event carries the transaction's xid8, because the line is printed before the commit: whoever puts it
    back asks `pg_xact_status` first, so no success is ever recorded that did not commit.
    """
    health.swallowed += len(events)
    health.is_degraded = True
    health.last_reason = reason
    swallowed_total.labels(reason=reason).inc(len(events))
    installation = _installation_id()
    for frozen in events:
        line = {**frozen, "event_metadata": json.loads(frozen["event_metadata"])}
        line |= {"reason": reason, "xid": xid, "installation": installation}
        _print(f"AUDIT_SPILL {json.dumps(line, default=str)}\n")


def _print(line: str) -> None:
    """Write to standard error. A full disk behind it must not undo what the person did; it is counted instead."""
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except OSError:
        unprinted_total.inc()


def _installation_id() -> str | None:
    if not _installation:
        try:
            with short_transaction() as connection:
                _installation.extend(connection.execute(text("SELECT id FROM installation")).scalars())
        except SQLAlchemyError:
            return None  # the line is printed without it; the next one asks again
    return _installation[0] if _installation else None


def _freeze(
    kind: Event,
    person: Actor | None,
    details: Mapping[str, Any] | None,
    subject_id: str | None,
    description: str | None,
) -> dict[str, Any]:
    details = dict(details or {})
    if details.keys() != kind.details:
        raise ValueError(
            f"{kind.name} takes the details {sorted(kind.details)}, not {sorted(details)}: see audit/events.py"
        )
    origin: Origin = current_origin()
    event_id = ids.new_id()
    frozen = {
        "event_id": event_id,
        "user_id": person.id if person else None,
        "actor_ref": person.id if person else None,
        "user_email": person.email if person else None,
        "user_role": person.role if person else None,
        "subject_id": subject_id,
        "event_type": kind.name,
        "event_category": kind.category,
        "event_level": kind.level,
        "event_description": description,
        "ip_address": origin.ip_address,
        "user_agent": _clean(origin.user_agent, "user_agent"),
        "endpoint": _clean(origin.endpoint, "endpoint"),
        "http_method": origin.http_method,
        "request_id": _clean(origin.request_id, "request_id"),
        "session_id": person.session_id if person else None,
        "success": True,
        "error_message": None,
        "event_metadata": json.dumps(_storable(details), default=str),
        "created_at": ids.created_at(event_id),
    }
    return frozen | commitment_of(frozen)


def _clean(value: str | None, column: str) -> str | None:
    """Return text PostgreSQL can hold: no NUL, no lone surrogates, no longer than the column is meant to be."""
    if value is None:
        return None
    return _storable(value)[: _LENGTHS.get(column)]


def _storable(value: Any) -> Any:
    """Return the value with all its text free of NUL and lone surrogates, which PostgreSQL refuses."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


def _insert(rows: int) -> str:
    return (
        f"INSERT INTO audit_logs ({', '.join(_COLUMNS)}) VALUES {', '.join([_ROW] * rows)} "  # noqa: S608 -- our own names only
        "ON CONFLICT (event_id) DO NOTHING"
    )


def _parameters(events: list[dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(frozen[column] for frozen in events for column in _COLUMNS)


def _reason(failure: SQLAlchemyError) -> str:
    state = getattr(getattr(failure, "orig", None), "pgcode", None)
    return state or type(failure).__name__
