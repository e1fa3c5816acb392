"""record(): freeze an event now, write it in a savepoint just before the commit, and never lose or hide it.

The rules of the audit design, R1 to R15. A failure that leaves the main transaction usable is swallowed for the
person; the event then waits in the spool, is printed as one `AUDIT_SPILL {json}` line on stderr, counted (spilling.py),
and stored later (replay.py). Every other error rises as its own kind.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, SessionTransaction

from capecontrol import clock, each_second
from capecontrol.audit import events, inserts, savepoint, spilling
from capecontrol.audit.actor import Actor
from capecontrol.audit.breaker import Breaker
from capecontrol.audit.events import Event
from capecontrol.audit.frozen import as_refused, freeze
from capecontrol.audit.savepoint import Swallowed
from capecontrol.database import reason_of, short_transaction
from capecontrol.errors import Unavailable
from capecontrol.extensions import db

BREAKER_OPEN = "breaker_open"
UNKEPT = "This has to be on record, and nothing can take the record right now. Nothing was changed; please try again."

_PENDING = "audit_events"

breaker = Breaker()


def forget() -> None:
    """Begin without any memory of how writing went and of which installation this is, as a new process does."""
    global breaker
    breaker = Breaker()
    spilling.forget()


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
    frozen = freeze(kind, actor or on_behalf_of, details, subject_id, description)
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
    frozen = as_refused(freeze(kind, actor, details, subject_id, None), error=error, email=email, account_id=account_id)
    with clock.timed("audit"):
        if (reason := _write_apart(frozen)) is not None:
            spilling.spill([frozen], reason=reason, transaction_id=None)


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
    frozen = freeze(kind, None, details, None, None)
    reason = _write_apart(frozen)
    if reason is not None and or_spill:
        spilling.spill([frozen], reason=reason, transaction_id=None)
    return reason is None or or_spill


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
    must_be_kept = any(events.durability_of(frozen["event_type"]) == "must" for frozen in pending)
    swallowed = _try(connection, pending, whatever_it_costs=must_be_kept)
    if swallowed is None:
        return
    if spilling.installation.id is None:
        spilling.installation.id = savepoint.installation_id(connection)
    is_kept = spilling.spill(
        pending,
        reason=swallowed.reason,
        transaction_id=swallowed.transaction_id,
        refusal=UNKEPT if must_be_kept else None,
    )
    if must_be_kept and not is_kept:
        raise Unavailable(UNKEPT)


def _try(connection: Connection, pending: list[dict[str, Any]], *, whatever_it_costs: bool) -> Swallowed | None:
    """Write the events in one savepoint (R3, R14), unless the breaker says that it would be in vain (R12)."""
    is_admitted = breaker.admit()
    if not is_admitted and not whatever_it_costs:
        return Swallowed(BREAKER_OPEN, savepoint.transaction_id(connection))
    is_written: bool | None = None
    try:
        swallowed = savepoint.write(connection, inserts.in_strings(pending))
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
        statement, parameters = inserts.insert([frozen])
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
    spilling.health.written()
    if spilling.installation.id is None:
        each_second.wake()  # which asks, so that nobody has to when an event is swallowed
