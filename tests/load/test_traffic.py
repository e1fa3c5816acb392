"""The generator counts what was answered, from when it was due, and says what was not."""

import asyncio
import time

import pytest

from tests.load.applicants import Registrar
from tests.load.dynos import Dyno, always, play
from tests.load.traffic import Caller, Connection, arrivals, crowd, hammer, probe
from tests.load.wire import request_bytes

GET = request_bytes("GET", "/", host="app.example.com")
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def test_a_closed_loop_counts_answers_and_keeps_its_connections():
    async def scene():
        dyno = always(HELLO, after=0.01)
        host, port = await dyno.start()
        rate, answers = await hammer(host, port, [GET], connections=4, seconds=0.5, warm_up=0.1)
        assert 100 < rate <= 400 and {answer.status for answer in answers} == {200}
        assert dyno.connections == 4
        dyno.server.close()

    play(scene())


def test_an_open_loop_does_not_wait_and_counts_from_when_it_was_due():
    async def scene():
        dyno = always(HELLO, after=0.3)
        host, port = await dyno.start()
        until = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, until.set)
        answers = await probe(host, port, [GET], rate=50, until=until, connections=2)
        assert 20 <= len(answers) <= 26
        assert all(0.3 <= answer.seconds < 0.6 for answer in answers)
        dyno.server.close()

    play(scene())


def test_a_crowd_comes_when_it_comes():
    async def scene():
        began = time.monotonic()

        async def come(number: int, due_at: float) -> float:
            came = time.monotonic() - began
            await asyncio.sleep(0.2)
            return came

        assert await crowd(come, when=[0.0, 0.05, 0.1]) == pytest.approx([0.0, 0.05, 0.1], abs=0.04)

    play(scene())


def test_whoever_could_not_come_when_due_counts_from_then_all_the_same():
    async def scene():
        dyno = always(HELLO)
        registrar = Registrar(*await dyno.start(), "late", patience=0)
        asyncio.get_running_loop().call_later(0.05, time.sleep, 0.5)
        journeys = await crowd(registrar.come, when=[0.0, 0.1])
        assert journeys[0].posts[0].seconds < 0.4
        assert journeys[1].posts[0].seconds > 0.4
        assert journeys[1].seconds > 0.4
        dyno.server.close()

    play(scene())


def test_arrivals_are_as_many_as_asked_for_and_the_same_each_time():
    assert 900 < len(list(arrivals(100, 10))) < 1100
    assert list(arrivals(5, 3, seed=7)) == list(arrivals(5, 3, seed=7))


def test_what_was_not_answered_says_why():
    async def scene():
        dyno = always(HELLO, after=5)
        host, port = await dyno.start()
        caller = Caller(host, port)
        late = await caller.call(GET, seconds=0.1)
        assert (late.status, late.error) == (0, "no answer in 0.1 s")
        nobody = await Caller("127.0.0.1", 1).call(GET)
        assert nobody.status == 0 and nobody.error.startswith("not connected")
        dyno.server.close()

    play(scene())


def test_a_cut_connection_is_replaced_by_the_next_call():
    async def scene():
        async def cut_first(dyno: Dyno, writer: asyncio.StreamWriter) -> None:
            if len(dyno.requests) > 1:
                writer.write(HELLO)
            else:
                writer.close()

        dyno = Dyno(cut_first)
        caller = Caller(*await dyno.start())
        assert (await caller.call(GET)).error == "connection closed"
        assert (await caller.call(GET)).body == b"hello"
        caller.close()
        dyno.server.close()

    play(scene())


def test_an_answer_that_asks_to_close_closes():
    async def scene():
        dyno = always(HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        connection = await Connection.open(*await dyno.start())
        assert (await connection.call(GET)).status == 200
        assert not connection.is_open
        dyno.server.close()

    play(scene())
