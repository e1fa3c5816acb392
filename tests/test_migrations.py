"""Guard: migrations reach one head, match the models, go down once, and leave inherited databases alone."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from flask import Flask

from capecontrol.config import libpq_url
from tests.postgres import Databases

pytestmark = pytest.mark.guard

ROOT = Path(__file__).parent.parent
NAME = re.compile(r"\d{8}_\d{4}_[a-z_]+\.py")
LEGACY = """
CREATE TABLE users (id varchar PRIMARY KEY, email varchar(255) UNIQUE);
CREATE TABLE users_v2 (id varchar PRIMARY KEY, email varchar(255) UNIQUE);
CREATE TABLE audit_logs (id serial PRIMARY KEY, user_id varchar REFERENCES users (id));
INSERT INTO users_v2 VALUES ('7d0c1f1e', 'thandi@example.com');
"""


def flask(*arguments: str, database_url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DATABASE_URL": database_url, "SECRET_KEY": "tests-only-" * 4}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False)


def tables(url: str) -> set[str]:
    with psycopg2.connect(libpq_url(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in cursor.fetchall()}


@pytest.fixture
def empty_database(empty_database_url: str) -> Iterator[str]:
    return empty_database_url


def test_there_is_one_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1


def test_files_are_named_by_their_date() -> None:
    for path in (ROOT / "migrations" / "versions").glob("*.py"):
        assert NAME.fullmatch(path.name), path.name
    assert not NAME.fullmatch("a1b2c3_first_tables.py")


def test_no_migration_imports_a_model() -> None:
    for path in (ROOT / "migrations" / "versions").glob("*.py"):
        assert "capecontrol" not in path.read_text(), f"{path.name}: a migration outlives the code of its day"


def test_migrations_match_the_models_go_down_without_a_trace_and_up_again(databases: Databases) -> None:
    """The database has come up once already, by the same command, as every test's has."""
    with databases.clone() as url:
        all_of_them = tables(url)
        assert {"procrastinate_jobs", "users_v2"} <= all_of_them
        for arguments, left in (
            (("db", "check"), all_of_them),
            (("db", "downgrade", "base"), {"alembic_version"}),
            (("db", "upgrade"), all_of_them),
            (("db", "check"), all_of_them),
        ):
            done = flask(*arguments, database_url=url)
            assert done.returncode == 0, done.stderr
            assert tables(url) == left


def test_of_links_side_by_side_the_newest_of_each_account_stays_on_the_way_down(databases: Databases) -> None:
    with databases.clone() as url:
        with psycopg2.connect(libpq_url(url)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO users_v2"
                " (id, email, email_key, password_hash, user_role, is_active, created_at, updated_at)"
                " SELECT name, name, name, '-', 'client', true, now(), now() FROM unnest(ARRAY['a', 'b']) AS name"
            )
            cursor.execute(
                "INSERT INTO email_verifications (user_id, token_hash, created_at, expires_at)"
                " SELECT name, name || number, now() - number * interval '1 hour', now()"
                " FROM unnest(ARRAY['a', 'b']) AS name, generate_series(1, 3) AS number"
            )
        done = flask("db", "downgrade", "conversation_fingerprints", database_url=url)
        assert done.returncode == 0, done.stderr
        with psycopg2.connect(libpq_url(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT token_hash FROM email_verifications ORDER BY token_hash")
            assert [token_hash for (token_hash,) in cursor.fetchall()] == ["a1", "b1"]
        assert flask("db", "upgrade", database_url=url).returncode == 0


def test_an_inherited_database_is_refused_and_left_as_it_is(empty_database: str) -> None:
    with psycopg2.connect(libpq_url(empty_database)) as connection, connection.cursor() as cursor:
        cursor.execute(LEGACY)
    before = tables(empty_database)
    done = flask("db", "upgrade", database_url=empty_database)
    assert done.returncode != 0
    assert "flask --app wsgi legacy apply" in done.stderr
    assert "Traceback" not in done.stderr
    assert tables(empty_database) == before


def test_two_deploys_at_once_both_end_well(empty_database: str) -> None:
    environment = {**os.environ, "DATABASE_URL": empty_database, "SECRET_KEY": "tests-only-" * 4}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "db", "upgrade"]
    deploys = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for deploy in deploys:
        _, complaints = deploy.communicate(timeout=90)
        assert deploy.returncode == 0, complaints


def test_every_person_column_is_a_real_foreign_key(app: Flask) -> None:
    from capecontrol.extensions import db

    for table in db.metadata.sorted_tables:
        for column in table.columns:
            if column.name == "user_id":
                targets = {key.target_fullname for key in column.foreign_keys}
                assert targets == {"users_v2.id"}, f"{table.name}.user_id points at {targets}"
                assert not any(key.deferrable for key in column.foreign_keys), f"{table.name}: deferrable"
