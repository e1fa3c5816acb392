"""Runs migrations one deploy at a time, giving up rather than making the running product wait."""

import time

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from capecontrol.config import current_settings
from capecontrol.extensions import db

LOCK_TIMEOUT = "4s"
STATEMENT_TIMEOUT = "60s"
WAIT_FOR_OTHER_DEPLOY_SECONDS = 30

# "capectl" in hexadecimal: the advisory lock two deploys compete for.
ADVISORY_LOCK = 0x63617065_63746C


def is_ours(_object: object, name: str | None, kind: str, _reflected: bool, _compare_to: object) -> bool:
    """Leave the job queue's own objects out of comparisons: its SQL is its maker's."""
    return not (kind == "table" and (name or "").startswith("procrastinate_"))


def run() -> None:
    """Migrate in one transaction, so that a refused migration changes nothing."""
    given = context.config.attributes.get("connection")
    if given is not None:
        _migrate(given)
        return
    engine = create_engine(current_settings().database_url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.commit()
        _wait_for_other_deploy(connection)
        _migrate(connection)
    engine.dispose()


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=db.metadata,
        include_object=is_ours,
        compare_type=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


def _wait_for_other_deploy(connection: Connection) -> None:
    """Take the advisory lock, which ends with this connection."""
    deadline = time.monotonic() + WAIT_FOR_OTHER_DEPLOY_SECONDS
    while not connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": ADVISORY_LOCK}).scalar():
        if time.monotonic() > deadline:
            raise SystemExit("Another deploy is migrating this database. Try again when it has finished.")
        time.sleep(0.25)
    connection.commit()


run()
