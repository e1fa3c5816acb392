"""The audit log when it is long: read, exported, sealed and verified on one database of so many events."""

import tempfile
from pathlib import Path

from capecontrol import create_app
from capecontrol.audit import seals
from tests.conftest import dispose, settings_for
from tests.load import audit_export, audit_reading, proof
from tests.load.figures import Row
from tests.load.long_log import fill
from tests.load.product import durable_database, web_servers

SEALED_AT_FIRST = 10_000


def measure(rows: int, *, samples: int = audit_reading.SAMPLES) -> list[Row]:
    """Fill a database of its own with so many events and return the figures as rows of the table."""
    with durable_database() as database:
        app = create_app(settings_for(database.url))
        fill(database, SEALED_AT_FIRST)
        with app.app_context():
            seals.seal()  # what follows is sealed as in a database that is in use
        fill(database, rows, after=SEALED_AT_FIRST)
        counting = audit_reading.count_all_hours(app)
        ((heap, total),) = database.ask(
            "SELECT pg_relation_size('audit_logs') / 1e6, pg_total_relation_size('audit_logs') / 1e6"
        )
        found = [
            Row(f"**the audit log at {rows:,} events**", f"{heap:,.0f} MB, with indexes {total:,.0f} MB"),
            *audit_reading.measure(app, samples=samples),
            Row("counting all of it by the hour, for the statistics", f"{counting:.1f} s"),
            *proof.measure(database, app, rows),
        ]
        dispose(app)
        with (
            tempfile.TemporaryDirectory(prefix="capecontrol-bench-") as folder,
            web_servers(database, Path(folder), WEB_CONCURRENCY="1") as (server,),
        ):
            return found + audit_export.measure(server, database, rows)
