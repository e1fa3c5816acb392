"""The formats of an exported file, and what is made harmless in each.

NDJSON and JSON say everything as it is stored; what could break a line, hide text or steer a terminal is escaped in
JSON's own way. CSV is for spreadsheets: there such characters become spaces, and a cell that a spreadsheet would take
for a formula gets an apostrophe in front (OWASP, CSV injection).
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sqlalchemy import Boolean, ColumnElement, DateTime, Text, and_, case, cast, func, literal

Format = Literal["ndjson", "csv", "json"]

FORMATS: dict[Format, str] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}
"""The formats and their content types."""

CHUNK_BYTES = 64 * 1024

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


class File:
    """Rows, each a line with its line break, as a file of the format; `events` counts them as they leave.

    A CSV's first row is its header. `about` is what a JSON file says of itself at its end.
    """

    def __init__(self, file_format: Format, rows: Iterator[bytes], *, about: Mapping[str, Any]) -> None:
        """Begin."""
        self.events = 0
        self._format = file_format
        self._rows = rows
        self._about = about

    def chunks(self) -> Iterator[bytes]:
        """Yield the file in parts of some 64 kB."""
        kept: list[bytes] = []
        size = 0
        if self._format == "json":
            kept.append(b'{"audit_logs": [\n')
        for row in self._lines():
            kept.append(row)
            size += len(row)
            if size >= CHUNK_BYTES:
                yield self._spelt_out(b"".join(kept))
                kept, size = [], 0
        if self._format == "json":
            about = {**self._about, "total_records": self.events}
            kept.append(f'], "export_info": {json.dumps(about)}}}\n'.encode())
        if kept:
            yield self._spelt_out(b"".join(kept))

    def broken_off(self, reason: str) -> bytes:
        """Return the last line of a file that ends too early. A JSON file is left open, so that no program takes it."""
        said = json.dumps({"error": f"Not complete: {reason}", "events": self.events})
        if self._format == "csv":
            return f'"ERROR: this file is not complete. {reason}"\n'.encode()
        return f"{',' if self._format == 'json' and self.events else ''}{said}\n".encode()

    def _lines(self) -> Iterator[bytes]:
        if self._format == "ndjson":
            for row in self._rows:
                self.events += 1
                yield row
        elif self._format == "json":
            for row in self._rows:
                self.events += 1
                yield row if self.events == 1 else b"," + row
        else:
            yield next(self._rows)  # the header
            for row in self._rows:
                self.events += 1
                # A line break inside a cell is legal CSV and still a second line for whatever reads lines.
                yield row[:-1].translate(_C0_TO_SPACES) + b"\n"

    def _spelt_out(self, chunk: bytes) -> bytes:
        """Return the chunk with the strange characters outside ASCII's own controls made harmless.

        They stand inside strings only, so in JSON an escape says the same.
        """
        if chunk.isascii() and b"\x7f" not in chunk:
            return chunk
        words = chunk.decode()
        if self._format == "csv":
            return _STRANGE.sub(" ", words).encode()
        return _STRANGE.sub(lambda found: f"\\u{ord(found[0]):04x}", words).encode()


def cell(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column as a CSV has it: as text that no spreadsheet calculates."""
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
