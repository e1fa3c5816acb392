"""record(): freeze an event now, write it in a savepoint just before the commit, and never lose or hide it.

The rules of the audit design, R1 to R15. A failure that leaves the main transaction usable is swallowed for the
person; the event then waits in the spool (spool.py), is printed as one `AUDIT_SPILL {json}` line on stderr, counted,
and stored later (replay.py). Every other error rises as its own kind.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, compress
from typing import Any

from prometheus_client import Counter
from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, SessionTransaction

from capecontrol import clock, each_second, ids
from capecontrol.audit import events, savepoint, spool
from capecontrol.audit.actor import Actor
from capecontrol.audit.breaker import Breaker
from capecontrol.audit.commitments import commitment_of
from capecontrol.audit.degradation import Health
from capecontrol.audit.events import Event
from capecontrol.audit.origin import Origin, current_origin
from capecontrol.audit.savepoint import Swallowed
from capecontrol.database import reason_of, short_transaction
from capecontrol.errors import Unavailable
from capecontrol.extensions import db

BREAKER_OPEN = "breaker_open"
UNKEPT = "This has to be on record, and nothing can take the record right now. Nothing was changed; please try again."

ROWS_A_STATEMENT = 250
"""The limit of 500 ms is for one statement; this many rows take a tenth of it."""

STATEMENTS_A_STRING = 8
"""An answer is waited for 4 s (database.py); an import of thousands sends several strings, in the same savepoint."""

_PENDING = "audit_events"

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

_ROW = "(" + ", ".join("%s" for _ in _COLUMNS) + ")"

swallowed_total = Counter(
    "capecontrol_audit_swallowed_total",
    "Audit events that could not be written and went to stderr, by SQLSTATE or kind of error.",
    ["reason"],
)

health = Health()
breaker = Breaker()


@dataclass(slots=True)
class _Installation:
    """Which installation this process writes for: asked once, when the database answers anyway."""

    id: str | None = None


installation = _Installation()


def forget() -> None:
    """Begin without any memory of how writing went and of which installation this is, as a new process does."""
    global health, breaker
    health, breaker, installation.id = Health(), Breaker(), None


def record(
    kind: Event,
    *,
    actor: Actor | None,
    details: Mapping[str, Any] | None = None,
    subject_id: str | None = None,
    description: str | None = None,
    on_behalf_of: Actor | None = None,
    error: str | None = None,
    email: str | None = None,
    account_id: str | None = None,
) -> None:
    """Remember that something happened, to be written with the session's next commit and dropped by its rollback.

    Runs no SQL (R1). `actor` is who did it and may be None (the system) but may not be left out; `on_behalf_of`
    names the person whose record it belongs to where the system acts. With an `error`, in our own words, something was
    refused or failed and yet led to what is committed; `email` and `account_id` say whom it concerns. Raises ValueError
    when the details are not exactly the event's own. With an event that *must* be kept the commit raises Unavailable,
    and stores nothing, where neither the table nor the spool takes it.
    """
    frozen = _freeze(kind, actor or on_behalf_of, details, subject_id, description)
    if actor is None:
        frozen["actor_ref"] = None
    if error is not None:
        frozen = as_refused(frozen, error=error, email=email, account_id=account_id)
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
    frozen = as_refused(
        _freeze(kind, actor, details, subject_id, None), error=error, email=email, account_id=account_id
    )
    with clock.timed("audit"):
        if (reason := _write_apart(frozen)) is not None:
            _spill([frozen], reason=reason, transaction_id=None)


@contextmanager
def failures_recorded(
    kind: Event, *, actor: Actor, details: Mapping[str, Any] | None = None, subject_id: str | None = None
) -> Iterator[None]:
    """Undo and record what the database fails meanwhile, as an act of this kind that failed; its error goes on."""
    try:
        yield
    except SQLAlchemyError as failure:
        db.session.rollback()
        record_failure(kind, actor=actor, error=type(failure).__name__, details=details, subject_id=subject_id)
        raise


def record_apart(kind: Event, *, details: Mapping[str, Any], or_spill: bool = False) -> bool:
    """Write an event of the system itself, such as one about the record, on a connection of its own.

    Return whether it is written; what is not goes nowhere, and the caller keeps what it is about. With `or_spill`, for
    a caller that cannot, it goes the way of every event that is swallowed.
    """
    frozen = _freeze(kind, None, details, None, None)
    reason = _write_apart(frozen)
    if reason is not None and or_spill:
        _spill([frozen], reason=reason, transaction_id=None)
    return reason is None or or_spill


def record_refusal(kind: Event, *, actor: Actor | None, error: str, details: Mapping[str, Any]) -> None:
    """Record a refusal that happens before any service is reached; the door `web/` and `identity` may use."""
    record_failure(kind, actor=actor, error=error, details=details)


def install(session: Any) -> None:
    """Make every outermost commit of the session write its events, and every outermost rollback forget them."""
    if not event.contains(session, "before_commit", _write_pending):
        event.listen(session, "before_commit", _write_pending)
        event.listen(session, "after_soft_rollback", _forget_pending)


def as_refused(
    frozen: dict[str, Any], *, error: str, email: str | None = None, account_id: str | None = None
) -> dict[str, Any]:
    """Return the event as something that was tried and not done, for the reason `error`."""
    refused = frozen | {
        "success": False,
        "error_message": _clean(error, "error_message"),
        "user_email": _clean(email, "user_email") or frozen["user_email"],
        "user_id": frozen["user_id"] or account_id,
    }
    return refused | commitment_of(refused)


def insert(rows: Sequence[dict[str, Any]]) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that stores events, those there already left out, and its parameters."""
    statement = (
        f"INSERT INTO audit_logs ({', '.join(_COLUMNS)}) VALUES {', '.join([_ROW] * len(rows))} "  # noqa: S608 -- our own names only
        "ON CONFLICT (event_id) DO NOTHING"
    )
    return statement, tuple(frozen.get(column) for frozen in rows for column in _COLUMNS)


def _write_pending(session: Session) -> None:
    if session.in_nested_transaction():  # the hook fires for savepoints too (P14)
        return
    pending = session.info.pop(_PENDING, [])
    if not pending:
        return
    session.flush()  # outside any try: the main work's errors rise with their own type (R2)
    with clock.timed("audit"):
        try:
            _append(session.connection(), pending)
        except Unavailable:
            session.info[_PENDING] = pending  # whoever commits all the same is refused again
            raise


def _forget_pending(session: Session, previous_transaction: SessionTransaction) -> None:
    if not previous_transaction.nested:
        session.info.pop(_PENDING, None)


def _append(connection: Connection, pending: list[dict[str, Any]]) -> None:
    """Write the events of a transaction, or see to it that they are kept. Raises Unavailable (R11)."""
    must_be_kept = any(_durability(frozen) == "must" for frozen in pending)
    swallowed = _try(connection, pending, whatever_it_costs=must_be_kept)
    if swallowed is None:
        return
    if installation.id is None:
        installation.id = savepoint.installation_id(connection)
    is_kept = _spill(pending, reason=swallowed.reason, transaction_id=swallowed.transaction_id, or_refuse=must_be_kept)
    if must_be_kept and not is_kept:
        raise Unavailable(UNKEPT)


def _try(connection: Connection, pending: list[dict[str, Any]], *, whatever_it_costs: bool) -> Swallowed | None:
    """Write the events in one savepoint (R3, R14), unless the breaker says that it would be in vain (R12)."""
    is_admitted = breaker.admit()
    if not is_admitted and not whatever_it_costs:
        return Swallowed(BREAKER_OPEN, savepoint.transaction_id(connection))
    is_written: bool | None = None
    try:
        swallowed = savepoint.write(connection, _strings(pending))
        is_written = swallowed is None
    finally:
        if is_admitted:
            breaker.settle(is_written)
    if is_written:
        _written()
    return swallowed


def _write_apart(frozen: dict[str, Any]) -> str | None:
    """Write an event in a short transaction of its own; return why not, where it is not written."""
    if not breaker.admit():
        return BREAKER_OPEN
    is_written: bool | None = None
    try:
        statement, parameters = insert([frozen])
        with short_transaction() as connection:
            connection.exec_driver_sql(savepoint.LIMITS + statement, parameters)
        is_written = True
    except PoolTimeout as failure:  # others write something short: it says nothing about the table
        return reason_of(failure)
    except SQLAlchemyError as failure:
        is_written = False
        return reason_of(failure)
    finally:
        breaker.settle(is_written)
    _written()
    return None


def _written() -> None:
    health.written()
    if installation.id is None:
        each_second.wake()  # which asks, so that nobody has to when an event is swallowed


def _strings(pending: list[dict[str, Any]]) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the statements that store the events, as one string; as more of them where there are thousands."""
    rows_a_string = ROWS_A_STATEMENT * STATEMENTS_A_STRING
    strings = []
    for beginning in range(0, len(pending), rows_a_string):
        together = pending[beginning : beginning + rows_a_string]
        chunks = [together[at : at + ROWS_A_STATEMENT] for at in range(0, len(together), ROWS_A_STATEMENT)]
        statements, parameters = zip(*map(insert, chunks), strict=True)
        strings.append(("; ".join(statements), tuple(chain.from_iterable(parameters))))
    return strings


def _spill(pending: list[dict[str, Any]], *, reason: str, transaction_id: str | None, or_refuse: bool = False) -> bool:
    """Keep swallowed events in the spool, in memory where that is full, and always print them; count and tell.

    Return whether all that may not be lost are on the disk; with `or_refuse` they become, where they are not, events
    of something that was refused. A line carries the transaction's xid8, because it is written before the commit:
    whoever stores it later asks what became of that, so no success is ever recorded that did not commit (R9).
    """
    health.failed(len(pending), reason)
    swallowed_total.labels(reason=reason).inc(len(pending))

    def line(frozen: dict[str, Any]) -> str:
        told = {**frozen, "event_metadata": json.loads(frozen["event_metadata"])}
        told |= {"reason": reason, "xid": transaction_id, "installation": installation.id}
        return json.dumps(told, default=_as_text)

    lines = [line(frozen) for frozen in pending]
    is_worth_a_flush = [_durability(frozen) != "best-effort" for frozen in pending]
    is_kept = _to_disk(list(compress(lines, is_worth_a_flush)))
    if or_refuse and not is_kept:
        lines = [line(as_refused(frozen, error=UNKEPT)) for frozen in pending]
    for each in lines:
        spool.print_line(each)
    spool.memory.add(
        [each for each, is_on_disk in zip(lines, is_worth_a_flush, strict=True) if not (is_kept and is_on_disk)]
    )
    each_second.wake()
    return is_kept


def _to_disk(lines: list[str]) -> bool:
    if lines:
        try:
            spool.spool.append(lines, installation.id)
        except OSError:
            spool.unspooled_total.inc(len(lines))
            return False
    return True


def _durability(frozen: dict[str, Any]) -> events.Durability:
    return events.durability_of(frozen["event_type"])


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


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
        "event_metadata": json.dumps(storable(details), default=str),
        "created_at": ids.created_at(event_id),
    }
    return frozen | commitment_of(frozen)


def _clean(value: str | None, column: str) -> str | None:
    """Return text PostgreSQL can hold: no NUL, no lone surrogates, no longer than the column is meant to be."""
    if value is None:
        return None
    return storable(value)[: _LENGTHS.get(column)]


def storable(value: Any) -> Any:
    """Return the value with all its text free of NUL and lone surrogates, which PostgreSQL refuses."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value
