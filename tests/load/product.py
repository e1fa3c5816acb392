"""The product as it is measured: a PostgreSQL that waits for its disk, web servers standing for dynos, the router in
front of them; what they cost, what they log, and what is in the database afterwards."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg2
from argon2 import PasswordHasher

from capecontrol.config import libpq_url
from capecontrol.operations.local_account import POSTGRES_MAJOR
from capecontrol.operations.local_postgres import end_with_parent
from tests.live_server import REPOSITORY, LiveServer
from tests.load.applicants import PASSWORD
from tests.load.figures import tell_progress
from tests.load.router import Line
from tests.postgres import Databases, RunServer

# As in production: a commit has reached the disk. Only the size is set.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "256MB", "max_connections": "150"}

POSTGRES = f"{POSTGRES_MAJOR}, {', '.join(f'{name} {value}' for name, value in DURABLE.items())}"
"""Which server is measured, in words."""

ROUTER_STOP_SECONDS = 10


class WebServer(LiveServer):
    """gunicorn as the Procfile has it, here also with another application in it."""

    def __init__(self, database_url: str, folder: Path, *, application: str = "wsgi:app", **settings: str) -> None:
        """Describe it; `settings` are environment variables."""
        super().__init__(database_url, folder, LOG_FORMAT="json", **settings)
        self._commands["web"] = self._commands["web"].replace("wsgi:app", application)

    @property
    def pid(self) -> int:
        """The process id of gunicorn's master."""
        assert self.web is not None
        return self.web.pid

    def requests_logged(self, endpoint: str, status: int) -> list[dict[str, Any]]:
        """Return the log lines of one endpoint's answers with that status."""
        lines = [line for text in self.log().splitlines() if f'"{endpoint}"' in text for line in _objects(text)]
        return [line for line in lines if line.get("endpoint") == endpoint and line.get("status") == status]

    def worker_pids(self) -> list[int]:
        """Return gunicorn's worker processes."""
        return [child.pid for child in psutil.Process(self.pid).children()]


class RouterProcess:
    """The router simulator in a process of its own."""

    def __init__(self, folder: Path) -> None:
        """Describe it; its log goes into the folder."""
        self.port = 0
        self._log = folder / "router.log"
        self._process: subprocess.Popen[str] | None = None

    def start(self, ports: Sequence[int]) -> None:
        """Start in front of the dynos on these ports, and wait until it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.load.router", *map(str, ports), "--log", str(self._log)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # in the dynos' session, or their hashes would not give way to it
            preexec_fn=end_with_parent,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def add(self, port: int) -> None:
        """Send requests to one dyno more."""
        self._order(f"add {port}")

    def remove(self, port: int) -> None:
        """Send no more requests to a dyno."""
        self._order(f"remove {port}")

    def stop(self) -> None:
        """End it, so that its log is complete."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(ROUTER_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def lines(self) -> list[Line]:
        """Return its log so far."""
        return [Line.parse(text) for text in self._log.read_text().splitlines() if text.endswith("protocol=http")]

    def _order(self, text: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()


class Database:
    """A database of the product, seen from outside."""

    def __init__(self, url: str) -> None:
        """Name it by its address."""
        self.url = url

    def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, committed."""
        with closing(psycopg2.connect(libpq_url(self.url))) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall()) if cursor.description else []

    def postmaster(self) -> int:
        """Return the server's process id: the parent of whoever answers."""
        with closing(psycopg2.connect(libpq_url(self.url))) as connection:
            return int(psutil.Process(connection.info.backend_pid).ppid())

    def seed(self, label: str, count: int, *, passes: int = 2, memory_kib: int = 19456) -> None:
        """Add people with accounts, `label-N@example.com`, all with the applicants' password."""
        hashed = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1).hash(PASSWORD)
        self.ask(
            "INSERT INTO users_v2 (id, email, email_key, password_hash, full_name, user_role) "
            "SELECT %s || '-' || n, %s || '-' || n || '@example.com', %s || '-' || n || '@example.com', %s, "
            "'Ines Example ' || n, 'client' FROM generate_series(1, %s) AS n",
            *(label, label, label, hashed, count),
        )
        with closing(psycopg2.connect(libpq_url(self.url))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("VACUUM ANALYZE users_v2")

    def count_accounts(self, label: str) -> tuple[int, int]:
        """Return how many accounts there are under labels that begin so, and how many addresses they have."""
        found = self.ask(
            "SELECT count(*), count(DISTINCT lower(email)) FROM users_v2 WHERE email LIKE %s", f"{label}%@example.com"
        )
        return int(found[0][0]), int(found[0][1])


@contextmanager
def durable_database() -> Iterator[Database]:
    """Yield a new migrated database on a PostgreSQL of its own, as durable as in production; all gone afterwards."""
    server = RunServer(DURABLE)
    try:
        with Databases(server).clone() as url:
            yield Database(url)
    finally:
        server.close()


@contextmanager
def web_servers(database: Database, folder: Path, count: int = 1, **settings: str) -> Iterator[list[WebServer]]:
    """Yield running web servers on one database."""
    servers = [WebServer(database.url, folder, **settings) for _ in range(count)]
    try:
        for server in servers:
            server.start(worker=False)
        yield servers
    finally:
        for server in servers:
            server.stop()


@contextmanager
def router_before(servers: Sequence[WebServer], folder: Path) -> Iterator[RouterProcess]:
    """Yield a running router in front of web servers."""
    router = RouterProcess(folder)
    try:
        router.start([server.port for server in servers])
        yield router
    finally:
        router.stop()


def processor_seconds(*roots: int) -> float:
    """Return the processor time that whole process trees have used, those that have ended included."""
    total = 0.0
    for process in _trees(roots):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # user, system, and both of the children that were waited for
    return total


def memory_mb(*roots: int) -> float:
    """Return the memory of whole process trees in MB: the proportional set size, which counts shared pages once."""
    total = 0
    for process in _trees(roots):
        with contextlib.suppress(psutil.Error):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    return total / 1e6


@contextlib.asynccontextmanager
async def watching_memory(*roots: int, every: float = 0.5) -> AsyncIterator[list[float]]:
    """Collect memory_mb of these trees while the context lasts.

    In a process of its own: it takes 14 ms for three processes, in which a generator would take nobody's answer.
    """
    found: list[float] = []
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as reader:
        reading = partial(asyncio.get_running_loop().run_in_executor, reader, memory_mb, *roots)
        found.append(await reading())

        async def watch() -> None:
            while True:
                await asyncio.sleep(every)
                found.append(await reading())

        watching = asyncio.create_task(watch())
        try:
            yield found
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


def machine_busy_seconds() -> float:
    """Return the processor time that everything on this machine has used."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


async def wait_for_quiet(*, cores: float = 0.25, patience: float = 60.0) -> None:
    """Wait until the rest of this machine uses less than so many cores; after that many seconds go on all the same."""
    ends_at = time.monotonic() + patience
    while (in_use := await _cores_in_use()) >= cores:
        if time.monotonic() >= ends_at:
            tell_progress(f"others use {in_use:.1f} cores of this machine; measuring all the same")
            return


async def _cores_in_use() -> float:
    """Return how many cores everybody but this process uses, over a second."""
    meter = Meter()
    await asyncio.sleep(1.0)
    used = meter.end()
    return used["others"] / used["elapsed"]


class Meter:
    """Processor time from its start to its end, by name; `others` is what the rest of the machine used."""

    def __init__(self, **roots: int) -> None:
        """Begin; each root is a process whose tree is counted, and this process is `generator`."""
        self._roots = roots | {"generator": os.getpid()}
        self._began = time.monotonic()
        self._before = self._read()

    def end(self) -> dict[str, float]:
        """Return the seconds used since the start; `elapsed` are those of the clock."""
        after = self._read()
        used = {name: after[name] - self._before[name] for name in after}
        ours = sum(seconds for name, seconds in used.items() if name != "machine")
        return used | {"others": max(0.0, used["machine"] - ours), "elapsed": time.monotonic() - self._began}

    def _read(self) -> dict[str, float]:
        read = {name: processor_seconds(pid) for name, pid in self._roots.items() if name != "generator"}
        own = os.times()
        generator = own.user + own.system + own.children_user + own.children_system
        return read | {"generator": generator, "machine": machine_busy_seconds()}


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a line; two processes that write at once may have put theirs on the same one."""
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return
        yield found
        at = text.find("{", end)


def _trees(roots: Sequence[int]) -> Iterator[Any]:
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(root)
            yield process
            yield from process.children(recursive=True)
