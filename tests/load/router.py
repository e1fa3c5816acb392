"""A stand-in for Heroku's router on loopback: a reverse proxy with its rules, its error codes and its log.

The rules are those of devcenter.heroku.com/articles/http-routing, request-timeout and error-codes: 30 seconds to the
first byte, then 55 between two; a random dyno for each request; a dyno that does not listen is left alone for 5
seconds; connections to dynos are kept 90 seconds. Strict where the documentation is silent: a request that got no
answer on a kept connection is H13, and is never sent twice.
"""

import argparse
import asyncio
import contextlib
import functools
import gc
import math
import random
import re
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import uvloop

from tests.load.peers import Client, RouterTrouble, Upstream
from tests.load.wire import (
    END,
    HOP_BY_HOP,
    EndOfMessage,
    Head,
    MalformedMessage,
    chunk,
    head_bytes,
)

DESCRIPTIONS = {
    "H10": "App crashed",
    "H11": "Backlog too deep",
    "H12": "Request timeout",
    "H13": "Connection closed without response",
    "H14": "No web dynos running",
    "H15": "Idle connection",
    "H17": "Poorly formatted HTTP response",
    "H18": "Server Request Interrupted",
    "H19": "Backend connection timeout",
    "H27": "Client Request Interrupted",
    "H28": "Client Connection Idle",
}
CLIENT_GONE_STATUS = 499
_REQUEST_ID = re.compile(rb"[A-Za-z0-9-]{20,200}")
_FLUSH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Rules:
    """The router's limits. Seconds, but for `most_active`: requests at a time to one dyno."""

    first_byte: float = 30.0
    between_bytes: float = 55.0
    connect: float = 5.0
    quarantine: float = 5.0
    kept_idle: float = 90.0
    most_active: int = 50


@dataclass(slots=True)
class Line:
    """A request in the router's log; times in milliseconds, `queue_ms` until a dyno had the head."""

    method: str
    path: str
    request_id: str
    fwd: str
    code: str = ""
    dyno: str = ""
    connect_ms: int = 0
    queue_ms: int = 0
    service_ms: int = 0
    status: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        trouble = f'at=error code={self.code} desc="{DESCRIPTIONS[self.code]}"' if self.code else "at=info"
        return (
            f'{trouble} method={self.method} path="{self.path}" request_id={self.request_id} fwd="{self.fwd}" '
            f"dyno={self.dyno} connect={self.connect_ms}ms queue={self.queue_ms}ms service={self.service_ms}ms "
            f"status={self.status} bytes={self.bytes} protocol=http"
        )

    @classmethod
    def parse(cls, text: str) -> "Line":
        """Return the line that was written as this text."""
        fields = {name: value.strip('"') for name, value in re.findall(r'(\w+)=("[^"]*"|\S*)', text)}
        return cls(
            method=fields["method"],
            path=fields["path"],
            request_id=fields["request_id"],
            fwd=fields["fwd"],
            code=fields.get("code", ""),
            dyno=fields["dyno"],
            connect_ms=int(fields["connect"].removesuffix("ms")),
            queue_ms=int(fields["queue"].removesuffix("ms")),
            service_ms=int(fields["service"].removesuffix("ms")),
            status=int(fields["status"]),
            bytes=int(fields["bytes"]),
        )


@dataclass(slots=True)
class _Dyno:
    name: str
    host: str
    port: int
    active: int = 0
    is_removed: bool = False
    left_alone_until: float = 0.0
    kept: list[Upstream] = field(default_factory=list)


class Router:
    """Proxies one loopback port to the dynos it is given. `lines` is its log."""

    def __init__(
        self,
        dynos: Iterable[tuple[str, int]],
        *,
        rules: Rules | None = None,
        log: TextIO | None = None,
        seed: int | None = None,
    ) -> None:
        """Describe the router; dynos are host and port. With a `log` the lines go there and are not kept."""
        self.rules = rules or Rules()
        self.lines: list[Line] = []
        self.port = 0
        self._log = log
        self._random = random.Random(seed)
        self._dynos: list[_Dyno] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        for host, port in dynos:
            self.add(host, port)

    async def start(self, port: int = 0) -> None:
        """Listen on 127.0.0.1; with port 0 on a free one, which `port` then tells."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Client(self._accept), "127.0.0.1", port, backlog=4096, start_serving=True
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._keep(asyncio.create_task(self._tend()))

    async def stop(self) -> None:
        """Close every connection, finished or not."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for dyno in self._dynos:
            _drop_kept(dyno)
        if self._log is not None:
            self._log.flush()

    def add(self, host: str, port: int) -> None:
        """Send requests to one dyno more."""
        self._dynos.append(_Dyno(f"web.{port}", host, port))

    def remove(self, port: int) -> None:
        """Send no more requests to a dyno; those it has go on."""
        for dyno in self._dynos:
            if dyno.port == port:
                dyno.is_removed = True
                _drop_kept(dyno)
        self._dynos = [dyno for dyno in self._dynos if not dyno.is_removed]

    def _accept(self, client: Client) -> None:
        self._keep(asyncio.create_task(self._serve(client)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tend(self) -> None:
        """Close connections to dynos that were idle too long, and write the log out."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            oldest = time.monotonic() - self.rules.kept_idle
            for dyno in self._dynos:
                for upstream in [kept for kept in dyno.kept if kept.idle_since < oldest]:
                    dyno.kept.remove(upstream)
                    upstream.close()
            if self._log is not None:
                self._log.flush()

    async def _serve(self, client: Client) -> None:
        try:
            while (head := await self._next_head(client)) is not None:
                if not await self._answer(client, head):
                    break
        except (MalformedMessage, ConnectionError, TimeoutError, EOFError):
            client.abort()  # no request that could be answered or logged
        finally:
            client.close()

    async def _next_head(self, client: Client) -> Head | None:
        while True:
            part = client.receiver.take() if not client.receiver.is_between_messages else None
            if isinstance(part, Head):
                return part
            if client.is_gone:
                return None
            await client.more()

    async def _answer(self, client: Client, head: Head) -> bool:
        """Have one request answered and logged; say whether the connection goes on."""
        exchange = _Exchange(self, client, head)
        try:
            return await exchange.run()
        except RouterTrouble as trouble:
            exchange.line.code = "H27" if client.is_gone else trouble.code
            return await exchange.refuse()
        finally:
            exchange.end()
            if self._log is None:
                self.lines.append(exchange.line)
            else:
                self._log.write(f"{exchange.line}\n")

    async def connect(self) -> tuple[_Dyno, Upstream]:
        """Return a connection to a random dyno. Raises RouterTrouble."""
        if not self._dynos:
            raise RouterTrouble("H14")
        code = "H10"
        while candidates := [dyno for dyno in self._dynos if dyno.left_alone_until <= time.monotonic()]:
            free = [dyno for dyno in candidates if dyno.active < self.rules.most_active]
            if not free:
                raise RouterTrouble("H11")
            dyno = self._random.choice(free)
            dyno.active += 1
            try:
                return dyno, _reused(dyno) or await self._new_connection(dyno)
            except (OSError, TimeoutError) as error:
                dyno.active -= 1
                # On loopback a refusal says that no process listens: it crashed, or has not started yet.
                code = "H19" if isinstance(error, TimeoutError) else "H10"
                dyno.left_alone_until = time.monotonic() + self.rules.quarantine
        raise RouterTrouble(code)

    async def _new_connection(self, dyno: _Dyno) -> Upstream:
        async with asyncio.timeout(self.rules.connect):
            _, upstream = await asyncio.get_running_loop().create_connection(Upstream, dyno.host, dyno.port)
        return upstream


class _Exchange:
    """One request on its way to a dyno, and the answer on its way back."""

    def __init__(self, router: Router, client: Client, head: Head) -> None:
        self._router = router
        self._client = client
        self._head = head
        self._began = time.monotonic()
        self._started_at_ms = int(time.time() * 1000)
        self._dyno: _Dyno | None = None
        self._is_request_whole = False
        self._has_answer_begun = False
        given = head.get(b"x-request-id") or b""
        self._request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid4()).encode()
        self.line = Line(
            method=head.first[0].decode("latin-1"),
            path=head.first[1].decode("latin-1"),
            request_id=self._request_id.decode(),
            fwd=client.address,
        )

    async def run(self) -> bool:
        """Proxy; say whether the client's connection goes on. Raises RouterTrouble."""
        self._dyno, upstream = await self._router.connect()
        self.line.dyno = self._dyno.name
        self.line.connect_ms = self.line.queue_ms = self._milliseconds()
        self._client.upstream = upstream
        if self._client.is_gone:
            upstream.abort()
        sending: asyncio.Task[None] | None = None
        is_reusable = False
        try:
            if not self._send_what_is_here(upstream, behind=self._request_head()):
                sending = asyncio.create_task(self._send_rest(upstream))
            head = await self._answer_head(upstream, sending)
            has_ended = await self._pass_answer(upstream, head)
            is_reusable = has_ended and self._is_request_whole and not head.asks_to_close
            return has_ended and self._is_request_whole and not self._head.asks_to_close
        finally:
            self._client.upstream = None
            if sending is not None and not sending.done():
                sending.cancel()
            if is_reusable and not self._client.is_gone and not self._dyno.is_removed:
                upstream.idle_since = time.monotonic()
                self._dyno.kept.append(upstream)
            else:
                upstream.abort()

    async def refuse(self) -> bool:
        """Send the router's own page where nothing was sent yet; say whether the connection goes on."""
        if self._client.is_gone or self._has_answer_begun:
            self.line.status = self.line.status or CLIENT_GONE_STATUS
            self._client.abort()
            return False
        page = _error_page(self.line.code)
        self.line.status = 503
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-cache, no-store")]
        headers.append((b"content-length", str(len(page)).encode()))
        is_last = self._head.asks_to_close or not await self._drop_rest()
        if is_last:
            headers.append((b"connection", b"close"))
        body = b"" if self._head.first[0] == b"HEAD" else page
        self._client.write(head_bytes(b"HTTP/1.1 503 Service Unavailable", headers) + body)
        return not is_last

    def end(self) -> None:
        """Let go of the dyno and complete the line."""
        if self._dyno is not None:
            self._dyno.active -= 1
        self.line.service_ms = self._milliseconds() - self.line.queue_ms

    def _milliseconds(self) -> int:
        return round((time.monotonic() - self._began) * 1000)

    def _request_head(self) -> bytes:
        named = {name.strip() for name in (self._head.get(b"connection") or b"").lower().split(b",")}
        ours = (b"x-request-start", b"x-request-id", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-for")
        headers = [
            (name, value)
            for name, value in self._head.headers
            if name not in HOP_BY_HOP and name not in named and name not in ours
        ]
        if self._head.is_chunked:
            headers = [(name, value) for name, value in headers if name != b"content-length"]
            headers.append((b"transfer-encoding", b"chunked"))
        forwarded = [value for name, value in self._head.headers if name == b"x-forwarded-for"]
        headers += [
            (b"x-request-start", str(self._started_at_ms).encode()),
            (b"x-request-id", self._request_id),
            (b"x-forwarded-for", b", ".join([*forwarded, self._client.address.encode()])),
            (b"x-forwarded-proto", b"http"),
            (b"x-forwarded-port", str(self._router.port).encode()),
        ]
        method, target, _ = self._head.first
        return head_bytes(b"%b %b HTTP/1.1" % (method, target), headers)

    def _send_what_is_here(self, upstream: Upstream, *, behind: bytes = b"") -> bool:
        """Pass on as much of the request's body as has arrived, in one piece with what goes before it; say whether
        that was all. Raises EOFError when the client has stopped in the middle."""
        pieces = [behind]
        try:
            while (part := self._client.receiver.take()) is not None:
                if isinstance(part, EndOfMessage):
                    self._is_request_whole = True
                    pieces.append(chunk(b"") if self._head.is_chunked else b"")
                    break
                if isinstance(part, bytes):
                    pieces.append(chunk(part) if self._head.is_chunked else part)
        finally:
            upstream.write(b"".join(pieces))
        return self._is_request_whole

    async def _send_rest(self, upstream: Upstream) -> None:
        """Pass on the body as it arrives. Raises RouterTrouble when the client stops in the middle."""
        while True:
            await upstream.drain()
            await self._client.more(self._router.rules.between_bytes, or_else="H28")
            try:
                if self._send_what_is_here(upstream):
                    return
            except EOFError:
                raise RouterTrouble("H27") from None

    async def _drop_rest(self) -> bool:
        """Read what is left of the request, for a while, so that the client is ready to read our page."""
        if self._is_request_whole:
            return True
        with contextlib.suppress(TimeoutError, EOFError, MalformedMessage):
            async with asyncio.timeout(self._router.rules.connect):
                while (part := self._client.receiver.take()) is not END:
                    if part is None:
                        await self._client.more()
                return True
        return False

    async def _answer_head(self, upstream: Upstream, sending: asyncio.Task[None] | None) -> Head:
        """Wait for the answer's head. The 30 seconds count from when the dyno has the whole request."""
        receiver = upstream.receiver
        receiver.expect_answer_to(self._head.first[0])
        if sending is None:
            return await self._read_answer_head(upstream, within=self._router.rules.first_byte)
        reading = asyncio.create_task(self._read_answer_head(upstream))
        try:
            await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
            # A dyno may answer, and close, before it has read all: its answer counts. A client that stops does not.
            if sending.done() and isinstance(trouble := sending.exception(), RouterTrouble) and not reading.done():
                raise trouble
            return await self._within_first_byte_limit(reading)
        finally:
            reading.cancel()

    async def _within_first_byte_limit(self, reading: Awaitable[Head]) -> Head:
        try:
            async with asyncio.timeout(self._router.rules.first_byte):
                return await reading
        except TimeoutError:
            raise RouterTrouble("H12") from None

    async def _read_answer_head(self, upstream: Upstream, *, within: float = math.inf) -> Head:
        ends_at = time.monotonic() + within
        has_bytes = False
        while True:
            try:
                part = upstream.receiver.take()
                while isinstance(part, Head) and part.first[1][:1] == b"1":
                    self._client.write(head_bytes(b" ".join(part.first), part.headers))
                    part = upstream.receiver.take()
                if isinstance(part, Head):
                    return part
                await upstream.more(max(0.0, ends_at - time.monotonic()), or_else="H12")
                has_bytes = has_bytes or not upstream.receiver.is_between_messages
            except (EOFError, ConnectionError):
                raise RouterTrouble("H18" if has_bytes else "H13") from None
            except MalformedMessage:
                raise RouterTrouble("H17") from None

    async def _pass_answer(self, upstream: Upstream, head: Head) -> bool:
        """Pass the answer on as it comes. Returns False when only its close can tell the client that it is over."""
        is_old_client = self._head.first[2] == b"HTTP/1.0"
        has_body = not (self._head.first[0] == b"HEAD" or head.first[1] in (b"204", b"304"))
        is_chunked = has_body and head.length is None and not is_old_client
        ends_by_close = has_body and head.length is None and is_old_client
        named = {name.strip() for name in (head.get(b"connection") or b"").lower().split(b",")}
        headers = [(n, v) for n, v in head.headers if n not in HOP_BY_HOP and n not in named]
        if is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        if self._head.asks_to_close or ends_by_close or not self._is_request_whole:
            headers.append((b"connection", b"close"))
        elif is_old_client:
            headers.append((b"connection", b"keep-alive"))
        self._has_answer_begun = True
        self.line.status = int(head.first[1])
        client = self._client
        pending = head_bytes(b"HTTP/1.1 %b %b" % head.first[1:], headers)
        try:
            while True:
                part = self._next_part(upstream)
                if isinstance(part, EndOfMessage):
                    client.write(pending + chunk(b"") if is_chunked else pending)
                    await client.drain()
                    return not ends_by_close
                if isinstance(part, bytes):
                    self.line.bytes += len(part)
                    pending += chunk(part) if is_chunked else part
                elif part is None:  # nothing more is here: let the client have what there is
                    client.write(pending)
                    await client.drain()
                    pending = b""
                    await self._read_more(upstream)
        except ConnectionError:
            raise RouterTrouble("H27") from None

    def _next_part(self, upstream: Upstream) -> Head | bytes | EndOfMessage | None:
        try:
            return upstream.receiver.take()
        except EOFError:
            raise RouterTrouble("H18") from None
        except MalformedMessage:
            raise RouterTrouble("H17") from None

    async def _read_more(self, upstream: Upstream) -> None:
        try:
            await upstream.more(self._router.rules.between_bytes, or_else="H15")
        except ConnectionError:
            raise RouterTrouble("H18") from None


def _reused(dyno: _Dyno) -> Upstream | None:
    """Return the connection used last, leaving out those that the dyno has closed."""
    while dyno.kept:
        upstream = dyno.kept.pop()
        if not upstream.is_gone:
            return upstream
        upstream.abort()
    return None


def _drop_kept(dyno: _Dyno) -> None:
    for upstream in dyno.kept:
        upstream.abort()
    dyno.kept.clear()


def _error_page(code: str) -> bytes:
    return (
        "<!DOCTYPE html><html><head><title>Application error</title></head><body><h1>Application error</h1>"
        f"<p>An error occurred in the application and your page could not be served ({code}).</p></body></html>"
    ).encode()


def make_ready_for_load() -> None:
    """Raise this process's limit of open files as far as it may, and look for no garbage from now on.

    Among all the answers that a run keeps, each search pauses the process for 150 ms, and everything it measures.
    """
    gc.freeze()
    gc.disable()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leave_the_cores_to_the_server() -> None:
    """Take an event loop in C, with which router and generator use a third less of the cores they share with it.

    A bench that compares two routes of one server does without: the less it costs itself, the more it measures the
    server's own share in both, and its figures are compared with those of other days.
    """
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def _run(ports: list[int], log: TextIO, rules: Rules) -> None:
    """Run until SIGTERM or the end of the input, whose lines are `add PORT` and `remove PORT`."""
    router = Router((("127.0.0.1", port) for port in ports), rules=rules, log=log)
    await router.start()
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    loop.add_signal_handler(signal.SIGTERM, functools.partial(orders.feed_eof))
    sys.stdout.write(f"{router.port}\n")
    sys.stdout.flush()
    while order := (await orders.readline()).decode().split():
        if order[0] == "add":
            router.add("127.0.0.1", int(order[1]))
        else:
            router.remove(int(order[1]))
    await router.stop()


def main() -> None:
    """Be a router process: says its port, takes orders on its input, ends with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ports", nargs="+", type=int, help="ports of the dynos on 127.0.0.1")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--first-byte-seconds", type=float, default=Rules().first_byte)
    options = parser.parse_args()
    make_ready_for_load()
    leave_the_cores_to_the_server()
    with options.log.open("a") as log:
        asyncio.run(_run(options.ports, log, Rules(first_byte=options.first_byte_seconds)))


if __name__ == "__main__":
    main()
