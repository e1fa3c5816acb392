"""Verifying the record in its database: every row against its seal, every seal against the chain.

Reads in one snapshot, which several processes share: one per core, each with its own part of the chain. The database
only hands out texts; what they hash to is computed here.
"""

import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import psycopg

from capecontrol.audit.evidence import LEAF, NOBODY, OWNER, Seal, fault_of, owner_mark
from capecontrol.audit.findings import Report, Walk
from capecontrol.audit.seals import personal_text_sql, sealed_text_sql

AT_ONCE = 16
"""How many seals a process takes at a time."""

WORTH_A_PROCESS = 500_000
"""Below this many sealed rows, starting another process takes longer than it saves."""

_ROWS = (
    f"COPY (SELECT place, id, {sealed_text_sql()}, user_id, encode(salt, 'hex'), {personal_text_sql()} "  # noqa: S608
    "FROM unnest((SELECT row_ids FROM audit_seals WHERE number = {number})) WITH ORDINALITY AS sealed (row_id, place) "
    "JOIN audit_logs ON id = row_id) TO STDOUT"
)
_UNSEALED = (
    "SELECT id, event_id, stored_xid::text::bigint AS xid, recorded_at FROM audit_logs WHERE NOT EXISTS "
    "(SELECT FROM (SELECT unnest(row_ids) AS id FROM audit_seals WHERE kind <> 'purge') AS sealed "
    "WHERE sealed.id = audit_logs.id) ORDER BY id"
)
_BACK_AGAIN = (
    "SELECT id, event_id FROM audit_seals CROSS JOIN unnest(row_ids) AS gone (row_id) JOIN audit_logs ON id = row_id "
    "WHERE number = %s ORDER BY id"
)
_TWICE = (
    "SELECT id FROM (SELECT unnest(row_ids) AS id FROM audit_seals WHERE kind <> 'purge') AS sealed "
    "GROUP BY id HAVING count(*) > 1 ORDER BY id LIMIT 1000"
)
_HEADERS = (
    "SELECT number, kind, installation, cluster, first_xid::text::bigint AS first_xid, "
    "last_xid::text::bigint AS last_xid, next_xid::text::bigint AS next_xid, next_id, count, root, purged, "
    "previous_hash, hash, key_id, signature, created_at"
)

_NULL = rb"\N"
_ESCAPED = re.compile(rb"\\(.)")
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


@dataclass(slots=True)
class _Part:
    """What a process found in its part of the chain; missing rows as pairs of seal and row."""

    report: Report = field(default_factory=Report)
    missing: array = field(default_factory=lambda: array("q"))
    purged: array = field(default_factory=lambda: array("q"))


def verify(
    url: str, *, processes: int = 2, trusted: Sequence[str] = (), anchors: dict[int, str] | None = None
) -> Report:
    """Verify the whole record of the database at libpq's address `url`. Raises psycopg.Error."""
    report = Report()
    with _reading(url, None) as connection:
        snapshot = _value(connection, "SELECT pg_export_snapshot()")
        walk = Walk(report, trusted=trusted, anchors=anchors)
        headers = [_seal(row) for row in connection.execute(f"{_HEADERS} FROM audit_seals ORDER BY number".encode())]
        for link in headers:
            walk.step(link)
        walk.end()
        numbers = [link.number for link in headers]
        tasks = [(url, snapshot, numbers[start : start + AT_ONCE]) for start in range(0, len(numbers), AT_ONCE)]
        is_small = sum(link.count for link in headers) < WORTH_A_PROCESS
        whole = _Part()
        with _workers(1 if is_small else processes) as run:
            parts = run(_check_links, tasks)
            in_no_seal = _find_unsealed(connection, headers[-1] if headers else None, report)
            for part in parts:
                report.merge(part.report)
                whole.missing.extend(part.missing)
                whole.purged.extend(part.purged)
        _tell_missing(whole, report)
        if _value(connection, "SELECT count(*) FROM audit_logs") != in_no_seal + report.rows:
            for (row_id,) in connection.execute(_TWICE.encode()):
                report.add("altered_seal", "more than one seal holds the row", row_id=row_id)
    return report


@contextmanager
def _workers(processes: int) -> Iterator[Any]:
    if processes == 1:
        yield map
        return
    # Not forked: the parent may have threads and connections.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool.map


def _check_links(task: tuple[str, str, list[int]]) -> _Part:
    """Check some links and the rows they hold."""
    url, snapshot, numbers = task
    part = _Part()
    with _reading(url, snapshot) as connection:
        keys = dict(connection.execute("SELECT key_id, public_key FROM audit_keys", binary=True).fetchall())
        for number in numbers:
            found = connection.execute(
                f"{_HEADERS}, row_ids, leaves, owners FROM audit_seals WHERE number = %s".encode(),
                (number,),
                binary=True,
            ).fetchone()
            link = _seal(found)
            part.report.seals += 1
            for kind, sentence in link.faults(keys.get(link.key_id)):
                part.report.add(kind, sentence, seal=number)
            if link.kind == "purge":
                part.purged.extend(link.row_ids)
                for row_id, event_id in connection.execute(_BACK_AGAIN, (number,)):
                    sentence = "it was purged, and is here again"
                    part.report.add("inserted_row", sentence, seal=number, row_id=row_id, event_id=event_id)
            elif len(link.leaves) == LEAF * len(link.row_ids) and len(link.owners) == OWNER * len(link.row_ids):
                _check_rows(connection, link, part)
    return part


def _check_rows(connection: psycopg.Connection[Any], link: Seal, part: _Part) -> None:
    """Compare the rows of one seal with it."""
    report, leaves, owners = part.report, link.leaves, link.owners
    is_here = bytearray(len(link.row_ids))
    disowned: list[tuple[int, bytes, bytes]] = []
    with connection.cursor().copy(_ROWS.format(number=link.number).encode()) as rows:
        for block in rows:
            line = bytes(block)
            columns = line[:-1].split(b"\t")
            if b"\\" in line:
                columns = [column if column == _NULL else _ESCAPED.sub(_unescape, column) for column in columns]
            index, row_id = int(columns[0]) - 1, int(columns[1])
            sealed_text, personal_text = columns[2], columns[5]
            user_id = None if columns[3] == _NULL else columns[3]
            salt = None if columns[4] == _NULL else bytes.fromhex(columns[4].decode())
            owner = owners[index * OWNER : index * OWNER + OWNER]
            is_here[index] = 1
            leaf = leaves[index * LEAF : index * LEAF + LEAF]
            fault = fault_of(row_id, sealed_text, user_id, salt, personal_text, leaf, owner)
            if fault is not None:
                event_id = json.loads(sealed_text)[1]
                report.add("altered_row", fault, seal=link.number, row_id=row_id, event_id=event_id)
            elif salt is None:
                report.erased += 1
            if user_id is None and owner != NOBODY:
                disowned.append((row_id, sealed_text, owner))
    _check_disowned(connection, link, disowned, report)
    report.rows += sum(is_here)
    for index, here in enumerate(is_here):
        if not here:
            part.missing.extend((link.number, link.row_ids[index]))


def _check_disowned(
    connection: psycopg.Connection[Any], link: Seal, disowned: list[tuple[int, bytes, bytes]], report: Report
) -> None:
    """Find rows that lost their `user_id` although the account is still there; only its deletion clears it."""
    actors = {}
    for row_id, sealed_text, owner in disowned:
        _, event_id, _, actor, *_ = json.loads(sealed_text)
        if actor is not None and owner_mark(row_id, actor.encode()) == owner:
            actors[row_id] = (actor, event_id)
    if not actors:
        return
    wanted = list({actor for actor, _ in actors.values()})
    living = {found for (found,) in connection.execute("SELECT id FROM users_v2 WHERE id = ANY(%s)", (wanted,))}
    for row_id, (actor, event_id) in actors.items():
        if actor in living:
            sentence = "its user_id was cleared, though the account is still there"
            report.add("altered_row", sentence, seal=link.number, row_id=row_id, event_id=event_id)


def _find_unsealed(connection: psycopg.Connection[Any], last: Seal | None, report: Report) -> int:
    """Count the rows behind the chain's end, and find those that stand in no seal though they stand before it.

    Return how many rows are in no seal.
    """
    count = 0
    cluster = _value(connection, "SELECT system_identifier::text FROM pg_control_system()")
    with connection.cursor(name="unsealed") as rows:
        rows.itersize = 10_000
        for row_id, event_id, xid, recorded_at in rows.execute(_UNSEALED.encode()):
            count += 1
            is_behind = last is None or last.cluster != cluster or (xid, row_id) > (last.next_xid, last.next_id)
            if is_behind:
                report.add_unsealed(recorded_at)
            else:
                report.add("inserted_row", "no seal holds it", row_id=row_id, event_id=event_id)
    return count


def _tell_missing(whole: _Part, report: Report) -> None:
    purged = array("q", sorted(whole.purged))
    for seal, row_id in zip(whole.missing[::2], whole.missing[1::2], strict=True):
        place = bisect_left(purged, row_id)
        if place < len(purged) and purged[place] == row_id:
            report.purged += 1
        else:
            report.add("missing_row", "it was sealed, is not here, and no purge took it", seal=seal, row_id=row_id)


@contextmanager
def _reading(url: str, snapshot: str | None) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection that reads one snapshot. The requests' driver cannot COPY beside the limits set for it."""
    with psycopg.connect(url, application_name="capecontrol-verify", autocommit=True) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if snapshot is not None:
            connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
        connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL work_mem = '64MB'")
        yield connection
        connection.execute("ROLLBACK")


def _value(connection: psycopg.Connection[Any], statement: Any) -> Any:
    row = connection.execute(statement).fetchone()
    return row[0] if row else None


def _seal(row: Any) -> Seal:
    names = (
        *("number", "kind", "installation", "cluster", "first_xid", "last_xid", "next_xid", "next_id", "count"),
        *("root", "purged", "previous_hash", "hash", "key_id", "signature", "created_at"),
        *("row_ids", "leaves", "owners"),
    )
    values = dict(zip(names, row, strict=False))
    return Seal(**({"row_ids": (), "leaves": b"", "owners": b""} | values))


def _unescape(found: re.Match[bytes]) -> bytes:
    return _CONTROLS.get(found[1], found[1])
