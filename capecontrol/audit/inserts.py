"""The statements that store frozen events, with their parameters."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

ROWS_A_STATEMENT = 250
"""The limit of 500 ms is for one statement; this many rows take a tenth of it."""

STATEMENTS_A_STRING = 8
"""An answer is waited for 4 s (database.py); an import of thousands sends several strings, in the same savepoint."""

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
_ROW = "(" + ", ".join("%s" for _ in _COLUMNS) + ")"


def insert(rows: Sequence[dict[str, Any]]) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that stores events, those there already left out, and its parameters."""
    statement = (
        f"INSERT INTO audit_logs ({', '.join(_COLUMNS)}) VALUES {', '.join([_ROW] * len(rows))} "  # noqa: S608 -- our own names only
        "ON CONFLICT (event_id) DO NOTHING"
    )
    return statement, tuple(frozen.get(column) for frozen in rows for column in _COLUMNS)


def in_strings(pending: list[dict[str, Any]]) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the statements that store the events, as one string; as more of them where there are thousands."""
    rows_a_string = ROWS_A_STATEMENT * STATEMENTS_A_STRING
    strings = []
    for beginning in range(0, len(pending), rows_a_string):
        together = pending[beginning : beginning + rows_a_string]
        chunks = [together[at : at + ROWS_A_STATEMENT] for at in range(0, len(together), ROWS_A_STATEMENT)]
        statements, parameters = zip(*map(insert, chunks), strict=True)
        strings.append(("; ".join(statements), tuple(chain.from_iterable(parameters))))
    return strings
