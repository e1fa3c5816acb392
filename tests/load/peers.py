"""The two ends that the router simulator stands between: clients, and connections to dynos.

Protocols instead of asyncio's streams, which take a fifth more of the cores that the server needs, and do not say that
a client has gone while nobody reads from it.
"""

import asyncio
import math
from collections.abc import Callable
from typing import cast

from tests.load.wire import Receiver

_MOST_UNREAD_BYTES = 131_072


class RouterTrouble(Exception):
    """The request ends with one of the router's own codes."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Peer(asyncio.Protocol):
    """The other end of a connection: what it has sent, and a wait for more."""

    def __init__(self, *, of_requests: bool) -> None:
        self.receiver = Receiver(of_requests=of_requests)
        self.is_gone = False
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._is_broken = False
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.receiver.feed(data)
        self._unread_bytes += len(data)
        if self._waiting is None and self._unread_bytes > _MOST_UNREAD_BYTES and self._transport is not None:
            self._transport.pause_reading()
        _wake(self._waiting)

    def eof_received(self) -> bool:
        self._has_gone()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_broken = exc is not None or self._writing is not None
        self._has_gone()
        _wake(self._writing)

    def pause_writing(self) -> None:
        self._writing = self._loop.create_future()

    def resume_writing(self) -> None:
        _wake(self._writing)
        self._writing = None

    def _has_gone(self) -> None:
        self.is_gone = True
        self.receiver.feed(b"")
        _wake(self._waiting)

    async def more(self, seconds: float = math.inf, or_else: str = "") -> None:
        """Wait until more has come, or the end of it. Raises ConnectionError when it broke off, and RouterTrouble with
        the code `or_else` after so many seconds."""
        self._unread_bytes = 0
        if self._is_broken:
            raise ConnectionResetError
        if self.is_gone or self._transport is None:
            return
        self._transport.resume_reading()
        self._waiting = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._give_up, or_else) if seconds < math.inf else None
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()
        if self._is_broken:
            raise ConnectionResetError

    def _give_up(self, code: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(RouterTrouble(code))

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until little is left to be sent. Raises ConnectionError when the connection is lost."""
        if self._writing is not None:
            await self._writing
        if self._is_broken or self._transport is None or (self.is_gone and self._transport.is_closing()):
            raise ConnectionResetError

    def close(self) -> None:
        """Close when everything is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Upstream(Peer):
    """A connection to a dyno."""

    def __init__(self) -> None:
        super().__init__(of_requests=False)
        self.idle_since = 0.0


class Client(Peer):
    """A client's connection; when the client goes, so does the one to the dyno that works for it."""

    def __init__(self, serve: Callable[["Client"], object]) -> None:
        super().__init__(of_requests=True)
        self.upstream: Upstream | None = None
        self.address = ""
        self._serve = serve

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.address = str(transport.get_extra_info("peername")[0])
        self._serve(self)

    def _has_gone(self) -> None:
        super()._has_gone()
        if self.upstream is not None:
            self.upstream.abort()  # whoever waits for the dyno's answer learns it by this


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
