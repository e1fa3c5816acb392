"""Dynos that behave in one way each, and a router in front of them, for the tests of the load tools."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.load.router import Router, Rules
from tests.load.traffic import Caller
from tests.load.wire import END, Head, Receiver

SECONDS = 20


@dataclass
class Dyno:
    """A server on a free port. `answer` gets each whole request and writes what it likes.

    `connections` counts those that were made, `requests` keeps what came, `is_left` is set when a caller goes.
    """

    answer: Callable[["Dyno", asyncio.StreamWriter], Awaitable[None]]
    requests: list[tuple[Head, bytes]] = field(default_factory=list)
    connections: int = 0
    is_left: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Server | None = None

    async def start(self) -> tuple[str, int]:
        """Listen; return host and port."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[:2]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._take_requests(reader, writer)
        except (EOFError, ConnectionError):
            self.is_left.set()
        finally:
            writer.transport.abort() if self.is_left.is_set() else writer.close()

    async def _take_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        receiver = Receiver(of_requests=True)
        head: Head | None = None
        pieces: list[bytes] = []
        while not writer.is_closing():
            part = receiver.take() if not receiver.is_between_messages else None
            if part is None:
                data = await reader.read(65_536)
                if not data:
                    raise EOFError
                receiver.feed(data)
            elif isinstance(part, Head):
                head, pieces = part, []
            elif part is END:
                assert head is not None
                self.requests.append((head, b"".join(pieces)))
                await self.answer(self, writer)
            elif isinstance(part, bytes):
                pieces.append(part)


def always(answer: bytes, *, after: float = 0.0, then_close: bool = False) -> Dyno:
    """Return a dyno with one answer to everything, given after some seconds."""

    async def write(dyno: Dyno, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after)
        writer.write(answer)
        if then_close:
            await writer.drain()
            writer.close()

    return Dyno(write)


@asynccontextmanager
async def routed(*dynos: Dyno, **limits: Any) -> AsyncIterator[tuple[Router, Caller]]:
    """Yield a router in front of these dynos, and somebody who calls it."""
    router = Router([await dyno.start() for dyno in dynos], rules=Rules(**limits), seed=1)
    await router.start()
    caller = Caller("127.0.0.1", router.port)
    try:
        yield router, caller
    finally:
        caller.close()
        await router.stop()
        for dyno in dynos:
            if dyno.server is not None:
                dyno.server.close()


def play(scene: Coroutine[Any, Any, None]) -> None:
    """Run a test's scene; it fails when it hangs."""

    async def bounded() -> None:
        async with asyncio.timeout(SECONDS):
            await scene
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.01)  # connections that were closed are gone a turn of the loop later

    asyncio.run(bounded())
