"""The embedded PostgreSQL: what a crash, a cut-off file, a lost socket or a long path does to its start."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest

from capecontrol.operations.local_account import LocalPostgresError, make_private_folder
from capecontrol.operations.local_postgres import PostgresServer, complaint
from capecontrol.operations.local_processes import wait_until_gone

QUICK = {"fsync": "off"}


@contextmanager
def passable_folder() -> Iterator[Path]:
    """Make a folder that the account of root's server can pass through, as pytest's own cannot be."""
    place = Path(tempfile.mkdtemp(prefix="capecontrol-test-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make an empty folder for a server."""
    with passable_folder() as place:
        yield place


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """Make a server's folder, stopped, with one row to lose."""
    with passable_folder() as place:
        server = server_in(place)
        server.start()
        with server.superuser() as cursor:
            cursor.execute("CREATE TABLE kept AS SELECT 1 AS row")
        server.stop()
        yield place / "pg"


@pytest.fixture
def server(made: Path, folder: Path) -> Iterator[PostgresServer]:
    """Start a server of this test's own on a copy of that folder."""
    subprocess.run(["cp", "-a", made, folder / "pg"], check=True)
    server = server_in(folder)
    server.start()
    yield server
    server.stop()


def server_in(folder: Path) -> PostgresServer:
    return PostgresServer(folder / "pg", log_file=folder / "log", options=QUICK, ends_with_parent=True)


def rows(server: PostgresServer) -> int:
    with server.superuser() as cursor:
        cursor.execute("SELECT count(*) FROM kept")
        return cursor.fetchone()[0]


def crash(server: PostgresServer) -> None:
    """Kill the server as a lost power supply would, its backends after it."""
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
    family[0].kill()
    assert not wait_until_gone(family, seconds=10)


@pytest.mark.parametrize(
    "lock",
    [
        pytest.param(None, id="as the crash left it"),
        pytest.param("", id="empty"),
        pytest.param("12", id="cut off"),
        pytest.param("no pid\n", id="garbage"),
        pytest.param(f"{os.getpid()}\n/elsewhere\n", id="a pid that is another program's now"),
    ],
)
def test_a_start_after_a_crash_keeps_the_data(server, folder, lock):
    crash(server)
    if lock is not None:
        (server.data / "postmaster.pid").write_text(lock)
        for socket_lock in (folder / "pg" / "socket").glob(".*.lock"):
            socket_lock.write_text(lock)
    server.start()
    assert not server.adopted
    assert rows(server) == 1


def test_a_running_server_is_adopted_and_can_be_stopped(server, folder):
    (server.data / "postmaster.pid").write_text("")
    other = server_in(folder)
    other.start()
    assert other.adopted
    assert other.pid == server.pid
    assert rows(other) == 1
    other.stop()
    assert not server.is_alive()


def test_a_server_that_lost_its_socket_is_replaced(server, folder):
    shutil.rmtree(folder / "pg" / "socket")
    other = server_in(folder)
    other.start()
    assert not other.adopted
    assert other.pid != server.pid
    assert rows(other) == 1
    other.stop()


def test_a_killed_initdb_does_not_block_the_next_start(folder):
    server = server_in(folder)
    server.start()
    server.stop()
    server.data.rename(folder / "pg" / "data.unfinished")
    (folder / "pg" / "data.unfinished" / "PG_VERSION").unlink()
    server.start()
    assert server.is_alive()
    server.stop()


def test_a_folder_of_another_version_or_of_something_else_is_left_alone(server, folder):
    server.stop()
    (server.data / "PG_VERSION").write_text("15\n")
    with pytest.raises(LocalPostgresError, match="was made by PostgreSQL 15 and this is 18"):
        server_in(folder).start()
    (server.data / "PG_VERSION").unlink()
    with pytest.raises(LocalPostgresError, match="holds no PostgreSQL data"):
        server_in(folder).start()
    assert (server.data / "global").is_dir()


def test_a_start_that_fails_says_why(server, folder):
    server.stop()
    with (server.data / "postgresql.conf").open("a") as configuration:
        configuration.write("shared_preload_libraries = nothing_of_that_name\n")
    with pytest.raises(LocalPostgresError, match=r'PostgreSQL did not start: FATAL: .*"nothing_of_that_name"'):
        server_in(folder).start()


def test_a_long_path_gets_a_short_socket(folder):
    deep = folder / ("a folder with, spaces " * 4) / ("deep" * 20)
    deep.parent.mkdir()
    for parent in (deep.parent, deep):
        parent.mkdir(exist_ok=True)
        parent.chmod(0o711)
    server = server_in(deep)
    server.start()
    sockets = Path(server.url("postgres").partition("host=")[2])
    with psycopg2.connect(server.url("postgres", role="postgres")) as connection:
        assert connection.info.host == str(sockets)
    connection.close()
    server.stop()
    assert not sockets.exists()


def test_a_folder_that_others_can_enter_is_not_used(folder):
    (folder / "open").mkdir(mode=0o755)
    (folder / "link").symlink_to(folder)
    for name in ("open", "link"):
        with pytest.raises(LocalPostgresError, match="is not ours alone"):
            make_private_folder(folder / name, None)


def test_the_role_is_no_superuser_and_owns_its_database(server):
    for _ in range(2):
        server.ensure_database("product")
    connection = psycopg2.connect(server.url("product"))
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE mine (id int)")
        cursor.execute("SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == (False,)
    connection.close()


def test_the_log_keeps_statements_and_values_to_itself(server, folder):
    with server.superuser() as cursor:
        cursor.execute("CREATE TABLE people (email text PRIMARY KEY)")
        cursor.execute("INSERT INTO people VALUES ('ada@example.com')")
        with pytest.raises(psycopg2.errors.UniqueViolation):
            cursor.execute("INSERT INTO people VALUES ('ada@example.com')")
    log = (folder / "log").read_text()
    assert [complaint(line) for line in log.splitlines() if complaint(line)] == [
        'ERROR:  duplicate key value violates unique constraint "people_pkey"'
    ]
    assert "ada@example.com" not in log


def test_an_open_transaction_does_not_delay_the_stop(server):
    connection = psycopg2.connect(server.url("postgres", role="postgres"))
    connection.cursor().execute("SELECT 1")
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10
    connection.close()


def test_a_server_that_ends_with_its_parent_gets_a_signal_postgresql_knows(server):
    # The kernel sends the same signal when the parent is gone: fast shutdown, no crash recovery at the next start.
    process = psutil.Process(server.pid)
    process.send_signal(signal.SIGINT)
    assert not wait_until_gone([process], seconds=10)
    assert "database system is shut down" in server.log_file.read_text()
