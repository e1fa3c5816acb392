"""The router simulator keeps Heroku's rules, and its log says what happened."""

import asyncio
import socket
import time

from tests.load.dynos import Dyno, always, play, routed
from tests.load.router import Line, Router, Rules
from tests.load.traffic import Caller, Connection
from tests.load.wire import request_bytes

HOST = "app.example.com"
GET = request_bytes("GET", "/x?y=1", host=HOST)
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def logged(router: Router, count: int = 1) -> list[Line]:
    """Return the log once it has so many lines."""
    while len(router.lines) < count:
        await asyncio.sleep(0.005)
    return router.lines


async def raw_call(router: Router, request: bytes, *, until: bytes) -> bytes:
    """Send bytes as they are and return what comes up to some text, or to the close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(request)
    got = b""
    while until not in got and (data := await reader.read(65_536)):
        got += data
    writer.close()
    return got


def test_a_request_goes_to_a_dyno_and_the_answer_comes_back():
    async def scene():
        dyno = always(HELLO)
        async with routed(dyno) as (router, caller):
            answer = await caller.call(GET)
            assert (answer.status, answer.body) == (200, b"hello")
            (line,) = await logged(router)
            assert (line.code, line.method, line.path, line.status, line.bytes) == ("", "GET", "/x?y=1", 200, 5)
            assert dyno.requests[0][0].get(b"host") == HOST.encode()

    play(scene())


def test_connections_are_kept_on_both_sides():
    async def scene():
        dyno = always(HELLO)
        async with routed(dyno) as (router, caller):
            for _ in range(5):
                assert (await caller.call(GET)).status == 200
            assert dyno.connections == 1
            assert [line.connect_ms for line in await logged(router, 5)][1:] == [0] * 4

    play(scene())


def test_a_connection_the_dyno_closed_while_idle_is_not_used_again():
    async def scene():
        dyno = always(HELLO, then_close=True)
        async with routed(dyno) as (router, caller):
            for _ in range(3):
                assert (await caller.call(GET)).status == 200
                await asyncio.sleep(0.02)
            assert dyno.connections == 3
            assert {line.code for line in router.lines} == {""}

    play(scene())


def test_idle_connections_to_dynos_end_after_their_time():
    async def scene():
        dyno = always(HELLO)
        async with routed(dyno, kept_idle=0.2) as (_, caller):
            assert (await caller.call(GET)).status == 200
            await dyno.is_left.wait()

    play(scene())


def test_no_first_byte_in_time_is_h12_and_the_dyno_goes_on_without_us():
    async def scene():
        dyno = always(HELLO, after=0.6)
        async with routed(dyno, first_byte=0.2) as (router, caller):
            answer = await caller.call(GET)
            assert answer.status == 503 and 0.2 <= answer.seconds < 0.5
            assert answer.header("Content-Type") == "text/html; charset=utf-8" and b"Application error" in answer.body
            (line,) = await logged(router)
            assert (line.code, line.status) == ("H12", 503) and line.service_ms >= 200

    play(scene())


def test_the_limit_counts_from_when_the_dyno_has_the_whole_request():
    async def scene():
        async with routed(always(HELLO, after=0.15), first_byte=0.3) as (router, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
            await asyncio.sleep(0.4)  # a slow upload is not a slow application
            writer.write(b"cd")
            assert (await reader.read(100)).startswith(b"HTTP/1.1 200")
            writer.close()

    play(scene())


def test_closed_without_an_answer_is_h13():
    async def scene():
        async with routed(always(b"", then_close=True)) as (router, caller):
            assert (await caller.call(GET)).status == 503
            assert [line.code for line in await logged(router)] == ["H13"]

    play(scene())


def test_cut_in_the_middle_is_h18_and_the_client_sees_the_cut():
    async def scene():
        half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel"
        async with routed(always(half, then_close=True)) as (router, caller):
            answer = await caller.call(GET)
            assert (answer.status, answer.error, answer.body) == (0, "connection closed", b"hel")
            (line,) = await logged(router)
            assert (line.code, line.status, line.bytes) == ("H18", 200, 3)

    play(scene())


def test_a_client_that_leaves_is_h27_and_the_dyno_is_told():
    async def scene():
        dyno = always(HELLO, after=0.3)
        async with routed(dyno) as (router, _):
            connection = await Connection.open("127.0.0.1", router.port)
            connection.send(GET, lambda _: None)
            await asyncio.sleep(0.1)
            connection.close()
            (line,) = await logged(router)
            assert (line.code, line.status) == ("H27", 499) and line.service_ms < 250
            await dyno.is_left.wait()

    play(scene())


def test_what_is_no_http_is_h17():
    async def scene():
        async with routed(always(b"SSH-2.0-example\r\n\r\n")) as (router, caller):
            assert (await caller.call(GET)).status == 503
            assert [line.code for line in await logged(router)] == ["H17"]

    play(scene())


def test_silence_between_two_bytes_is_h15():
    async def scene():
        half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel"
        async with routed(always(half), between_bytes=0.1) as (router, caller):
            assert (await caller.call(GET)).status == 0
            assert [line.code for line in await logged(router)] == ["H15"]

    play(scene())


def test_without_dynos_h14_and_with_dead_ones_h10():
    async def scene():
        async with routed() as (router, caller):
            assert (await caller.call(GET)).status == 503
            router.add("127.0.0.1", 1)  # nobody listens there
            assert (await caller.call(GET)).status == 503
            assert [line.code for line in await logged(router, 2)] == ["H14", "H10"]

    play(scene())


def test_a_dyno_that_does_not_take_the_connection_is_h19():
    async def scene():
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            async with routed(connect=0.2) as (router, caller):
                router.add(*full.getsockname())
                assert (await caller.call(GET)).status == 503
                assert [line.code for line in await logged(router)] == ["H19"]
            for filler in fillers:
                filler.close()

    play(scene())


def test_a_dead_dyno_is_left_alone_and_another_one_asked():
    async def scene():
        alive = always(HELLO)
        async with routed(alive) as (router, caller):
            router.add("127.0.0.1", 1)
            assert {(await caller.call(GET)).status for _ in range(20)} == {200}
            assert len(alive.requests) == 20

    play(scene())


def test_requests_go_to_random_dynos_and_a_removed_one_gets_none():
    async def scene():
        one, two = always(HELLO), always(HELLO)
        async with routed(one, two) as (router, caller):
            for _ in range(40):
                await caller.call(GET)
            assert min(len(one.requests), len(two.requests)) > 5
            router.remove(one.server.sockets[0].getsockname()[1])
            before = len(one.requests)
            for _ in range(10):
                await caller.call(GET)
            assert len(one.requests) == before

    play(scene())


def test_too_many_at_a_time_are_h11():
    async def scene():
        async with routed(always(HELLO, after=0.2), most_active=1) as (router, caller):
            other = Caller("127.0.0.1", router.port)
            answers = await asyncio.gather(caller.call(GET), other.call(GET))
            assert sorted(answer.status for answer in answers) == [200, 503]
            assert "H11" in [line.code for line in await logged(router, 2)]
            other.close()

    play(scene())


def test_the_dyno_learns_who_came_when_and_under_which_id():
    async def scene():
        dyno = always(HELLO)
        async with routed(dyno) as (router, caller):
            forged = {"X-Forwarded-For": "198.51.100.7", "X-Request-Start": "1", "X-Forwarded-Proto": "https"}
            now = time.time() * 1000
            await caller.call(request_bytes("GET", "/", host=HOST, headers=forged))
            named = {"X-Request-ID": "01234567-89ab-cdef-0123", "Connection": "keep-alive, X-Private", "X-Private": "1"}
            await caller.call(request_bytes("GET", "/", host=HOST, headers=named))
            (first, _), (second, _) = dyno.requests
            assert abs(int(first.get(b"x-request-start") or 0) - now) < 1000
            assert first.get(b"x-forwarded-for") == b"198.51.100.7, 127.0.0.1"
            assert first.get(b"x-forwarded-proto") == b"http"
            assert first.get(b"x-request-id") == router.lines[0].request_id.encode()
            assert second.get(b"x-request-id") == b"01234567-89ab-cdef-0123"
            assert second.get(b"x-private") is None

    play(scene())


def test_chunks_pass_in_both_directions():
    async def scene():
        chunks = b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nSome: trailer\r\n\r\n"
        dyno = always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        async with routed(dyno) as (_, caller):
            post = (
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n"
            )
            for _ in range(2):
                answer = await caller.call(post)
                assert (answer.status, answer.body) == (200, b"hello")
            assert [body for _, body in dyno.requests] == [b"Wikipedia"] * 2
            assert dyno.connections == 1

    play(scene())


def test_a_body_without_length_ends_with_the_connection():
    async def scene():
        until_close = b"HTTP/1.1 200 OK\r\n\r\nall of it"
        async with routed(always(until_close, then_close=True)) as (router, caller):
            assert (await caller.call(GET)).body == b"all of it"
            got = await raw_call(router, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", until=b"never")
            assert got.endswith(b"all of it") and b"chunked" not in got

    play(scene())


def test_head_and_204_have_no_body_and_keep_the_connection():
    async def scene():
        head = always(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        async with routed(head) as (_, caller):
            for _ in range(2):
                answer = await caller.call(request_bytes("HEAD", "/", host=HOST))
                assert (answer.status, answer.header("Content-Length"), answer.body) == (200, "5", b"")
            assert head.connections == 1
        nothing = always(b"HTTP/1.1 204 No Content\r\n\r\n")
        async with routed(nothing) as (_, caller):
            for _ in range(2):
                assert (await caller.call(GET)).status == 204
            assert nothing.connections == 1

    play(scene())


def test_an_early_answer_to_half_a_request_reaches_the_client():
    async def scene():
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with routed() as (router, _):
            router.add(*server.sockets[0].getsockname())
            post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nthe beginning"
            assert b" 413 " in await raw_call(router, post, until=b"\r\n\r\n")
        server.close()

    play(scene())


def test_a_continue_is_passed_on():
    async def scene():
        async with routed(always(b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO)) as (router, caller):
            got = await raw_call(router, GET, until=b"hello")
            assert got.startswith(b"HTTP/1.1 100") and got.endswith(b"hello")
            assert (await caller.call(GET)).status == 200

    play(scene())


def test_a_stream_is_passed_on_while_it_comes():
    async def scene():
        async def stream(dyno: Dyno, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
            await may_go_on.wait()
            writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

        may_go_on = asyncio.Event()
        async with routed(Dyno(stream)) as (router, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(GET)
            await reader.readuntil(b"one\r\n")
            may_go_on.set()
            await reader.readuntil(b"two\r\n")
            writer.close()

    play(scene())


def test_a_line_of_the_log_can_be_read_again():
    line = Line("GET", "/a?b=c", "id", "127.0.0.1", "H12", "web.1", 1, 2, 30_000, 503, 12)
    assert Line.parse(str(line)) == line
    assert Line.parse(str(Line("GET", "/", "id", "127.0.0.1"))) == Line("GET", "/", "id", "127.0.0.1")


def test_the_limits_are_herokus():
    assert (Rules().first_byte, Rules().between_bytes, Rules().kept_idle) == (30.0, 55.0, 90.0)
