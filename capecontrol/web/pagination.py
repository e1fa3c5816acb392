"""Keyset paging: a page is found by the last row before it, never by an offset."""

import base64
import binascii
from datetime import UTC, datetime
from typing import NamedTuple

from capecontrol.errors import Invalid


class Position(NamedTuple):
    """Where a page begins: the time and id of the last row of the page before."""

    at: datetime
    id: str


def encode(at: datetime, row_id: str) -> str:
    """Return the position after a row as an opaque cursor."""
    return base64.urlsafe_b64encode(f"{at.isoformat()}|{row_id}".encode()).decode().rstrip("=")


def decode(cursor: str | None) -> Position | None:
    """Return the position a cursor stands for. Raises Invalid when it is not one of ours."""
    if not cursor:
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, row_id = raw.partition("|")
        given = datetime.fromisoformat(at)
        position = Position(given.astimezone(UTC), row_id)
        if given.tzinfo is None or not row_id or "\x00" in row_id:
            raise ValueError(raw)
    except (ValueError, OverflowError, binascii.Error):
        raise Invalid({"cursor": ["This place in the list is unknown. Begin again with its first page."]}) from None
    return position
