"""A migration never makes the running product wait long, and two never run at once."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import alembic.command
import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 -- a class with a small name

from capecontrol import create_app
from capecontrol.config import libpq_url
from tests.conftest import dispose, settings_for
from tests.live_server import REPOSITORY, environment_of_processes
from tests.postgres import Databases
from tests.test_migrations import tables

ADVISORY_LOCK = "x'6361706563746c'::bigint"  # "capectl", as migrations/env.py takes it
NOTES_ITS_LIMITS = """
from alembic import op

revision, down_revision = "noted", None

def upgrade():
    op.execute(
        "CREATE TABLE noted AS SELECT current_setting('lock_timeout') AS lock, "
        "current_setting('statement_timeout') AS statement, "
        "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS advisory"
    )
"""


@pytest.fixture
def other(empty_database_url: str) -> Iterator[Connection]:
    """Yield somebody else's connection to the same database."""
    with closing(psycopg2.connect(libpq_url(empty_database_url))) as connection:
        yield connection


def migrate(database_url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "wsgi", "db", *arguments],
        cwd=REPOSITORY,
        env=environment_of_processes(database_url),
        stderr=subprocess.PIPE,
        text=True,
    )


def complaints(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=90)[1]


def test_a_migration_runs_with_limits_and_under_the_lock(empty_database_url: str, tmp_path: Path) -> None:
    (tmp_path / "noted.py").write_text(NOTES_ITS_LIMITS)
    app = create_app(settings_for(empty_database_url))
    with app.app_context():
        settings = app.extensions["migrate"].migrate.get_config()
        settings.set_main_option("version_locations", str(tmp_path))
        settings.set_main_option("path_separator", "os")
        alembic.command.upgrade(settings, "head")
    dispose(app)
    with closing(psycopg2.connect(libpq_url(empty_database_url))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT lock, statement, advisory FROM noted")
        assert cursor.fetchone() == ("4s", "1min", 1)


def test_a_migration_gives_up_on_a_table_in_use_and_changes_nothing(databases: Databases) -> None:
    with databases.clone() as url, closing(psycopg2.connect(libpq_url(url))) as reader, reader.cursor() as cursor:
        before = tables(url)
        cursor.execute("SELECT count(*) FROM users_v2")  # the reader keeps the table to the end of its transaction
        refused = migrate(url, "downgrade", "base")
        assert "lock timeout" in complaints(refused)
        assert refused.returncode != 0
        assert tables(url) == before


def test_a_migration_waits_for_another_deploys(empty_database_url: str, other: Connection) -> None:
    with other.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_lock({ADVISORY_LOCK})")
        other.commit()
        deploy = migrate(empty_database_url, "upgrade")
        asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()"
        while not cursor.execute(asked, ["%pg_try_advisory_lock%"]) and cursor.fetchone() == (0,):
            assert deploy.poll() is None, complaints(deploy)
            other.commit()  # or the look would be the same one again
            time.sleep(0.05)
        time.sleep(1)
        assert deploy.poll() is None
        assert tables(empty_database_url) == set()
        cursor.execute(f"SELECT pg_advisory_unlock({ADVISORY_LOCK})")
        other.commit()
    told = complaints(deploy)
    assert deploy.returncode == 0, told
    assert "users_v2" in tables(empty_database_url)
