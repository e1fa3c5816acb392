"""What sealing and verifying a long audit log cost, beside reading it."""

import os
import time
from collections.abc import Callable

import psycopg
from flask import Flask
from psycopg import sql

from capecontrol.audit import seals, verification
from capecontrol.config import libpq_url
from tests.load.figures import Row
from tests.load.product import Database

GOAL_ROWS, GOAL_SECONDS = 10_000_000, 180
CORES = min(2, os.cpu_count() or 1)


def measure(database: Database, app: Flask, rows: int) -> list[Row]:
    """Seal what is not sealed yet, verify all of it, then change one row past the triggers and verify again."""
    url = libpq_url(database.url)
    with app.app_context(), psycopg.connect(url, autocommit=True) as connection:
        started = time.perf_counter()
        sealed = seals.seal()
        sealing = time.perf_counter() - started
        seals.seal()
        reading = _seconds(lambda: _read_all(connection))
        found = []
        alone = _seconds(lambda: found.append(verification.verify(url, processes=1)))
        together = _seconds(lambda: found.append(verification.verify(url, processes=CORES)))
        assert all(report.is_well and report.rows >= rows for report in found), found
        row_id = _change_one(database, rows // 2)
        (finding,) = verification.verify(url, processes=CORES).findings
        assert (finding.kind, finding.row_id) == ("altered_row", row_id)
        size = connection.execute("SELECT pg_total_relation_size('audit_seals')").fetchone()
        assert size
    goal = GOAL_ROWS / GOAL_SECONDS
    return [
        Row("sealing, rows a second", f"{sealed / sealing:,.0f}"),
        Row("seals, bytes a row", f"{size[0] / rows:,.0f}"),
        Row(
            f"verifying {rows:,} rows, one process",
            f"{alone:,.1f} s",
            f"reading them {reading:,.1f} s",
            _ratio(alone, reading),
        ),
        Row(
            f"verifying {rows:,} rows, {CORES} processes",
            f"{together:,.1f} s ({rows / together:,.0f} rows/s)",
            f"reading them {reading:,.1f} s",
            _ratio(together, reading),
            f"10,000,000 in {GOAL_SECONDS} s, so {goal:,.0f} rows/s",
            rows / together >= goal,
        ),
        Row("one changed row among them", "found and named", goal="found", is_reached=True),
    ]


def _read_all(connection: psycopg.Connection) -> None:
    with connection.cursor().copy("COPY audit_logs TO STDOUT") as copy:
        for _ in copy:
            continue


def _change_one(database: Database, place: int) -> int:
    """Change a row as the table's owner can, who may switch triggers off."""
    with psycopg.connect(libpq_url(database.url)) as connection:
        off, on = (sql.SQL(f"ALTER TABLE audit_logs {state} TRIGGER USER") for state in ("DISABLE", "ENABLE"))
        connection.execute(off)
        changed = connection.execute(
            "UPDATE audit_logs SET success = NOT success WHERE id = (SELECT id FROM audit_logs ORDER BY id "
            "OFFSET %s LIMIT 1) RETURNING id",
            (place,),
        ).fetchone()
        connection.execute(on)
    assert changed
    return int(changed[0])


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.1f}"
