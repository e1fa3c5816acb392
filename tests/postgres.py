"""The tests' PostgreSQL: one server for a run, one migrated template on it, and clones for whoever asks."""

import fcntl
import json
import shutil
import subprocess
import sys
import tempfile
import threading
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
START_SECONDS = 90

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
    """The server of one test run, owned by the process that controls the run.

    It starts when the first test wants a database, and says so to the other processes through files in its folder.
    """

    def __init__(self, options: Mapping[str, str] = FORGETFUL) -> None:
        """Make the folder and wait, in a thread, for somebody to want a database; `options` are the server's."""
        _sweep()
        self._options = options
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.folder.chmod(0o711)  # run by root, the server has another account and must get through
        self._owner = (self.folder / "owner").open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        self._closing = threading.Event()
        # A thread of its own also keeps the server alive exactly as long as this process (ends_with_parent).
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server and remove everything it wrote."""
        self._closing.set()
        self._thread.join()
        shutil.rmtree(self.folder)
        self._owner.close()

    def _serve(self) -> None:
        while not (self.folder / "wanted").exists():
            if self._closing.wait(0.05):
                return
        server = PostgresServer(
            self.folder / "cluster", log_file=self.folder / "log", options=self._options, ends_with_parent=True
        )
        try:
            server.start()
            _make_template(server)
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiting tests have to say it
            _tell(self.folder / "failed", str(error))
        else:
            # The address with the place of the database's name left open.
            _tell(self.folder / "ready", json.dumps({role: server.url("{}", role=role) for role in (ROLE, SUPERUSER)}))
        self._closing.wait()
        server.stop()


class Databases:
    """Migrated databases on the run's server, each as empty as after the release step."""

    def __init__(self, folder: Path) -> None:
        """Ask for the server of a run, by its folder, and wait until it is there."""
        (folder / "wanted").touch()
        deadline = time.monotonic() + START_SECONDS
        while not (folder / "ready").exists():
            if (folder / "failed").exists():
                raise RuntimeError(f"The tests' PostgreSQL did not start: {(folder / 'failed').read_text()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"The tests' PostgreSQL was not ready in {START_SECONDS} s.")
            time.sleep(0.05)
        self._addresses: dict[str, str] = json.loads((folder / "ready").read_text())

    def url(self, name: str, *, role: str = ROLE) -> str:
        """Return a database's address."""
        return self._addresses[role].format(name)

    @contextmanager
    def clone(self, template: str = TEMPLATE) -> Iterator[str]:
        """Yield the address of a new database, dropped at the end whoever is still connected.

        `template0` gives one without any table of ours.
        """
        name = f"test_{uuid4().hex[:12]}"
        self._run(f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER "{ROLE}"')
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


def _sweep() -> None:
    """Remove the folders of runs that were killed: nobody holds their lock any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            is_new = time.time() - folder.stat().st_mtime < 60  # perhaps not locked yet
            if not is_new:
                with (folder / "owner").open() as owner:
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)


def _tell(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)
