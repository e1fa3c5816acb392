"""Exporting the record as an act: on record before the first byte leaves and after the last, whatever became of it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from typing import Any

from prometheus_client import Counter
from sqlalchemy import func, or_, select
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, ids
from capecontrol.audit import events, export_rows
from capecontrol.audit.actor import Actor
from capecontrol.audit.event_details import people
from capecontrol.audit.export_formats import File
from capecontrol.audit.export_rows import Wanted
from capecontrol.audit.models import AuditLog
from capecontrol.audit.recorder import record, record_failure
from capecontrol.audit.savepoint import reason_of
from capecontrol.copy_out import CopyFailed, Rows
from capecontrol.errors import Unavailable
from capecontrol.extensions import db

Scope = Callable[[], AbstractContextManager[object]]

NO_ACCOUNT = "no account"
"""What the record keeps of a person who was asked for and has no account here."""

_SAFETY = timedelta(minutes=5)

_log = AuditLog.__table__

exported_total = Counter("capecontrol_audit_exports_total", "Exports of the audit log, by how they ended.", ["outcome"])


class ExportInterrupted(Exception):
    """The file could not be sent whole. Raised in the middle of an answer, it cuts the connection."""


class Export:
    """One running export: its first rows are there, the rest comes with `chunks`. `bytes` counts what has left."""

    def __init__(
        self,
        wanted: Wanted,
        export_id: str,
        rows: Iterator[bytes],
        *,
        actor: Actor | None,
        scope: Scope,
        resources: ExitStack,
    ) -> None:
        self.wanted = wanted
        self.bytes = 0
        self._id = export_id
        self._last_seal: int | None = rows.beside if isinstance(rows, Rows) else None
        self._actor = actor
        self._scope = scope
        self._resources = resources
        self._is_over = False
        about = {
            "start_date": wanted.after.isoformat() if wanted.after else None,
            "end_date": wanted.before.isoformat() if wanted.before else None,
            "filters": wanted.filters,
            "exported_by": actor.email if actor else None,
            "export_timestamp": ids.created_at(export_id).isoformat(),
        }
        self._file = File(wanted.format, rows, about=about)

    @property
    def events(self) -> int:
        """How many events have left."""
        return self._file.events

    def chunks(self) -> Iterator[bytes]:
        """Yield the file. Raises ExportInterrupted, after a last line that says so, when the database is lost."""
        try:
            for chunk in self._file.chunks():
                self.bytes += len(chunk)
                yield chunk
        except CopyFailed as failure:
            reason = f"The database could not be read to the end ({failure})."
            yield self._file.broken_off(reason)
            self._end(reason)
            raise ExportInterrupted(reason) from None
        else:
            self._end(None)
        finally:
            self.close()

    def seals(self) -> Iterator[bytes]:
        """Yield the seals there were in the moment of a sealed export's rows, to be kept beside them.

        A later one would hold rows that are not in the file, and the purge be told of rows that are. Raises
        ExportInterrupted.
        """
        try:
            yield from export_rows.chain(up_to=self._last_seal)
        except CopyFailed as failure:
            reason = f"The seals could not be read ({failure})."
            self._end(reason)
            raise ExportInterrupted(reason) from None

    def close(self) -> None:
        """End the export whatever state it is in; an unfinished one is recorded as such. May be called again."""
        self._end("The reader went away before the end.")

    def _end(self, error: str | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._resources.close()
        exported_total.labels(outcome="interrupted" if error else "complete").inc()
        details = {
            "export_id": self._id,
            "format": self.wanted.format,
            "events": None if self.wanted.is_chain else self.events,
            "bytes": self.bytes,
        }
        with self._scope():
            _record_end(details, error, actor=self._actor)


def begin(wanted: Wanted, *, actor: Actor | None, scope: Scope, give_back: Callable[[], None] | None = None) -> Export:
    """Record that the record is exported, and begin to.

    `scope` is entered to record the end, when the request is long over; `give_back` is called then. Raises
    Unavailable, and nothing leaves, when the export cannot be put on record or the database not be read.
    """
    export_id = ids.new_id()
    resources = ExitStack()
    if give_back is not None:
        resources.callback(give_back)
    with ExitStack() as unless_begun:
        unless_begun.callback(resources.close)
        try:
            if _put_on_record(wanted, export_id, actor=actor):
                rows = resources.enter_context(export_rows.rows_of(wanted))
                unless_begun.pop_all()
                return Export(wanted, export_id, rows, actor=actor, scope=scope, resources=resources)
            reason = "it could not be put on record"
            told = "The export could not be put on record, so nothing was exported. Please try again later."
        except (CopyFailed, SQLAlchemyError) as failure:
            db.session.rollback()
            state = reason_of(failure) if isinstance(failure, SQLAlchemyError) else failure
            reason = f"the database could not be read ({state})"
            told = "The audit log cannot be read right now. Please try again in a moment."
    # The announcement may be stored all the same, now or from the spool.
    details = {"export_id": export_id, "format": wanted.format, "events": 0, "bytes": 0}
    _record_end(details, f"Nothing was exported: {reason}.", actor=actor)
    raise Unavailable(told)


def _put_on_record(wanted: Wanted, export_id: str, *, actor: Actor | None) -> bool:
    """Record the export and say whether it is in the table: what cannot be recorded does not leave (R11, must)."""
    begun_at = clock.now() - _SAFETY
    expected = export_rows.count(wanted)
    filters, description = _told_of(wanted)
    record(
        events.DATA_EXPORT,
        actor=actor,
        details={
            "what": "seals" if wanted.is_chain else "audit log",
            "export_id": export_id,
            "format": wanted.format,
            "filters": filters,
            "events": expected,
        },
        description=description,
    )
    db.session.commit()
    recorded = select(_log.c.id).where(
        _log.c.event_type == events.DATA_EXPORT.name,
        _log.c.created_at >= begun_at,
        _log.c.event_metadata["export_id"].astext == export_id,
    )
    is_on_record = db.session.execute(recorded.limit(1)).first() is not None
    db.session.rollback()
    return is_on_record


def _told_of(wanted: Wanted) -> tuple[dict[str, str], str | None]:
    """Return the filters without an address, since details are sealed for good, and a description, to be erased with
    the address in it."""
    if wanted.person is None:
        return wanted.filters, None
    person = wanted.person
    is_theirs = or_(people.c.id == person, people.c.email_key == func.lower(person), people.c.email == person)
    account = db.session.scalar(select(people.c.id).where(is_theirs).limit(1))
    if account is not None:
        return wanted.filters | {"person": account}, None
    return wanted.filters | {"person": NO_ACCOUNT}, events.ONLY_EVENTS_OF % person


def _record_end(details: dict[str, Any], error: str | None, *, actor: Actor | None) -> None:
    if error is not None:
        record_failure(events.DATA_EXPORT_ENDED, actor=actor, error=error, details=details)
        return
    try:
        record(events.DATA_EXPORT_ENDED, actor=actor, details=details)
        db.session.commit()
    except SQLAlchemyError:
        db.session.rollback()
        late = "The file was sent whole, but the database did not answer afterwards."
        record_failure(events.DATA_EXPORT_ENDED, actor=actor, error=late, details=details)
