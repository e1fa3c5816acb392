"""What `make run` supervises: PostgreSQL, the Procfile's release, then web and worker, until Ctrl-C.

Imports nothing of ours but its neighbours for PostgreSQL. What other commands need to find the running product is in
`instance/run.json`: `database_url`, `secret_key_file` and the supervisor's `pid`.
"""

import contextlib
import fcntl
import http.client
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import psutil  # type: ignore[import-untyped]

from capecontrol.operations.local_account import LocalPostgresError, folder_for
from capecontrol.operations.local_postgres import PostgresServer, complaint
from capecontrol.operations.local_processes import Child, Part, RunError, read_procfile, say, show, wait_until_gone

STOP_SECONDS = 25
"""What a process gets between SIGTERM and SIGKILL; a dyno manager gives 30."""

HEALTHY_SECONDS = 60
LOG_BYTES = 5_000_000
DATABASE = "capecontrol"


class Supervisor:
    """Everything that `make run` starts in one checkout, and the order in which it ends."""

    def __init__(self, repository: Path, environ: Mapping[str, str]) -> None:
        """Take the checkout's folder and the environment that `make run` was called with."""
        self._repository = repository
        self._environ = dict(environ)
        self._instance = repository / "instance"
        self._state = self._instance / "run.json"
        self._release_step: Child | None = None
        self._parts: list[Part] = []
        self._server: PostgresServer | None = None
        self._stopping_since: float | None = None
        self._impatient = False
        self._wake = threading.Event()

    def run(self) -> int:
        """Run until a signal or until PostgreSQL ends by itself. Returns the exit code: 0 only for a signal.

        Web and worker are started again when they end by themselves. Raises RunError and LocalPostgresError before or
        instead of running, and RunError when one of them does not stay.
        """
        self._instance.mkdir(mode=0o700, exist_ok=True)
        processes = read_procfile(self._repository / "Procfile")
        port = read_port(self._environ)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        with self._only_one(port) as lock:
            self._state.unlink(missing_ok=True)
            self._end_leftovers(lock)
            check_port(port)
            try:
                self._start_database()
                environment = self._environment_of_children(port)
                if not self._is_stopping():
                    self._release(processes["release"], environment)
                for name in ("web", "worker"):
                    if not self._is_stopping():
                        self._parts.append(Part(partial(Child, name, processes[name], self._repository, environment)))
                        self._note_processes(lock, port)
                return self._watch(lock, port)
            finally:
                self._stop_everything()

    def _ask_to_stop(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._stopping_since is None:
            self._stopping_since = now
        elif number == signal.SIGINT and now - self._stopping_since > 1:
            # Not the same signal arriving twice, through make and through the process group.
            self._impatient = True
        self._wake.set()

    def _is_stopping(self) -> bool:
        return self._stopping_since is not None

    def _children(self) -> list[Child]:
        """Return what has been started from the Procfile, the latest of each."""
        return [*filter(None, [self._release_step]), *(part.child for part in self._parts)]

    @contextlib.contextmanager
    def _only_one(self, port: int) -> Iterator[IO[str]]:
        """Hold the checkout's lock, which the kernel lets go with its process: a file left behind blocks nobody."""
        with (self._instance / "run.lock").open("a+") as lock:
            lock.seek(0)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                where = f"at http://127.0.0.1:{_noted(lock).get('port', port)}"
                raise RunError(f"it is already running here, {where}; stop that one first, with Ctrl-C.") from None
            yield lock

    def _note_processes(self, lock: IO[str], port: int) -> None:
        """Write into the lock file what a killed supervisor leaves behind, for _end_leftovers of the next one."""
        lock.seek(0)
        lock.truncate()
        processes = [[child.process.pid, child.began] for child in self._children()]
        lock.write(json.dumps({"port": port, "processes": processes}))
        lock.flush()

    def _end_leftovers(self, lock: IO[str]) -> None:
        """End web and worker of a supervisor that was killed; its PostgreSQL is adopted, not ended."""
        leftovers = []
        for pid, began in _noted(lock).get("processes", []):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if abs(process.create_time() - began) < 2:  # else the pid is another program's by now
                    process.terminate()
                    leftovers.append(process)
        if leftovers:
            say("Ending what an earlier run left behind.")
            for process in wait_until_gone(leftovers, seconds=STOP_SECONDS):
                process.kill()

    def _start_database(self) -> None:
        if self._environ.get("DATABASE_URL"):
            say("Cape Control is starting, on the database that DATABASE_URL names.")
            return
        folder = folder_for(self._repository)
        log = self._instance / "postgres.log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        say(f"Cape Control is starting. Its PostgreSQL keeps its data in {self._shown(folder)}")
        self._server = PostgresServer(folder, log_file=log)
        self._server.start(give_up=self._is_stopping)
        if self._is_stopping():
            return
        if self._server.adopted:
            show("db", "PostgreSQL was running here already and goes on")
        self._server.ensure_database(DATABASE)
        threading.Thread(target=_show_complaints, args=(log, self._is_stopping), daemon=True).start()
        state = {
            "database_url": self._server.url(DATABASE),
            "secret_key_file": str(self._secret_key_file()),
            "pid": os.getpid(),
        }
        _write_private(self._state, json.dumps(state, indent=2) + "\n")

    def _secret_key_file(self) -> Path:
        """Return the file with the checkout's own secret key, made at the first run."""
        path = self._instance / "secret-key"
        if not path.exists() or not path.read_text().strip():
            _write_private(path, secrets.token_urlsafe(48) + "\n")
        return path

    def _environment_of_children(self, port: int) -> dict[str, str]:
        programs = Path(sys.executable).parent
        environment = self._environ | {
            "PATH": f"{programs}{os.pathsep}{self._environ.get('PATH', os.defpath)}",
            "PORT": str(port),
            "WEB_CONCURRENCY": self._environ.get("WEB_CONCURRENCY") or "2",
            "SECRET_KEY": self._environ.get("SECRET_KEY") or self._secret_key_file().read_text().strip(),
            "LOG_FORMAT": self._environ.get("LOG_FORMAT") or "console",
            "PYTHONUNBUFFERED": "1",
        }
        if self._server:
            environment["DATABASE_URL"] = self._server.url(DATABASE)
        return environment

    def _release(self, command: str, environment: Mapping[str, str]) -> None:
        show("release", "migrates and checks the database")
        release = Child("release", command, self._repository, environment, is_quiet=True)
        self._release_step = release
        while not release.has_ended() and not self._is_stopping():
            self._wait(0.1)
        if release.has_ended():
            release.finish_output()
            if release.process.returncode:
                for line in release.lines:
                    show("release", line)
                raise RunError(f"the release step failed ({release.how_it_ended()}), see above.")
            self._release_step = None

    def _watch(self, lock: IO[str], port: int) -> int:
        """Keep web and worker running until told to stop (0) or until PostgreSQL ends by itself (1). Says when the
        product is ready. Raises RunError when web or worker ends again and again."""
        ready = False
        deadline = time.monotonic() + HEALTHY_SECONDS
        while not self._is_stopping():
            for part in self._parts:
                if part.keep_running():
                    self._note_processes(lock, port)
            if self._server and not self._server.is_alive():
                say(f"PostgreSQL ended by itself; see {self._shown(self._server.log_file)}")
                return 1
            if not ready and is_healthy(port):
                ready = True
                self._announce(port)
            if not ready and time.monotonic() > deadline:
                say(f"web has not answered /healthz within {HEALTHY_SECONDS} s.")
                return 1
            self._wait(0.2)
        return 0

    def _announce(self, port: int) -> None:
        flask = self._shown(Path(sys.executable).parent / "flask")
        condition = "" if self._server else ", with the same DATABASE_URL and SECRET_KEY"
        say(
            f"\n  Cape Control is ready: http://127.0.0.1:{port}\n\n"
            f"  The first administrator is made in another terminal{condition}:\n"
            f"      {flask} --app wsgi auth create-admin you@example.com\n\n"
            "  Ctrl-C stops everything and keeps the data.\n"
        )

    def _stop_everything(self) -> None:
        """End web and worker, then PostgreSQL, which they need until their last transaction."""
        self._stopping_since = self._stopping_since or time.monotonic()
        children = self._children()
        is_database_ours = self._server is not None and self._server.is_alive()
        if children or is_database_ours:
            say("Stopping.")
        for child in children:
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while not all(child.has_ended() for child in children):
            # A second Ctrl-C is impatience with web and worker, never with the database.
            if self._impatient or time.monotonic() > deadline:
                break
            self._wait(0.1)
        for child in children:
            child.kill()
        self._state.unlink(missing_ok=True)
        if self._server:
            self._server.stop()
        if is_database_ours:
            say("Stopped; the data is kept.")

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self._repository) if path.is_relative_to(self._repository) else path)


def read_port(environ: Mapping[str, str]) -> int:
    """Return PORT, 8000 when unset. Raises RunError when it is none."""
    text = environ.get("PORT") or "8000"
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise RunError(f"PORT must be a number from 1 to 65535, and it is {text!r}.")
    return int(text)


def check_port(port: int) -> None:
    """Raise RunError when nothing can listen on the port, before anything has been started."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise RunError(f"port {port} is taken by another program: make run PORT={_another(port)}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the web server does
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise RunError(f"port {port} is not allowed to you: make run PORT=8000") from None
        except OSError:
            raise RunError(f"port {port} is taken by another program: make run PORT={_another(port)}") from None


def is_healthy(port: int) -> bool:
    """Say whether web answers /healthz."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=1)) as connection:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def _another(port: int) -> int:
    return port + 1 if port < 65535 else 8000


def _noted(lock: IO[str]) -> dict[str, Any]:
    """Return what the lock file says, or nothing when it is empty or was cut off."""
    lock.seek(0)
    try:
        noted = json.load(lock)
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}


def _write_private(path: Path, text: str) -> None:
    """Write a file that is never seen half written, nor by others."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(path)


def _show_complaints(log: Path, is_stopping: Callable[[], bool]) -> None:
    """Follow PostgreSQL's log from its present end and show warnings and errors."""
    with log.open(errors="replace") as lines:
        lines.seek(0, os.SEEK_END)
        while not is_stopping():
            for line in lines:
                if text := complaint(line):
                    show("db", text)
            time.sleep(0.5)


def main(arguments: list[str], *, repository: Path) -> int:
    """Run the product in a checkout. Returns the exit code; refusals are one sentence on standard error."""
    if arguments != ["run"]:
        sys.stderr.write("usage: python -m capecontrol.operations.local run\n")
        return 2
    try:
        return Supervisor(repository, os.environ).run()
    except (RunError, LocalPostgresError, OSError) as error:
        sys.stderr.write(f"Cape Control cannot run: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], repository=Path(__file__).resolve().parents[2]))
