"""What sealing and verifying the record cost: `python -m tests.load.proof --rows 10000000`.

Makes events as a product that is used leaves them, seals them as the worker does, verifies all of it, then changes one
row past the triggers and verifies again. Also a part for `make bench`: `measure` returns its rows of the table.
"""

import argparse
import os
import time
from collections.abc import Callable

import psycopg
from psycopg import sql

from capecontrol import create_app
from capecontrol.audit import seals, verification
from capecontrol.config import libpq_url
from tests.conftest import dispose, settings_for
from tests.load.figures import Row, machine, say, table
from tests.load.product import POSTGRES, Database, durable_database

GOAL_ROWS, GOAL_SECONDS = 10_000_000, 180
STEP = 500_000
FIRST = 10_000
CORES = min(2, os.cpu_count() or 1)

# A sign-in as it is stored; the commitment is made here, so that the trigger for those without one is not measured.
_MAKE = """
INSERT INTO audit_logs (event_id, actor_ref, user_email, user_role, event_type, event_category, event_level, ip_address,
    user_agent, endpoint, http_method, request_id, session_id, success, event_metadata, created_at, salt, commitment)
SELECT event_id, 'person-' || mod(n, 5000), email, 'client', 'user_login', 'authentication', 'info', '192.0.2.7', agent,
    'auth.log_in', 'POST', md5(n::text), md5((n / 7)::text), mod(n, 20) > 0, '{"method": "page", "remembered": false}',
    now() - (%(rows)s - n) * interval '3 seconds', salt,
    sha256(salt || convert_to(json_build_array(email, '192.0.2.7', agent, NULL, NULL)::text, 'UTF8'))
FROM (
    SELECT n, gen_random_uuid()::text AS event_id, 'person' || mod(n, 5000) || '@example.com' AS email,
        'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0' AS agent,
        decode(md5(n::text || 'salt'), 'hex') AS salt
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
) AS made
"""


def measure(database: Database, rows: int) -> list[Row]:
    """Fill an empty database with events, seal and verify them; return the figures as rows of the table."""
    url = libpq_url(database.url)
    app = create_app(settings_for(database.url))
    with app.app_context(), psycopg.connect(url, autocommit=True) as connection:
        say(f"{rows:,} events are being made")
        _make(connection, rows, 1, FIRST)
        seals.seal()  # what follows is sealed as in a database that is in use
        for first in range(FIRST + 1, rows + 1, STEP):
            _make(connection, rows, first, min(rows, first + STEP - 1))
        connection.execute("VACUUM ANALYZE audit_logs")
        sealing = _seconds(seals.seal)
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
    dispose(app)
    goal = GOAL_ROWS / GOAL_SECONDS
    return [
        Row("sealing, rows a second", f"{(rows - FIRST) / sealing:,.0f}"),
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


def _make(connection: psycopg.Connection, rows: int, first: int, last: int) -> None:
    connection.execute(_MAKE, {"rows": rows, "first": first, "last": last})


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


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description="Measure sealing and verifying the record.")
    arguments.add_argument("--rows", type=int, default=1_000_000)
    rows = max(2 * FIRST, arguments.parse_args().rows)
    with durable_database() as database:
        figures = measure(database, rows)
    say(machine(POSTGRES))
    say(table(figures))


if __name__ == "__main__":
    main()
