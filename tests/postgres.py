"""The tests' PostgreSQL: one server a process, one migrated template on it, and clones for whoever asks."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psycopg2

from capecontrol.operations.local_postgres import ROLE, SUPERUSER, PostgresServer
from tests.live_server import REPOSITORY, environment_of_processes

TEMPLATE = "template_migrated"
PREFIX = "capecontrol-tests-"
MEMORY = Path("/dev/shm")  # noqa: S108 - each server makes a private folder in it
MEMORY_BYTES = 4 * 1024**3
"""What has to be free in memory for files to go there: a cluster takes a tenth of it, a container may have 64 MiB."""

# Nothing in these databases outlives the run, so nothing waits for the disk.
FORGETFUL = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "150",
    "log_checkpoints": "off",
}


class RunServer:
    """The server of one process of a test run, which starts when the first test wants a database.

    Processes do not share it: a transaction that is open anywhere in a server holds back what may be sealed there.
    """

    def __init__(self, options: Mapping[str, str] = FORGETFUL) -> None:
        """Make the folder; `options` are the server's."""
        _sweep()
        self._options = options
        self._server: PostgresServer | None = None
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_place(is_forgetful=options == FORGETFUL)))
        self._folder.chmod(0o711)  # run by root, the server has another account and must get through
        self._owner = (self._folder / "owner").open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)

    def start(self) -> PostgresServer:
        """Return the server with its migrated template, started at the first call.

        It ends with the thread that calls first. Raises RuntimeError, LocalPostgresError.
        """
        if self._server is None:
            server = PostgresServer(
                self._folder / "cluster", log_file=self._folder / "log", options=self._options, ends_with_parent=True
            )
            server.start()
            self._server = server
            _make_template(server)
        return self._server

    def close(self) -> None:
        """Stop the server and remove everything it wrote."""
        if self._server is not None:
            self._server.stop()
        shutil.rmtree(self._folder)
        self._owner.close()


class Databases:
    """Migrated databases on a server, each as empty as after the release step."""

    def __init__(self, server: RunServer) -> None:
        """Start the server where it does not run yet."""
        started = server.start()
        # The address with the place of the database's name left open.
        self._addresses = {role: started.url("{}", role=role) for role in (ROLE, SUPERUSER)}

    def url(self, name: str, *, role: str = ROLE) -> str:
        """Return a database's address."""
        return self._addresses[role].format(name)

    @contextmanager
    def clone(self, template: str = TEMPLATE) -> Iterator[str]:
        """Yield the address of a new database, dropped at the end whoever is still connected.

        `template0` gives one without any table of ours.
        """
        name = f"test_{uuid4().hex[:12]}"
        # Copying files takes a sixth of the processor time of copying block by block through the log, the default.
        self._run(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy OWNER "{ROLE}"')
        try:
            yield self.url(name)
        finally:
            self._run(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _run(self, statement: str) -> None:
        with closing(psycopg2.connect(self.url("postgres", role=SUPERUSER))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)


def _make_template(server: PostgresServer) -> None:
    """Migrate in a process of its own, as the release step does; Alembic would reconfigure logging in ours."""
    server.ensure_database(TEMPLATE)
    migrated = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "db", "upgrade"],
        cwd=REPOSITORY,
        env=environment_of_processes(server.url(TEMPLATE)),
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if migrated.returncode != 0:
        raise RuntimeError(f"the migrations failed\n{migrated.stdout}{migrated.stderr}")
    with server.superuser() as cursor:
        cursor.execute(f'ALTER DATABASE "{TEMPLATE}" WITH ALLOW_CONNECTIONS false')


def _place(*, is_forgetful: bool) -> Path:
    """Return where a server's folder goes: into memory, where hundreds of clones cost a third of what a disk takes.

    Not with one that must forget nothing: what it costs to wait for the disk is what its user measures.
    """
    has_memory = is_forgetful and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
    return MEMORY if has_memory else Path(tempfile.gettempdir())


def _sweep() -> None:
    """Remove the folders of runs that were killed: nobody holds their lock any more."""
    for folder in (folder for place in {MEMORY, Path(tempfile.gettempdir())} for folder in place.glob(f"{PREFIX}*")):
        with suppress(OSError):
            is_new = time.time() - folder.stat().st_mtime < 60  # perhaps not locked yet
            if not is_new:
                with (folder / "owner").open() as owner:
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
