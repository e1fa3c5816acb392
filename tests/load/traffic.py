"""Load in both kinds: callers who wait for their answer (closed loop), and callers who come when they come (open loop).

An open loop counts from the moment a request was due, so that a server which makes the generator wait does not hide
its own waiting. The code is lean because it shares its cores with what it measures.
"""

import asyncio
import contextlib
import itertools
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any, TypeVar, cast

from tests.load.wire import EndOfMessage, Head, MalformedMessage, Receiver

Result = TypeVar("Result")

_BEGINS_WITHIN_SECONDS = 30.0
_events: list[Event] = []
"""In a process that only probes: what says that it has begun, and what it ends by."""


@dataclass(slots=True)
class Answer:
    """What came back, and when (monotonic seconds). Status 0: no answer, and `error` says why."""

    status: int
    began_at: float
    ended_at: float
    head: Head | None = None
    body: bytes = b""
    error: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_at - self.began_at

    def header(self, name: str) -> str | None:
        """Return a header's value, or None."""
        value = self.head.get(name.lower().encode()) if self.head is not None else None
        return value.decode("latin-1") if value is not None else None


class Connection(asyncio.Protocol):
    """A kept connection with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._receiver = Receiver(of_requests=False)
        self._take_answer: Callable[[Answer], object] | None = None
        self._answer: Answer | None = None
        self._pieces: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        """Connect. Raises OSError."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Close, whatever is still under way."""
        if self._transport is not None:
            self._transport.abort()

    def send(self, request: bytes, take_answer: Callable[[Answer], object], *, seconds: float = 60.0) -> None:
        """Send a request; the answer, or after that time the lack of one, goes to `take_answer`."""
        self._receiver.expect_answer_to(request[: request.index(b" ")])
        self._take_answer = take_answer
        self._answer = Answer(0, time.monotonic(), 0.0)
        self._pieces = []
        if not self.is_open or self._transport is None:
            self._loop.call_soon(self._finish, "not connected")
            return
        self._timer = self._loop.call_later(seconds, self._give_up, seconds)
        self._transport.write(request)

    async def call(self, request: bytes, *, seconds: float = 60.0) -> Answer:
        """Send a request and wait for its answer, or for the lack of one."""
        waiting: asyncio.Future[Answer] = self._loop.create_future()

        def take(answer: Answer) -> None:
            if not waiting.done():
                waiting.set_result(answer)

        self.send(request, take, seconds=seconds)
        return await waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        self._receiver.feed(data)
        self._take_parts()

    def connection_lost(self, exc: Exception | None) -> None:
        """Be disconnected: that is the end of some answers, and the lack of the others."""
        self._receiver.feed(b"")
        self._take_parts()
        self._finish("connection closed")

    def _take_parts(self) -> None:
        try:
            while self._answer is not None and (part := self._receiver.take()) is not None:
                if isinstance(part, bytes):
                    self._pieces.append(part)
                elif isinstance(part, EndOfMessage):
                    self._finish("")
                elif part.first[1][:1] != b"1":
                    self._answer.head = part
        except MalformedMessage as error:
            self._finish(f"malformed: {error}")
            self.close()
        except EOFError:
            self._finish("connection closed")

    def _give_up(self, seconds: float) -> None:
        self._finish(f"no answer in {seconds:g} s")
        self.close()

    def _finish(self, error: str) -> None:
        answer, take_answer = self._answer, self._take_answer
        if answer is None or take_answer is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._answer = self._take_answer = self._timer = None
        answer.ended_at = time.monotonic()
        answer.error = error
        answer.body = b"".join(self._pieces)
        if answer.head is not None:
            answer.status = 0 if error else int(answer.head.first[1])
            if answer.head.asks_to_close:
                self.close()
        take_answer(answer)


@dataclass(slots=True)
class Caller:
    """Somebody who keeps a connection, and connects anew when it is gone."""

    host: str
    port: int
    _connection: Connection | None = field(default=None, init=False)

    async def call(self, request: bytes, *, seconds: float = 60.0) -> Answer:
        """Send a request and wait; connecting counts towards the time."""
        began_at = time.monotonic()
        if self._connection is None or not self._connection.is_open:
            try:
                self._connection = await Connection.open(self.host, self.port)
            except OSError as error:
                return Answer(0, began_at, time.monotonic(), error=f"not connected: {error}")
        answer = await self._connection.call(request, seconds=seconds)
        answer.began_at = began_at
        return answer

    def close(self) -> None:
        """Leave."""
        if self._connection is not None:
            self._connection.close()


async def hammer(
    host: str, port: int, requests: Iterable[bytes], *, connections: int, seconds: float, warm_up: float = 0.5
) -> tuple[float, list[Answer]]:
    """Send the requests, over and over, one at a time on each connection; a closed loop without tasks.

    Return the answers a second and the answers, counted after the warm-up.
    """
    endless = itertools.cycle(list(requests))
    answers: list[Answer] = []
    counts_from = time.monotonic() + warm_up
    ends_at = counts_from + seconds
    open_connections = [await Connection.open(host, port) for _ in range(connections)]
    running = connections
    all_ended = asyncio.Event()

    def send_next(connection: Connection) -> None:
        nonlocal running
        if time.monotonic() >= ends_at or not connection.is_open:
            running -= 1
            if running == 0:
                all_ended.set()
            return
        connection.send(next(endless), lambda answer: take(connection, answer))

    def take(connection: Connection, answer: Answer) -> None:
        if counts_from <= answer.ended_at < ends_at:
            answers.append(answer)
        send_next(connection)

    for connection in open_connections:
        send_next(connection)
    await all_ended.wait()
    for connection in open_connections:
        connection.close()
    return len(answers) / seconds, answers


async def crowd(
    come: Callable[[int, float], Coroutine[Any, Any, Result]],
    *,
    when: Iterable[float],
    started_at: float | None = None,
) -> list[Result]:
    """Let each come at its time (seconds after the start), whatever the others do: an open loop. Each is told its
    number and when it was due (monotonic), from which its time counts. Return all results."""
    began = time.monotonic() if started_at is None else started_at
    tasks: list[asyncio.Task[Result]] = []
    for number, due in enumerate(when):
        wait = began + due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(come(number, began + due)))
    return list(await asyncio.gather(*tasks))


def arrivals(rate: float, seconds: float, *, seed: int = 1) -> Iterator[float]:
    """Yield the times of independent arrivals at a rate a second (a Poisson process), the same for the same seed."""
    chance = random.Random(seed)
    due = chance.expovariate(rate)
    while due < seconds:
        yield due
        due += chance.expovariate(rate)


async def probe(
    host: str, port: int, requests: Iterable[bytes], *, rate: float, until: asyncio.Event, connections: int = 8
) -> list[Answer]:
    """Send requests at even times until told to end, on kept connections; an answer's time counts from when it was due.

    More connections are opened when all wait, so that the probe itself never waits.
    """
    endless = itertools.cycle(list(requests))
    free = [Caller(host, port) for _ in range(connections)]
    tasks: list[asyncio.Task[Answer]] = []
    began = time.monotonic()

    async def send(due: float, request: bytes) -> Answer:
        caller = free.pop() if free else Caller(host, port)
        answer = await caller.call(request)
        answer.began_at = due
        free.append(caller)
        return answer

    for number in itertools.count():
        due = began + number / rate
        wait = due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        if until.is_set():
            break
        tasks.append(asyncio.create_task(send(due, next(endless))))
    answers = list(await asyncio.gather(*tasks))
    for caller in free:
        caller.close()
    return answers


@contextlib.asynccontextmanager
async def probing_apart(host: str, port: int, requests: list[bytes], *, rate: float) -> AsyncIterator[list[Answer]]:
    """Probe from a process of its own while the context lasts; after it, the answers are in the list.

    Where hundreds come in one moment, the process that sends them would send the probe's requests late, and take the
    answers late.
    """
    spawning = multiprocessing.get_context("spawn")
    has_begun, is_to_end = spawning.Event(), spawning.Event()
    answers: list[Answer] = []
    with ProcessPoolExecutor(
        1, mp_context=spawning, initializer=_remember_events, initargs=(has_begun, is_to_end)
    ) as apart:
        running = asyncio.get_running_loop().run_in_executor
        probing = running(apart, partial(_probe_until_told, host, port, requests, rate=rate))
        try:
            if not await running(None, has_begun.wait, _BEGINS_WITHIN_SECONDS):
                raise TimeoutError("the probe did not begin")
            yield answers
        finally:
            is_to_end.set()
            answers += await probing


def _remember_events(*events: Event) -> None:
    """Keep what can be given to a process only as it starts."""
    _events[:] = events


def _probe_until_told(host: str, port: int, requests: list[bytes], *, rate: float) -> list[Answer]:
    """Probe until the second event, having set the first."""
    has_begun, is_to_end = _events

    async def run() -> list[Answer]:
        until = asyncio.Event()
        probing = asyncio.create_task(probe(host, port, requests, rate=rate, until=until))
        has_begun.set()
        while not is_to_end.is_set():
            await asyncio.sleep(0.05)
        until.set()
        return await probing

    return asyncio.run(run())
