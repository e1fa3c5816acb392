"""A line of the spool, or of a log behind `AUDIT_SPILL`: a swallowed event, as JSON."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from capecontrol import ids
from capecontrol.audit.frozen import storable

_NEEDED = ("event_id", "event_type", "event_category", "event_level", "created_at")
_FIRST_NORMAL_XID, _LAST_XID = 3, 2**64 - 1

# What may stand in front of a line in a drained log: a time, a host, a process. Never a part of some other entry's
# text, which could be anybody's: that is why nothing quoted, bracketed like an object or named with `=` may.
_IN_A_LOG = re.compile(r'^[^"{}=]*?\bAUDIT_SPILL (?=\{)')


class NoEvent(Exception):
    """The line cannot be read as an event."""


@dataclass(frozen=True, slots=True)
class Line:
    """A swallowed event, and the line it was read from."""

    raw: str
    frozen: dict[str, Any]
    transaction_id: str | None
    installation: str | None


def write(frozen: Mapping[str, Any], *, reason: str, transaction_id: str | None, installation: str | None) -> str:
    """Return the line that tells of a swallowed event, why it was swallowed, and where it belongs."""
    told = {**frozen, "event_metadata": json.loads(frozen["event_metadata"])}
    told |= {"reason": reason, "xid": transaction_id, "installation": installation}
    return json.dumps(told, default=_as_text)


def in_file(data: bytes) -> Iterator[str]:
    """Yield the lines of a file of the spool, the empty ones left out."""
    for line in data.split(b"\n"):
        if line.strip():
            yield line.decode("utf-8", "replace")


def in_log(log_lines: Iterable[str]) -> Iterator[str]:
    """Yield what stands behind the mark in the lines of a drained log that have it."""
    for line in log_lines:
        if match := _IN_A_LOG.match(line):
            yield line[match.end() :]


def read(raw: str, *, may_trail: bool = False) -> Line:
    """Return the event of a line, looked at closely; with `may_trail` something else may follow it. Raises NoEvent."""
    try:
        return _parsed(raw, may_trail=may_trail)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
        raise NoEvent from fault


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _parsed(raw: str, *, may_trail: bool) -> Line:
    """Return the event of a line. Raises ValueError, TypeError, KeyError or AttributeError where it holds none."""
    told, end = json.JSONDecoder().raw_decode(raw)
    if raw[end:].strip() and not may_trail:
        raise ValueError("more than one event")
    transaction_id, installation = told.pop("xid"), told.pop("installation")
    told.pop("reason")
    if not all(isinstance(told[name], str) for name in _NEEDED) or not isinstance(told["success"], bool):
        raise ValueError("no event")
    if not ids.is_uuid(told["event_id"]) or not isinstance(told["event_metadata"], dict):
        raise ValueError("no event")
    if datetime.fromisoformat(told["created_at"]).tzinfo is None:
        raise ValueError("no time")
    if transaction_id is not None and not _FIRST_NORMAL_XID <= int(transaction_id) <= _LAST_XID:
        raise ValueError("no transaction")
    if installation is not None and not isinstance(installation, str):
        raise ValueError("no installation")
    told = storable(told) | {"event_metadata": json.dumps(storable(told["event_metadata"]))}
    if not all(value is None or isinstance(value, str | int) for value in told.values()):
        raise ValueError("no event")
    return Line(raw[:end], {"user_id": None} | told, transaction_id, installation)
