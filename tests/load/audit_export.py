"""The export of the audit log, measured: rows a second and memory, beside a bare COPY of the same table.

The export comes through gunicorn as a reader gets it; the limit is the driver copying the same rows to nowhere, on the
same table in the same run.
"""

import http.client
import json
import subprocess
import sys
import time
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]
import psycopg
import requests

from capecontrol.audit.export_formats import FORMATS
from capecontrol.config import libpq_url
from tests.live_server import REPOSITORY
from tests.load.figures import Row, tell_progress
from tests.load.product import Database, WebServer
from tests.people import PASSWORD

ROWS_GOAL = 100_000
MEMORY_GOAL_MB = 100
STAFF = "ayanda@example.com"

_BARE = (
    "COPY (SELECT row_to_json(line)::text FROM (SELECT * FROM audit_logs ORDER BY created_at, event_id) AS line) "
    "TO STDOUT WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
)


def measure(server: WebServer, database: Database, rows: int) -> list[Row]:
    """Export everything in each format, as a reader does who keeps nothing."""
    token = administrator_token(server)
    tell_progress("a bare COPY")
    bare = bare_rows_a_second(database, rows)
    return [row for name in FORMATS for row in measure_format(server, token, name, rows, bare)]


def bare_rows_a_second(database: Database, rows: int) -> float:
    """Copy the same rows as JSON with psycopg alone, the best of two."""
    best = 0.0
    with psycopg.connect(libpq_url(database.url)) as connection:
        connection.execute("SET enable_sort = off; SET max_parallel_workers_per_gather = 0; SET jit = off")
        for _ in range(2):
            started = time.perf_counter()
            with connection.cursor().copy(_BARE) as copy:
                for _line in copy:
                    pass
            best = max(best, rows / (time.perf_counter() - started))
    return best


def measure_format(server: WebServer, token: str, file_format: str, rows: int, bare: float) -> tuple[Row, Row]:
    """Fetch everything once."""
    tell_progress(f"export as {file_format}")
    web = psutil.Process(server.worker_pids()[0])
    before = web.memory_info().rss
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
    path = f"/api/audit/export?format={file_format}"
    started = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    first_byte = time.perf_counter() - started
    assert answer.status == 200, answer.read()
    size, highest, looked_at = 0, before, started
    while chunk := answer.read(1 << 20):
        size += len(chunk)
        if time.perf_counter() - looked_at > 0.2:
            looked_at = time.perf_counter()
            highest = max(highest, web.memory_info().rss)
    seconds = time.perf_counter() - started
    connection.close()
    rate = rows / seconds
    return (
        Row(
            f"export of {rows:,} events as {file_format}, {size / 1e6:,.0f} MB, first byte {first_byte * 1000:,.0f} ms",
            f"{rate:,.0f} rows/s",
            f"{bare:,.0f} rows/s, COPY alone",
            f"{rate / bare:.2f}",
            f">= {ROWS_GOAL:,} rows/s",
            rate >= ROWS_GOAL,
        ),
        Row(
            f"what the web process takes more meanwhile, {file_format}",
            f"{(highest - before) / 1e6:,.1f} MB",
            f"{before / 1e6:,.0f} MB before",
            f"{highest / before:.2f}",
            f"<= {MEMORY_GOAL_MB} MB",
            (highest - before) / 1e6 <= MEMORY_GOAL_MB,
        ),
    )


def administrator_token(server: WebServer) -> str:
    """Open an administrator's account and return a bearer token."""
    subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "auth", "create-admin", STAFF],
        cwd=REPOSITORY,
        env=server.environment,
        input=f"{PASSWORD}\n",
        text=True,
        capture_output=True,
        check=True,
    )
    answer = requests.post(
        f"{server.url}/api/auth/v2/login",
        data=json.dumps({"email": STAFF, "password": PASSWORD}),
        headers={"Content-Type": "application/json"},
        timeout=20,
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])
