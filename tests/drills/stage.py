"""Where the drills happen: a PostgreSQL, web servers standing for dynos, and the router in front of them."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.load import limits
from tests.load.figures import tell_progress
from tests.load.product import Database, RouterProcess, WebServer, durable_database, router_before, web_servers
from tests.load.wire import request_bytes

HOST = "127.0.0.1"
_PASSES = 2
_MEMORY_KIB = 19456
_MOST_PASSES = 24


@dataclass(slots=True)
class Stage:
    """What a drill works with. Everybody comes through the router."""

    database: Database
    servers: list[WebServer]
    router: RouterProcess
    folder: Path
    settings: dict[str, str]
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def port(self) -> int:
        """The router's port."""
        return self.router.port

    def healthz(self, port: int | None = None) -> bytes:
        """Return a request for /healthz, to the router or to a web server."""
        return request_bytes("GET", "/healthz", host=f"{HOST}:{port or self.port}")

    def another_server(self) -> WebServer:
        """Start one more web server with the same settings, ended with the stage; the router does not know it yet."""
        server = WebServer(self.database.url, self.folder, **self.settings)
        self._stack.callback(server.stop)
        server.start(worker=False)
        return server


@contextmanager
def stage(
    database: Database | None,
    settings: Mapping[str, str] | None = None,
    *,
    dynos: int = 2,
    application: str = "wsgi:app",
) -> Iterator[Stage]:
    """Yield dynos of one process and one hash at a time each, behind the router; all of it ends with the context.

    Without a database, one on a PostgreSQL as durable as in production.
    """
    chosen = {"WEB_CONCURRENCY": "1", "PASSWORD_HASH_SLOTS": "1", "TRUSTED_PROXY_HOPS": "1", **(settings or {})}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capecontrol-drill-")))
        database = database or stack.enter_context(durable_database())
        servers = stack.enter_context(web_servers(database, folder, dynos, application=application, **chosen))
        router = stack.enter_context(router_before(servers, folder))
        yield Stage(database, servers, router, folder, chosen, stack.enter_context(ExitStack()))


async def possible_hash_rate() -> float:
    """Return how many hashes of the cheapest kind all cores together can do in a second."""
    cheapest = await limits.hashes(seconds=1.5, passes=_PASSES, memory_kib=_MEMORY_KIB)
    # By processor time, not by the clock: what else runs at this moment must not decide the settings.
    return 1000 * (os.cpu_count() or 1) / cheapest.core_ms


def settings_of_hash(factor: float) -> dict[str, str]:
    """Return the settings of a hash that costs so many times the cheapest: passes first, the rest by memory."""
    passes = min(_MOST_PASSES, max(_PASSES, int(_PASSES * factor)))
    memory_kib = max(_MEMORY_KIB, round(_MEMORY_KIB * factor * _PASSES / passes))
    tell_progress(f"a hash of {passes} passes over {memory_kib} KiB")
    return {"PASSWORD_HASH_PASSES": str(passes), "PASSWORD_HASH_MEMORY_KIB": str(memory_kib)}
