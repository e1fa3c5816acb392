"""The record as a file: streamed in constant memory, itself recorded before its first byte and after its last.

NDJSON and JSON say everything as it is stored; what could break a line, hide text or steer a terminal is escaped in
JSON's own way. CSV is for spreadsheets: there such characters become spaces, and a cell that a spreadsheet would take
for a formula gets an apostrophe in front (OWASP, CSV injection).
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

import structlog
from prometheus_client import Counter
from sqlalchemy import (
    Boolean,
    ColumnElement,
    DateTime,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, ids
from capecontrol.audit import events, filtering, seals
from capecontrol.audit.actor import Actor
from capecontrol.audit.event_details import people
from capecontrol.audit.models import AuditLog, AuditSeal
from capecontrol.audit.recorder import record, record_failure
from capecontrol.audit.savepoint import reason_of
from capecontrol.audit.secret_keys import without_secrets_sql
from capecontrol.copy_out import CopyFailed, Rows, copy_out
from capecontrol.database import release_connection
from capecontrol.errors import Unavailable
from capecontrol.extensions import db

Format = Literal["ndjson", "csv", "json"]
Scope = Callable[[], AbstractContextManager[object]]

FORMATS: dict[Format, str] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}
"""The formats and their content types."""

CHUNK_BYTES = 64 * 1024
COUNTED = 10_000
"""An export is announced with how many events it is going to have, counted no further than this."""

NO_ACCOUNT = "no account"
"""What the record keeps of a person who was asked for and has no account here."""

_COUNT_MS = 800
_SAFETY = timedelta(minutes=5)

# What is no text in a line: DEL, the C1 controls, line and paragraph separators, marks that turn the direction of
# what follows, and the byte order mark. The C0 controls are handled where they are met: JSON has escaped them already.
_STRANGE_CHARACTERS = "".join(
    map(chr, (*range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF))
)
_STRANGE = re.compile(f"[{_STRANGE_CHARACTERS}]")

# A spreadsheet calculates what begins so; the wide forms are what some of them make of it themselves. Before it may
# stand spaces, and whatever becomes one in the file.
_FORMULA_STARTS = "=+-@\uff1d\uff0b\uff0d\uff20"
_SKIPPED_BEFORE = "".join(map(chr, range(1, 33))) + "\u00a0" + _STRANGE_CHARACTERS

_C0_TO_SPACES = bytes.maketrans(bytes([*range(32), 127]), b" " * 33)

_log = AuditLog.__table__
_FIELDS = (
    "id",
    "event_id",
    "created_at",
    "recorded_at",
    "event_type",
    "event_category",
    "event_level",
    "success",
    "user_id",
    "user_email",
    "user_role",
    "actor_ref",
    "subject_id",
    "event_description",
    "error_message",
    "ip_address",
    "user_agent",
    "endpoint",
    "http_method",
    "status_code",
    "response_time_ms",
    "request_id",
    "session_id",
    "risk_score",
    "metadata",
)
# Bound in the middle of a COPY the words would be unreadable: JSON goes out as the server writes it, because a CSV
# whose quote and delimiter never occur in it neither quotes nor doubles anything.
_AS_IT_IS = "FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02'"
_AS_TABLE = "FORMAT csv, HEADER true"

exported_total = Counter("capecontrol_audit_exports_total", "Exports of the audit log, by how they ended.", ["outcome"])
log = structlog.get_logger("audit_export")


class ExportInterrupted(Exception):
    """The file could not be sent whole. Raised in the middle of an answer, it cuts the connection."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events to export and as what; all the filters must hold.

    `person` is an address in any case, or an account's id. `after` is the first moment that counts, `before` the
    first that does not. `is_sealed`: each line has all that `audit verify --file` needs (seals.py), and `is_chain`: the
    public keys and the seals instead of events; only as NDJSON, and only whole, since what is left out would be missing
    there.
    """

    format: Format
    event: str | None = None
    person: str | None = None
    outcome: Literal["success", "refused"] | None = None
    after: datetime | None = None
    before: datetime | None = None
    is_sealed: bool = False
    is_chain: bool = False

    @classmethod
    def of(
        cls,
        file_format: Format,
        *,
        start: datetime | date | None,
        end: datetime | date | None,
        event: str | None = None,
        person: str | None = None,
        success: bool | None = None,
    ) -> "Wanted":
        """Return what is wanted between two days or moments, both included."""
        outcomes: dict[bool | None, Literal["success", "refused"] | None] = {True: "success", False: "refused"}
        return cls(
            file_format,
            event=event,
            person=person,
            outcome=outcomes.get(success),
            after=filtering.first_moment(start),
            before=filtering.moment_after(end),
        )

    @property
    def filters(self) -> dict[str, str]:
        """The filters that were given."""
        given = {
            "event": self.event,
            "person": self.person,
            "outcome": self.outcome,
            "after": self.after.isoformat() if self.after else None,
            "before": self.before.isoformat() if self.before else None,
            "with": "seals" if self.is_sealed else None,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def filename(self) -> str:
        """What the file is called, by the moment it was asked for."""
        return f"audit-{clock.now():%Y%m%dT%H%M%SZ}.{self.format}"


class Export:
    """One running export: its first rows are there, the rest comes with `chunks`."""

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
        self.events = 0
        self.bytes = 0
        self._id = export_id
        self._rows = rows
        self._last_seal: int | None = rows.beside if isinstance(rows, Rows) else None
        self._actor = actor
        self._scope = scope
        self._resources = resources
        self._is_over = False

    def chunks(self) -> Iterator[bytes]:
        """Yield the file. Raises ExportInterrupted, after a last line that says so, when the database is lost."""
        try:
            for chunk in self._whole():
                self.bytes += len(chunk)
                yield chunk
        except CopyFailed as failure:
            reason = f"The database could not be read to the end ({failure})."
            yield _broken_off(self.wanted.format, reason, self.events)
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
            yield from _chain(up_to=self._last_seal)
        except CopyFailed as failure:
            reason = f"The seals could not be read ({failure})."
            self._end(reason)
            raise ExportInterrupted(reason) from None

    def close(self) -> None:
        """End the export whatever state it is in; an unfinished one is recorded as such. May be called again."""
        self._end("The reader went away before the end.")

    def _whole(self) -> Iterator[bytes]:
        kept: list[bytes] = []
        size = 0
        if self.wanted.format == "json":
            kept.append(b'{"audit_logs": [\n')
        for row in self._lines():
            kept.append(row)
            size += len(row)
            if size >= CHUNK_BYTES:
                yield _spelt_out(b"".join(kept), self.wanted.format)
                kept, size = [], 0
        if self.wanted.format == "json":
            kept.append(self._closing())
        if kept:
            yield _spelt_out(b"".join(kept), self.wanted.format)

    def _lines(self) -> Iterator[bytes]:
        if self.wanted.format == "ndjson":
            for row in self._rows:
                self.events += 1
                yield row
        elif self.wanted.format == "json":
            for row in self._rows:
                self.events += 1
                yield row if self.events == 1 else b"," + row
        else:
            yield next(self._rows)  # the header
            for row in self._rows:
                self.events += 1
                # A line break inside a cell is legal CSV and still a second line for whatever reads lines.
                yield row[:-1].translate(_C0_TO_SPACES) + b"\n"

    def _closing(self) -> bytes:
        about = {
            "start_date": self.wanted.after.isoformat() if self.wanted.after else None,
            "end_date": self.wanted.before.isoformat() if self.wanted.before else None,
            "filters": self.wanted.filters,
            "total_records": self.events,
            "exported_by": self._actor.email if self._actor else None,
            "export_timestamp": ids.created_at(self._id).isoformat(),
        }
        return f'], "export_info": {json.dumps(about)}}}\n'.encode()

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
                rows = resources.enter_context(rows_of(wanted))
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


@contextmanager
def rows_of(wanted: Wanted) -> Iterator[Iterator[bytes]]:
    """Yield the wanted events as lines of the format, oldest first. Raises CopyFailed."""
    if wanted.is_chain:
        yield _chain()
        return
    beside = None
    if wanted.format == "csv":
        found = select(*_cells()).where(*_conditions(wanted)).order_by(_log.c.created_at, _log.c.event_id)
        options = _AS_TABLE
    elif wanted.is_sealed:
        found = select(literal_column(seals.sealed_line_sql())).select_from(_log).order_by(_log.c.created_at)
        beside = select(func.coalesce(func.max(AuditSeal.number), 0))
        options = _AS_IT_IS
    else:
        line = select(*columns()).where(*_conditions(wanted)).subquery("line")
        found = select(cast(func.row_to_json(text("line")), Text)).select_from(line)
        found = found.order_by(line.c.created_at, line.c.event_id)
        options = _AS_IT_IS
    with copy_out(found, options=options, beside=beside) as rows:
        yield rows


def _chain(*, up_to: int | None = None) -> Iterator[bytes]:
    """Yield the public keys and the seals, each a line. Raises CopyFailed."""
    try:
        for line in seals.export_lines(up_to=up_to):
            yield f"{line}\n".encode()
    except SQLAlchemyError as failure:
        raise CopyFailed(reason_of(failure)) from None


def columns() -> list[ColumnElement[Any]]:
    """Return what a line of NDJSON or JSON is made of: the one place that chooses, for whoever needs more in it."""
    return [_metadata().label(name) if name == "metadata" else _log.c[name] for name in _FIELDS]


def _cells() -> list[ColumnElement[Any]]:
    """Return the columns of a CSV, as text that no spreadsheet calculates."""
    return [_cell(name).label(name) for name in _FIELDS]


def _cell(name: str) -> ColumnElement[Any]:
    if name == "metadata":
        return cast(_metadata(), Text)  # an object: it begins with a brace
    column = _log.c[name]
    if isinstance(column.type, DateTime):
        return func.replace(cast(column, Text), " ", "T") + ":00"  # in UTC, which PostgreSQL shortens to +00
    if isinstance(column.type, Boolean):
        return cast(column, Text)
    if not isinstance(column.type, Text):
        return column
    # Nearly every cell is let through by the code of its first character, which costs a tenth of looking closely.
    suspect = func.ascii(column).in_([ord(character) for character in _FORMULA_STARTS + _SKIPPED_BEFORE])
    first = func.left(func.ltrim(column, literal(_SKIPPED_BEFORE, Text)), 1)
    is_formula = and_(suspect, first != "", func.strpos(literal(_FORMULA_STARTS, Text), first) > 0)
    return case((is_formula, literal("'", Text) + column), else_=column)


def _metadata() -> ColumnElement[Any]:
    """Return the details without any key that names a secret."""
    return literal_column(without_secrets_sql("audit_logs.event_metadata"), JSONB)


def _conditions(wanted: Wanted) -> Iterator[ColumnElement[bool]]:
    if wanted.event is not None:
        yield _log.c.event_type == wanted.event
    if wanted.person is not None:
        yield filtering.is_about(wanted.person, _log.c)
    if wanted.outcome is not None:
        yield _log.c.success if wanted.outcome == "success" else ~_log.c.success
    if wanted.after is not None:
        yield _log.c.created_at >= wanted.after
    if wanted.before is not None:
        yield _log.c.created_at < wanted.before


def _spelt_out(chunk: bytes, file_format: Format) -> bytes:
    """Return the chunk with the strange characters outside ASCII's own controls made harmless.

    They stand inside strings only, so in JSON an escape says the same.
    """
    if chunk.isascii() and b"\x7f" not in chunk:
        return chunk
    words = chunk.decode()
    if file_format == "csv":
        return _STRANGE.sub(" ", words).encode()
    return _STRANGE.sub(lambda found: f"\\u{ord(found[0]):04x}", words).encode()


def _broken_off(file_format: Format, reason: str, events_sent: int) -> bytes:
    """Return the last line of a file that ends too early. A JSON file is left open, so that no program takes it."""
    said = json.dumps({"error": f"Not complete: {reason}", "events": events_sent})
    if file_format == "csv":
        return f'"ERROR: this file is not complete. {reason}"\n'.encode()
    return f"{',' if file_format == 'json' and events_sent else ''}{said}\n".encode()


def _put_on_record(wanted: Wanted, export_id: str, *, actor: Actor | None) -> bool:
    """Record the export and say whether it is in the table: what cannot be recorded does not leave (R11, must)."""
    begun_at = clock.now() - _SAFETY
    expected = _expected(wanted)
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
    return wanted.filters | {"person": NO_ACCOUNT}, f"An export of the audit log: only the events of {person}."


def _expected(wanted: Wanted) -> int | str | None:
    """Count the events as far as that is quick: a number, "10000 or more", or None where counting takes too long."""
    if wanted.is_chain:
        return None
    some = select(_log.c.id).where(*_conditions(wanted)).limit(COUNTED).subquery()
    try:
        connection = db.session.connection()
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_COUNT_MS}")
        counted = connection.execute(select(func.count()).select_from(some)).scalar_one()
    except SQLAlchemyError as error:
        log.info("export_not_counted", kind=type(error).__name__)
        return None
    finally:
        release_connection()
    return f"{COUNTED} or more" if counted == COUNTED else int(counted)


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
