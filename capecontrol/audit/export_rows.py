"""What an export holds: the events that are wanted and the columns that may leave, read by one COPY."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

import structlog
from sqlalchemy import ColumnElement, Text, cast, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock
from capecontrol.audit import filtering, seals
from capecontrol.audit.export_formats import Format, cell
from capecontrol.audit.models import AuditLog, AuditSeal
from capecontrol.audit.savepoint import reason_of
from capecontrol.audit.secret_keys import without_secrets_sql
from capecontrol.copy_out import CopyFailed, copy_out
from capecontrol.database import release_connection
from capecontrol.extensions import db

COUNTED = 10_000
"""How many events an export is going to have is counted no further than this."""

_COUNT_MS = 800

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

log = structlog.get_logger("audit_export")


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


@contextmanager
def rows_of(wanted: Wanted) -> Iterator[Iterator[bytes]]:
    """Yield the wanted events as lines of the format, oldest first. Raises CopyFailed."""
    if wanted.is_chain:
        yield chain()
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
        line = select(*_columns()).where(*_conditions(wanted)).subquery("line")
        found = select(cast(func.row_to_json(text("line")), Text)).select_from(line)
        found = found.order_by(line.c.created_at, line.c.event_id)
        options = _AS_IT_IS
    with copy_out(found, options=options, beside=beside) as rows:
        yield rows


def chain(*, up_to: int | None = None) -> Iterator[bytes]:
    """Yield the public keys and the seals, each a line. Raises CopyFailed."""
    try:
        for line in seals.export_lines(up_to=up_to):
            yield f"{line}\n".encode()
    except SQLAlchemyError as failure:
        raise CopyFailed(reason_of(failure)) from None


def count(wanted: Wanted) -> int | str | None:
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


def _columns() -> Iterator[ColumnElement[Any]]:
    """Yield the columns of a line of NDJSON or JSON."""
    for name in _FIELDS:
        yield _metadata().label(name) if name == "metadata" else _log.c[name]


def _cells() -> Iterator[ColumnElement[Any]]:
    """Yield the columns of a CSV, as text that no spreadsheet calculates."""
    for name in _FIELDS:
        shown = cast(_metadata(), Text) if name == "metadata" else cell(_log.c[name])  # an object begins with a brace
        yield shown.label(name)


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
