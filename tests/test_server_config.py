"""gunicorn's configuration: what it makes of its environment, and that a server started with it keeps its promises."""

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker

from capecontrol.operations.local import is_healthy
from tests.live_server import REPOSITORY, LiveServer, free_port

CONFIGURATION = REPOSITORY / "capecontrol" / "server_config.py"
STOP_SECONDS = 25
LIVE_SERVER = {"worker": False, "WEB_CONCURRENCY": "1"}  # what is refused never goes further than one process

APPLICATION = """\
import atexit, os, pathlib, threading, time
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
requests = Counter("requests", "requests")
atexit.register(pathlib.Path("ended").touch)
def until(is_stopping):
    while not is_stopping():
        yield b"on and "
        time.sleep(0.1)
    yield b"over"
def app(environ, start_response):
    requests.inc()
    if environ["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        body = generate_latest(registry)
    else:
        if environ["PATH_INFO"] == "/long":
            start_response("200 OK", [("Content-Length", str(30_000_000))])
            return [b"x" * 1_000_000] * 30
        if environ["PATH_INFO"] == "/read":
            environ["wsgi.input"].read()
        if environ["PATH_INFO"] == "/until-stopped":
            start_response("200 OK", [])
            return until(environ["capecontrol.is_stopping"])
        if environ["PATH_INFO"] == "/in-line":
            pathlib.Path(f"began-{time.monotonic_ns()}").touch()
            if environ["QUERY_STRING"] == "let-next":
                environ["capecontrol.let_next_begin"]()
            while not pathlib.Path("opened").exists():
                time.sleep(0.02)
            environ["QUERY_STRING"] = ""
        time.sleep(float(environ["QUERY_STRING"] or 0))
        if environ["PATH_INFO"].endswith("/broken"):
            start_response("200 OK", [("X-Broken", "a\\nb")])
        said = environ["wsgi.url_scheme"], environ["REMOTE_ADDR"], str(os.getpid()), str(threading.get_ident())
        body = " ".join(said).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
app.config = {"BEGIN_IN_LINE": {"/in-line"}}
"""
COUNT_FOR_LONG = {"_COUNTS_SECONDS = 0.25": "_COUNTS_SECONDS = 600.0"}


class Server:
    """gunicorn with our configuration and an application that says what it sees."""

    def __init__(self, folder: Path, *options: str, instead: Mapping[str, str] | None = None, **environ: str) -> None:
        (folder / "seen.py").write_text(APPLICATION)
        configuration = CONFIGURATION.read_text()
        for ours, theirs in (instead or {}).items():
            assert ours in configuration
            configuration = configuration.replace(ours, theirs)
        (folder / "configuration.py").write_text(configuration)
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "configuration.py", *options, "seen:app"],
            cwd=folder,
            env=clean_environment() | {"PORT": str(self.port), "TMPDIR": str(folder)} | environ,
        )
        while not is_healthy(self.port):
            assert self.process.poll() is None
            time.sleep(0.05)

    def get(self, path: str, **headers: str) -> str:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().read().decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def start_server(*options: str, instead: Mapping[str, str] | None = None, **environ: str) -> Server:
            server = Server(tmp_path, *options, instead=instead, **environ)
            stack.callback(server.process.wait)
            stack.callback(server.process.terminate)
            return server

        yield start_server


@pytest.fixture
def silent() -> Iterator[Callable[..., list[socket.socket]]]:
    """Yield a function that opens connections and sends nothing on them, as browsers do beforehand."""
    with ExitStack() as stack:
        yield lambda server, count: [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60)) for _ in range(count)
        ]


def clean_environment() -> dict[str, str]:
    ours = ("PORT", "DYNO", "WEB_CONCURRENCY", "WEB_THREADS", "FORWARDED_ALLOW_IPS", "TRUSTED_PROXY_HOPS")
    return {name: value for name, value in os.environ.items() if name not in ours}


@pytest.fixture
def configured(monkeypatch, tmp_path) -> Iterator[Callable[..., Config]]:
    """Yield a function that returns gunicorn's settings for an environment."""

    def load(**environ: str) -> Config:
        monkeypatch.setattr(os, "environ", clean_environment() | {"GUNICORN_CMD_ARGS": ""} | environ)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr(sys, "argv", ["gunicorn", "-c", str(CONFIGURATION), "wsgi:app"])
        return WSGIApplication("%(prog)s").cfg

    return load


def test_on_a_laptop_it_is_for_this_machine_alone(configured):
    settings = configured()
    assert settings.address == [("127.0.0.1", 8000)]
    assert (settings.workers, settings.threads) == (2, 32)


def test_on_a_dyno_it_listens_to_the_router(configured):
    settings = configured(DYNO="web.1", PORT="5000", WEB_CONCURRENCY="3", WEB_THREADS="12")
    assert settings.address == [("0.0.0.0", 5000)]  # noqa: S104
    assert (settings.workers, settings.threads) == (3, 12)


def test_the_heartbeat_is_kept_in_memory(configured):
    # On a slow disk it looks as if a worker hung, and gunicorn kills it.
    memory = Path("/dev/shm")  # noqa: S108
    assert configured().worker_tmp_dir == (str(memory) if memory.is_dir() else None)


def test_each_web_process_says_how_many_connections_the_database_needs(start_server):
    server = start_server(worker=False, WEB_CONCURRENCY="1", DATABASE_POOL="3")
    told = [json.loads(line) for line in server.log().splitlines() if '"database_connections"' in line]
    assert [(line["at_most"], line["limit"]) for line in told] == [
        ("web 5 + worker 6 + release or operator 2 = 13", 20)
    ]


def test_the_ladder_of_times_holds(configured):
    settings = configured()
    assert settings.keepalive > 90
    assert 8 < settings.graceful_timeout < STOP_SECONDS
    assert issubclass(settings.worker_class, ThreadWorker)
    assert settings.worker_connections == 1000
    assert settings.control_socket_disable
    assert not settings.preload_app


def test_each_server_counts_from_zero_and_leaves_nothing(start, tmp_path):
    for _ in range(2):
        server = start(WEB_CONCURRENCY="2")
        asked = 6
        workers = {server.get("/").split()[2] for _ in range(asked)}
        (folder,) = tmp_path.glob("capecontrol-metrics-*")
        assert {path.stem.partition("_")[2] for path in folder.iterdir()} >= workers
        counted = float(server.get("/metrics").split("requests_total ")[-1].split()[0])
        assert counted in (asked + 2, asked + 3)  # with the question itself and one or two about its health
        server.process.terminate()
        assert server.process.wait(STOP_SECONDS) == 0
        assert not list(tmp_path.glob("capecontrol-metrics-*"))


@pytest.mark.parametrize("believed", ["*", "127.0.0.1"])
def test_a_forged_scheme_or_address_is_worth_nothing(start, believed):
    server = start(FORWARDED_ALLOW_IPS=believed)
    forged = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7", "X-Forwarded-Ssl": "on"}
    assert server.get("/", **forged).split()[:2] == ["http", "127.0.0.1"]


def threads_that_answer(server: Server, *, pauses: list[float]) -> list[str]:
    """Return which thread answered each of a kept connection's requests, after all had something to do."""
    with ThreadPoolExecutor(8) as others:
        list(others.map(server.get, ["/?0.2"] * 8))
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        threads = []
        for pause in pauses:
            time.sleep(pause)
            connection.request("GET", "/")
            threads.append(connection.getresponse().read().decode().split()[3])
    return threads


def test_behind_a_router_a_thread_waits_for_what_follows_on_its_connection(start):
    server = start(WEB_CONCURRENCY="1", WEB_THREADS="8", TRUSTED_PROXY_HOPS="1")
    assert len(set(threads_that_answer(server, pauses=[0.0] + 20 * [0.01]))) == 1
    assert len(threads_that_answer(server, pauses=[0.0, 0.05, 0.2, 0.0, 0.15])) == 5, "a later one is answered as well"


def test_without_a_router_each_request_takes_a_thread_that_is_free(start):
    server = start(WEB_CONCURRENCY="1", WEB_THREADS="8")
    assert len(set(threads_that_answer(server, pauses=[0.0] + 20 * [0.01]))) > 1


@pytest.mark.parametrize("hops", ["0", "1"])
def test_a_request_in_progress_is_finished_before_the_server_ends(start, hops):
    server = start(TRUSTED_PROXY_HOPS=hops)
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", "/?1.5")
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert connection.getresponse().status == 200
    assert server.process.wait(STOP_SECONDS) == 0


def test_a_request_that_never_ends_does_not_keep_the_server_nor_what_a_process_does_at_its_end(start, tmp_path):
    # 7 in place of 22 seconds, whose place in the ladder another test holds; the worker's own are 3 less.
    server = start("--graceful-timeout=7", WEB_CONCURRENCY="1")
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("GET", "/?50")
        time.sleep(0.5)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(STOP_SECONDS)
        assert time.monotonic() - began > 3.5
    assert (tmp_path / "ended").exists()


def test_an_answer_without_an_end_comes_to_one_when_the_server_stops(start):
    server = start(WEB_CONCURRENCY="1")
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("GET", "/until-stopped")
        answer = connection.getresponse()
        answer.read(len("on and "))
        server.process.terminate()
        assert answer.read().endswith(b"over")
    assert server.process.wait(STOP_SECONDS) == 0


def test_silent_connections_take_no_threads(start, silent):
    server = start(WEB_CONCURRENCY="1", WEB_THREADS="4")
    silent(server, 60)  # gunicorn's threads would wait 5 s for each, 75 s for all of them
    assert server.get("/").startswith("http"), "within the half minute that it waits"
    speaks = silent(server, 1)[0]
    time.sleep(0.5)
    speaks.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert speaks.recv(9000).startswith(b"HTTP/1.1 200 ")


def test_a_silent_connection_does_not_keep_the_server(start, silent):
    server = start(WEB_CONCURRENCY="1")
    silent(server, 2)
    time.sleep(5.5)  # gunicorn's threads wait so long, and its main thread another 100 s
    began = time.monotonic()
    server.process.terminate()
    assert server.process.wait(2 * STOP_SECONDS) == 0
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("silence", [0, 0.3])
def test_a_connection_that_speaks_while_the_server_stops_is_answered(start, silent, silence):
    server = start(WEB_CONCURRENCY="1")
    (connection,) = silent(server, 1)
    time.sleep(silence)
    server.process.terminate()
    time.sleep(0.5)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = connection.recv(9000)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert server.process.wait(STOP_SECONDS) == 0


@pytest.mark.parametrize(
    ("connections", "kept_alive", "milliseconds", "at_once"),
    [(0, 0, 0, 1), (500, 500, 0, 1), (1, 0, 0.2, 1), (7, 2, 1, 3), (80, 0, 2, 6)],
)
def test_a_process_accepts_later_and_more_at_once_the_more_it_has_in_hand(
    configured, monkeypatch: pytest.MonkeyPatch, connections: int, kept_alive: int, milliseconds: float, at_once: int
):
    """The first to wake would otherwise take nearly all that come at once, and hash them one after another."""
    worker = object.__new__(configured().worker_class)
    worker.alive, worker.nr_conns = True, connections
    worker.keepalived_conns, worker.pending_conns = deque(range(kept_alive)), deque()
    done: list[float | str] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: done.append(seconds * 1000))
    monkeypatch.setattr(ThreadWorker, "accept", lambda *_: done.append("accepted"))
    worker.accept(None)
    assert done == ([pytest.approx(milliseconds)] if milliseconds else []) + ["accepted"] * at_once


@pytest.fixture
def line(configured) -> Any:
    """Return a line in which two begin at a time and count for a minute."""
    return configured().worker_class.run.__globals__["Line"](at_once=2, counts_seconds=60.0)


def test_those_who_stand_in_line_begin_in_the_order_in_which_they_came(line) -> None:
    assert [line.begin(number) for number in range(5)] == [True, True, False, False, False]
    assert line.call_next() == []
    assert line.leave(1) is True, "somebody can begin instead"
    assert line.begin(5) is False, "nobody goes past those who stand"
    assert line.call_next() == [2]
    assert line.begin(2) is True, "it was called"
    assert [line.leave(number) for number in (0, 2, 2)] == [True, True, False]
    assert line.call_next() == [3, 4]
    assert not line.is_empty
    line.leave(3)
    assert line.call_next() == [5]
    assert line.is_empty
    assert line.leave(4) is False, "nobody stands"


@pytest.mark.parametrize(
    ("shown", "stands"),
    [
        (b"GET /in-line HTTP/1.1\r\nHost: localhost\r\n\r\n", True),
        (b"POST /%69n-line?a=b HTTP/1.1\r\nHost: localhost\r\n\r\nbody", True),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", False),
        (b"GET /in-line HTTP/1.1\r\nHost: loc", False),
        (b"GET http://localhost/in-line HTTP/1.1\r\n\r\n", False),
        (b"\r\n\r\n", False),
        (b"", False),
    ],
    ids=["whole", "with a body", "quick", "half a head", "the longer form", "nonsense", "nothing yet"],
)
def test_who_has_to_stand_in_line_is_not_read_before(
    configured, line, monkeypatch: pytest.MonkeyPatch, shown: bytes, stands: bool
) -> None:
    worker = object.__new__(configured().worker_class)
    worker._line, worker._in_line = line, {"/in-line"}
    read: list[Any] = []
    monkeypatch.setattr(ThreadWorker, "enqueue_req", lambda _, conn: read.append(conn))
    assert line.begin(1)
    caller, ours = socket.socketpair()
    with caller, ours:
        caller.sendall(shown)
        first, second = (type("Connection", (), {"sock": ours})() for _ in range(2))
        worker.enqueue_req(first)
        worker.enqueue_req(second)
        assert read == ([first] if stands else [first, second])
        line.leave(1)
        assert line.call_next() == ([second] if stands else [])


@pytest.fixture
def people_in_line(tmp_path) -> Iterator[Callable[..., list[Future[str]]]]:
    """Yield a function that sends so many requests which stand in line, and are not answered before `opened` is there,
    and returns once so many have begun."""
    with ThreadPoolExecutor(12) as people:

        def come(
            server: Server, count: int, query: str = "", *, path: str = "/in-line", until_began: int
        ) -> list[Future[str]]:
            answers = [people.submit(server.get, f"{path}?{query}") for _ in range(count)]
            ends_at = time.monotonic() + 30
            while (began := len([*tmp_path.glob("began-*")])) < until_began:
                assert time.monotonic() < ends_at, f"{began} have begun"
                time.sleep(0.02)
            time.sleep(0.3)  # for others who begin, but should not
            assert len([*tmp_path.glob("began-*")]) == until_began
            return answers

        try:
            yield come
        finally:
            (tmp_path / "opened").touch()


@pytest.mark.parametrize("path", ["/in-line", "/%69n-line"], ids=["plain", "encoded"])
def test_what_is_quick_goes_past_those_who_stand_in_line(start, people_in_line, tmp_path, path: str) -> None:
    server = start(instead=COUNT_FOR_LONG, WEB_CONCURRENCY="1", WEB_THREADS="6")
    answers = people_in_line(server, 12, path=path, until_began=2)
    assert server.get("/").startswith("http")
    assert not any(answer.done() for answer in answers)
    (tmp_path / "opened").touch()
    assert all(answer.result().startswith("http") for answer in answers)


@pytest.mark.parametrize(("query", "instead"), [("", {}), ("let-next", COUNT_FOR_LONG)], ids=["too long", "says so"])
def test_who_takes_too_long_or_says_so_keeps_nobody_from_beginning(
    start, people_in_line, tmp_path, query: str, instead: dict[str, str]
) -> None:
    answers = people_in_line(start(instead=instead, WEB_CONCURRENCY="1"), 9, query, until_began=9)
    (tmp_path / "opened").touch()
    assert all(answer.result().startswith("http") for answer in answers)


@pytest.mark.parametrize("hops", ["0", "1"])
def test_those_who_stand_in_line_are_answered_before_the_server_ends(start, people_in_line, tmp_path, hops) -> None:
    server = start(instead=COUNT_FOR_LONG, WEB_CONCURRENCY="1", TRUSTED_PROXY_HOPS=hops)
    answers = people_in_line(server, 9, until_began=2)
    server.process.terminate()
    time.sleep(0.3)
    began = time.monotonic()
    (tmp_path / "opened").touch()
    assert all(answer.result().startswith("http") for answer in answers)
    assert server.process.wait(STOP_SECONDS) == 0
    assert time.monotonic() - began < 15, "nobody else is waited for, which takes 19 s"


@pytest.mark.parametrize("hops", ["0", "1"])
def test_who_stood_in_line_is_read_to_the_end_and_goes_on_with_the_connection(
    start, people_in_line, silent, tmp_path, hops
) -> None:
    server = start(instead=COUNT_FOR_LONG, WEB_CONCURRENCY="1", TRUSTED_PROXY_HOPS=hops)
    people_in_line(server, 4, until_began=2)
    (connection,) = silent(server, 1)
    connection.sendall(b"POST /in-line HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\na")
    assert not select.select([connection], [], [], 0.5)[0], "it stands in line"
    (tmp_path / "opened").touch()
    connection.sendall(b"b" + 2 * b"GET /read HTTP/1.1\r\nHost: localhost\r\n\r\n")
    taken = b""
    while taken.count(b"http 127.0.0.1 ") < 3:
        more = connection.recv(9000)
        assert more, taken
        taken += more
    assert taken.count(b"HTTP/1.1 200 ") == 3


def raw(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are; return the answer, read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


REQUEST = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
MALFORMED: dict[str, tuple[bytes, int]] = {
    "a line of 9,000 bytes": (REQUEST.replace(b"health", b"health?" + b"a" * 9_000) + b"\r\n", 414),
    "a broken header": (REQUEST + b"No colon in this\r\n\r\n", 400),
    "a header's name with a space": (REQUEST + b"Two words: x\r\n\r\n", 400),
    "a header twice": (REQUEST + b"Host: localhost\r\n\r\n", 400),
    "a header of 20,000 bytes": (REQUEST + b"Cookie: " + b"a" * 20_000 + b"\r\n\r\n", 431),
    "two hundred headers": (REQUEST + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n", 431),
    "no request line": (b"nonsense\r\n\r\n", 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "another version": (REQUEST.replace(b"HTTP/1.1", b"HTTP/9.9") + b"\r\n", 400),
    "an expectation": (REQUEST + b"Expect: a miracle\r\n\r\n", 417),
    "a malformed chunk": (
        REQUEST.replace(b"GET /api/health", b"POST /api/auth/v2/login")
        + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        400,
    ),
    "a transfer coding": (REQUEST + b"Transfer-Encoding: unheard-of\r\n\r\n", 501),
}


@pytest.mark.parametrize(("request_", "status"), MALFORMED.values(), ids=MALFORMED)
def test_what_never_becomes_a_request_is_refused_as_json(live_server: LiveServer, request_: bytes, status: int) -> None:
    answered, headers, body = raw(live_server.port, request_)
    assert (answered, headers["content-type"]) == (status, "application/json")
    assert (headers["cache-control"], headers["connection"]) == ("no-store", "close")
    assert json.loads(body).keys() == {"detail", "errors"}
    assert len(body) == int(headers["content-length"])


def test_a_body_that_does_not_come_in_time_is_refused_and_frees_its_thread(start_server) -> None:
    server = start_server(worker=False, WEB_CONCURRENCY="1", WEB_THREADS="8")
    promise = (
        b"POST /api/auth/v2/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 90\r\n\r\n"
    )

    def drip(connection: socket.socket) -> bytes:
        for _ in range(30):
            connection.sendall(b" ")
            if select.select([connection], [], [], 0.5)[0]:
                return connection.recv(9000)
        return b"waited for"

    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 20)) for _ in range(8)]
        slow = silent.pop()
        for connection in (*silent, slow):
            connection.sendall(promise)
        with ThreadPoolExecutor(1) as pool:
            answered = pool.submit(drip, slow)
            time.sleep(0.5)
            assert not is_healthy(server.port), "all threads wait for a body"
            for connection in silent:
                assert connection.recv(9000).startswith(b"HTTP/1.1 400 ")
            assert answered.result().startswith(b"HTTP/1.1 400 ")
        assert raw(server.port, REQUEST + b"\r\n")[0] == 200, "threads are free again"


def test_headers_have_less_time_to_come_than_a_body(start, silent) -> None:
    head = b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
    server = start(WEB_CONCURRENCY="1", WEB_THREADS="8")
    half_a_body, *half_heads = silent(server, 4)
    half_a_body.sendall(head + b"a")
    time.sleep(0.2)
    for connection in half_heads:
        connection.sendall(head[:30])
    assert half_a_body not in select.select([half_a_body, *half_heads], [], [], 60)[0]
    for connection in half_heads:
        assert connection.recv(9000) == b""
    half_a_body.sendall(b"b")
    assert half_a_body.recv(9000).startswith(b"HTTP/1.1 200 ")


def test_headers_and_a_body_that_come_in_pieces_are_read(start, silent) -> None:
    server = start(WEB_CONCURRENCY="1")
    (connection,) = silent(server, 1)
    for _ in range(2):
        for piece in (b"POST /read HTT", b"P/1.1\r\nHost: localhost\r\n", b"Content-Length: 2\r\n\r\n", b"a", b"b"):
            time.sleep(0.6 if piece in b"ab" else 0.1)
            connection.sendall(piece)
        with closing(http.client.HTTPResponse(connection)) as answer:
            answer.begin()
            assert answer.status == 200
            answer.read()


@pytest.mark.parametrize(("length", "goes_on"), [(60_000, True), (1_000_000, True), (3_000_000, False)])
def test_a_body_nobody_reads_ends_the_connection_only_where_the_answer_says_so(
    live_server: LiveServer, length: int, goes_on: bool
) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", live_server.port, timeout=20)) as connection:
        connection.request("POST", "/api/nothing", b"a" * length, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (404, "keep-alive" if goes_on else "close")
        answer.read()
        kept = connection.sock
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        assert (connection.sock is kept) == goes_on


def test_who_takes_nothing_of_an_answer_is_left(start) -> None:
    sooner = {"_TAKEN_WITHIN_SECONDS = 30.0": "_TAKEN_WITHIN_SECONDS = 3.0"}
    server = start("--threads=4", instead=sooner, WEB_CONCURRENCY="1")
    with ExitStack() as stack:
        for _ in range(4):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 20))
            idle.sendall(b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        assert not is_healthy(server.port), "all threads have an answer to give"
        assert server.get("/").startswith("http")


def test_a_long_request_line_reaches_the_application(live_server: LiveServer) -> None:
    status, headers, body = raw(live_server.port, REQUEST.replace(b"health", b"x?" + b"a" * 5_000) + b"\r\n")
    assert (status, headers["content-type"]) == (404, "application/json")
    assert b"There is nothing here" in body


def test_the_log_of_a_refusal_holds_nothing_of_the_request(live_server: LiveServer) -> None:
    line = REQUEST.replace(b"health", b"health?email=lerato@example.com" + b"a" * 9_000)
    raw(live_server.port, line + b"\r\n")
    raw(live_server.port, REQUEST + b"lerato@example.com\r\n\r\n")
    assert "InvalidHeader" in live_server.log()
    assert "lerato" not in live_server.log()


@pytest.mark.parametrize(
    ("path", "content_type"), [("/broken", "text/plain; charset=utf-8"), ("/api/broken", "application/json")]
)
def test_an_application_that_breaks_is_answered_in_words(start, path: str, content_type: str) -> None:
    server = start(WEB_CONCURRENCY="1")
    line = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    status, headers, body = raw(server.port, line)
    assert (status, headers["content-type"]) == (500, content_type)
    assert b"Something broke on our side" in body
    assert b"X-Broken" not in body
