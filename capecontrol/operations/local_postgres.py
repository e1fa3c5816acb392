"""One PostgreSQL 18 from the development wheel: its data folder; starting, adopting and stopping it.

Serves `make run` and the tests; the application never starts a database. The wheel's own `get_server` is not used:
a killed first user leaves its server running for ever, a reused pid or a cut-off lock file blocks every later start,
and as root it opens parent folders to everybody.
"""

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg2

from capecontrol.operations.local_account import (
    POSTGRES_MAJOR,
    LocalPostgresError,
    account_for,
    make_private_folder,
    programs_for,
    running_as,
)
from capecontrol.operations.local_processes import is_running, wait_until_gone

ROLE = "capecontrol"
"""The application's role, no superuser, as in production."""

SUPERUSER = "postgres"
SOCKET = ".s.PGSQL.5432"

SOCKET_PATH_BYTES = 103
"""The longest path of a socket: 107 on Linux, 103 on macOS (sun_path, unix(7) and unix(4))."""

START_SECONDS = 120
"""Long, because a start after a crash replays the log first."""

STOP_SECONDS = 30
UNREACHABLE_SECONDS = 5

OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A statement or a DETAIL line may carry what a person wrote; the message alone does not.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class PostgresServer:
    """A folder with PostgreSQL's data, and the server on it.

    The caller holds a lock of its own, so that one process at a time handles a folder. A data folder that a server
    has run on is never deleted.
    """

    def __init__(
        self,
        folder: Path,
        *,
        log_file: Path,
        options: Mapping[str, str] | None = None,
        ends_with_parent: bool = False,
    ) -> None:
        """Describe the server; nothing is started yet. Raises LocalPostgresError.

        `options` are server settings beside OPTIONS. `ends_with_parent`: see end_with_parent.
        """
        self.data = folder / "data"
        self.log_file = log_file
        self.adopted = False
        self._folder = folder
        self._options = OPTIONS | dict(options or {})
        self._ends_with_parent = ends_with_parent
        self._account = account_for(self.data)
        self._programs = programs_for(self._account)
        self._sockets = _socket_folder(folder)
        self._postmaster: Any = None
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, *, give_up: Callable[[], bool] = lambda: False) -> None:
        """Have a server that answers: the one already running on this data, else a new one.

        Makes the data folder at the first start. Returns before the server is ready when `give_up` says so.
        Raises LocalPostgresError.
        """
        self._forget()
        self._make_data_folder()
        if self._adopt(give_up):
            return
        self._clear_stale_locks()
        make_private_folder(self._sockets, self._account)
        with self.log_file.open("ab") as log:
            self._child = subprocess.Popen(
                [
                    *(self._programs / "postgres", "-D", self.data, "-k", self._sockets),
                    *(f"--{name}={value}" for name, value in self._options.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C in the terminal is for us: web and worker have to stop before the database does.
                start_new_session=True,
                preexec_fn=end_with_parent if self._ends_with_parent else None,
                **running_as(self._account),
            )
        self._postmaster = psutil.Process(self._child.pid)
        self._wait_until_ready(give_up)

    def stop(self) -> None:
        """Stop the server, adopted or not, by its pid. What was committed stays. Raises LocalPostgresError."""
        if self._postmaster is None:
            return
        # SIGINT is PostgreSQL's fast shutdown. After SIGQUIT, the immediate one, the next start replays the log.
        for number in (signal.SIGINT, signal.SIGQUIT):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._postmaster.send_signal(number)
            if not wait_until_gone([self._postmaster], seconds=STOP_SECONDS):
                self._forget()
                with contextlib.suppress(OSError):
                    self._sockets.rmdir()
                return
        raise LocalPostgresError(f"PostgreSQL (process {self.pid}) does not stop.")

    def is_alive(self) -> bool:
        """Say whether the server's process is still there."""
        return self._postmaster is not None and is_running(self._postmaster)

    @property
    def pid(self) -> int:
        """The server's process id. Raises LocalPostgresError when none runs."""
        if self._postmaster is None:
            raise LocalPostgresError("PostgreSQL is not running here.")
        return int(self._postmaster.pid)

    def url(self, database: str, *, role: str = ROLE) -> str:
        """Return a database's address, as libpq, psycopg and SQLAlchemy take it."""
        return f"postgresql://{role}@/{database}?host={self._sockets}"

    def ensure_database(self, name: str) -> None:
        """Make the application's role, and a database that it owns, where they do not exist yet."""
        with self.superuser() as cursor:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,))
            if cursor.fetchone() is None:
                cursor.execute(f'CREATE ROLE "{ROLE}" LOGIN')
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
            if cursor.fetchone() is None:
                cursor.execute(f'CREATE DATABASE "{name}" OWNER "{ROLE}"')

    @contextlib.contextmanager
    def superuser(self) -> Iterator[Any]:
        """Yield a psycopg2 cursor of the server's superuser; each statement is a transaction of its own."""
        connection = psycopg2.connect(self.url("postgres", role=SUPERUSER), connect_timeout=2)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def _forget(self) -> None:
        """Let go of a server that is gone, and take its exit status from the kernel."""
        if self._child:
            self._child.poll()
        self._child = self._postmaster = None
        self.adopted = False

    def _make_data_folder(self) -> None:
        version = self.data / "PG_VERSION"
        if version.exists():
            found = version.read_text().strip()
            if found != str(POSTGRES_MAJOR):
                raise LocalPostgresError(
                    f"{self.data} was made by PostgreSQL {found} and this is {POSTGRES_MAJOR}: "
                    "move the folder away to begin anew, or go on with the older version."
                )
            return
        make_private_folder(self._folder, self._account)
        if self.data.exists():
            raise LocalPostgresError(f"{self.data} holds no PostgreSQL data: move it away to begin anew.")
        unfinished = self._folder / "data.unfinished"
        if unfinished.exists():
            # A killed initdb left it. No server has run on it: it gets its name before the first start.
            shutil.rmtree(unfinished)
        self._run_initdb(unfinished)
        unfinished.rename(self.data)

    def _run_initdb(self, folder: Path) -> None:
        settings = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
        settings += ["--auth-local=trust", "--auth-host=reject", "--text-search-config=english"]
        if self._options.get("fsync") == "off":
            settings.append("--no-sync")
        done = subprocess.run(
            [self._programs / "initdb", "-D", folder, "-U", SUPERUSER, *settings],
            check=False,
            capture_output=True,
            text=True,
            start_new_session=True,
            **running_as(self._account),
        )
        if done.returncode != 0:
            reason = (done.stderr.strip() or "no reason given").splitlines()[0]
            raise LocalPostgresError(f"PostgreSQL's initdb failed: {reason.removeprefix('initdb: error: ')}")

    def _adopt(self, give_up: Callable[[], bool]) -> bool:
        """Take over a server that runs on this data already; end one that cannot be reached."""
        began = time.monotonic()
        while running := self._processes_on_data():
            family = {process.pid for process in running}
            postmaster = next((process for process in running if _parent(process) not in family), running[0])
            self._sockets = _sockets_of(postmaster) or self._sockets
            if self._answers(postmaster) or give_up():
                self._postmaster, self.adopted = postmaster, True
                return True
            # Until then it may be recovering, or stopping; backends end by themselves without a postmaster.
            has_socket = (self._sockets / SOCKET).exists()
            if time.monotonic() - began > (START_SECONDS if has_socket else UNREACHABLE_SECONDS):
                self._postmaster = postmaster
                self.stop()
            time.sleep(0.2)
        self._sockets = _socket_folder(self._folder)
        return False

    def _processes_on_data(self) -> list[Any]:
        """Return every postgres process that works in this data folder: the server and its backends.

        Asks the processes, not postmaster.pid: that file outlives crashes, may be cut off, and may name a pid that
        is somebody else's by now.
        """
        found = []
        for process in psutil.process_iter(["name"]):
            if not (process.info["name"] or "").startswith("postgres"):
                continue
            with contextlib.suppress(psutil.Error, OSError):
                if Path(process.cwd()).samefile(self.data):
                    found.append(process)
        return found

    def _clear_stale_locks(self) -> None:
        """Remove the lock files PostgreSQL itself would stumble over; _adopt has found that no server runs here.

        An orderly file that names a dead process stays: PostgreSQL replaces it, and learns from it whether memory
        of a crashed server is still in use.
        """
        lock = self.data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError):
            named = lock.read_text(errors="replace").partition("\n")[0].strip()
            if not named.isdecimal() or psutil.pid_exists(int(named)):
                lock.unlink()
        for name in (SOCKET, f"{SOCKET}.lock"):
            (self._sockets / name).unlink(missing_ok=True)

    def _wait_until_ready(self, give_up: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not self._answers(self._postmaster):
            if not self.is_alive():
                self._forget()
                raise LocalPostgresError(f"PostgreSQL did not start: {self._last_complaint()}")
            if give_up():
                return
            if time.monotonic() - began > START_SECONDS:
                self.stop()
                raise LocalPostgresError(f"PostgreSQL was not ready in {START_SECONDS} s; see {self.log_file}")
            time.sleep(0.1)

    def _answers(self, postmaster: Any) -> bool:
        """Say whether a connection through our socket reaches a backend of this postmaster."""
        try:
            with self.superuser() as cursor:
                return _parent(psutil.Process(cursor.connection.info.backend_pid)) == postmaster.pid
        except (psycopg2.OperationalError, psutil.NoSuchProcess):
            return False

    def _last_complaint(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()
        complaints = [text for line in lines if (text := complaint(line))]
        return f"{complaints[-1] if complaints else 'it gave no reason'} ({self.log_file})"


def complaint(line: str) -> str | None:
    """Return what a line of PostgreSQL's log complains about, or None for an ordinary line."""
    match = re.search(r"\] ((?:WARNING|ERROR|FATAL|PANIC): .*)", line)
    return match[1] if match else None


def end_with_parent() -> None:
    """Between fork and exec of a child: have the kernel send it SIGINT when the thread that started it is gone.

    However that thread ends. Only where there is prctl(2), which is Linux; elsewhere it does nothing.
    """
    if _prctl:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _socket_folder(folder: Path) -> Path:
    """Return a folder whose sockets have a path that is short enough and needs no quoting anywhere."""
    name = f"capecontrol-{os.geteuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    candidates = (folder / "socket", Path(tempfile.gettempdir()) / name)
    return next((place for place in candidates if _fits(place)), Path("/tmp") / name)  # noqa: S108 - checked at use


def _fits(folder: Path) -> bool:
    path = os.fsencode(folder / f"{SOCKET}.lock")
    return len(path) <= SOCKET_PATH_BYTES and re.fullmatch(rb"[\w./-]+", path) is not None


def _sockets_of(postmaster: Any) -> Path | None:
    with contextlib.suppress(psutil.Error, ValueError, IndexError):
        arguments = postmaster.cmdline()
        return Path(arguments[arguments.index("-k") + 1])
    return None


def _parent(process: Any) -> int | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.ppid())
    return None


_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
