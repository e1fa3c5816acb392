"""gunicorn's configuration, loaded by path: `gunicorn -c capecontrol/server_config.py wsgi:app`.

Imports nothing of ours, because gunicorn runs it before the application exists. Names are gunicorn's settings;
seconds throughout.
"""

import atexit
import errno
import json
import math
import os
import select
import selectors
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gunicorn import util
from gunicorn.http import errors
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import gthread

# A dyno's router comes from outside; anywhere else the web server is for this machine alone.
bind = f"{'0.0.0.0' if os.environ.get('DYNO') else '127.0.0.1'}:{os.environ.get('PORT') or 8000}"  # noqa: S104

workers = int(os.environ.get("WEB_CONCURRENCY") or 2)
# More than can work at once: most of them wait at the gate, whose waiters are what keeps the hash busy (decision 012).
threads = int(os.environ.get("WEB_THREADS") or 32)

# Admission belongs to the gate in front of the password hash. A limit on sockets is blind to what a request wants,
# makes new clients wait and cuts connections that a router keeps open.
worker_connections = 1000

# A request line of this many bytes still reaches the application, which refuses in its own words what is too long.
limit_request_line = 8190

# Each process builds an application of its own. Shared by fork, a database pool would be one socket with two
# users, a thread started at boot would be missing in the children, and ids made from a copied state could repeat.
preload_app = False

# The router keeps its connections for 90 s. Whoever closes first loses a request, so it must not be us.
keepalive = 100

# The process has to be gone within 25 s of SIGTERM. gunicorn waits this long for its workers, then kills them; the
# rest is for noticing the signal and for cleaning up. The workers themselves wait 3 s less, which is still more than
# the longest request, that may take 8 s to come and 8 s to be answered.
graceful_timeout = 22
_LAST_WRITES_SECONDS = 3

# With threads this is only the worker's heartbeat, which its main thread gives: it finds a process that hangs as a
# whole. Slow requests have limits of their own: PunctualReader's, and the request's budget of 8 s.
timeout = 30

# The heartbeat is a file, and a slow disk under it looks like a hanging worker.
if Path("/dev/shm").is_dir():  # noqa: S108 - gunicorn makes a private file in it
    worker_tmp_dir = "/dev/shm"  # noqa: S108

# Who is believed about the caller's address and scheme is decided once, by TRUSTED_PROXY_HOPS in the application.
# gunicorn's own list would trust every peer on 127.0.0.1, and everybody where FORWARDED_ALLOW_IPS is "*".
forwarded_allow_ips = ""

control_socket_disable = True
accesslog = None  # the application writes a line for each request, with timings
loglevel = "warning"
proc_name = "capecontrol"

# What a person reads where gunicorn alone answers, because the request never became one. The first kind that fits.
_BROKEN = ("500 Internal Server Error", "Something broke on our side, and it is written down. Please try again.")
_REFUSALS: tuple[tuple[type[Exception], str, str], ...] = (
    *(
        (kind, *_BROKEN)
        for kind in (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName, errors.ConfigurationProblem)
    ),
    (
        errors.LimitRequestLine,
        "414 URI Too Long",
        f"This address is longer than {limit_request_line:,} characters. Shorten it, or send the same in a body.",
    ),
    (
        errors.LimitRequestHeaders,
        "431 Request Header Fields Too Large",
        "Your browser or program sends more headers than we read. Clear the cookies of this site and try again.",
    ),
    (
        errors.UnsupportedTransferCoding,
        "501 Not Implemented",
        "The body comes in a transfer coding that we do not read. Send it plainly, or in chunks.",
    ),
    (errors.ExpectationFailed, "417 Expectation Failed", "The only expectation that we meet is 100-continue."),
    (
        errors.ParseException,
        "400 Bad Request",
        "The request could not be read: its first line, a header or a part of its body is malformed.",
    ),
)


# Behind a router a few connections bring everybody's requests, one soon after the other, and a thread looks so long
# for the next. One that it finds does without the main thread, whose part in a request is half a millisecond.
_LINGER_MS = 100 if os.environ.get("DYNO") or os.environ.get("TRUSTED_PROXY_HOPS", "0") not in ("", "0") else 0

_LATER_SECONDS = 0.0002
_MOST_COUNTED = 10
"""A process that has these many requests in hand takes 2 ms longer to accept a connection than an idle one."""


_FIRST_BYTE_WITHIN_SECONDS = 0.05
"""So long a thread waits for what a new connection brings. gunicorn's 5 s make as many silent connections as there are
threads all that a process does; most requests are there at once, and do without the main thread."""

_HEAD_WITHIN_SECONDS = 2.0  # from a request's first byte to the end of its headers, which most bring all at once
_READ_WITHIN_SECONDS = 8.0  # from a request's first byte to its last
_TAKEN_WITHIN_SECONDS = 30.0  # something of an answer, again and again until it is over
_MOST_DISCARDED_BYTES = 2 * 1024 * 1024
"""Of a body that the application left unread, which is twice the longest that it reads. The connection goes on then; a
longer one ends with an answer that says so, or a router would send somebody else's request into it."""

_GOODBYE_SECONDS = 1.0
_GOODBYE_BYTES = 16 * 1024 * 1024
"""So long a caller may take to close the connection after its last answer, and so much may still come of a body that
nobody reads. The kernel would take the answer back from who is cut off in the middle of sending."""

_BEGIN_AT_ONCE = 2
_COUNTS_SECONDS = 0.25
_MOST_SHOWN_BYTES = limit_request_line
_STANDS = object()  # what handling returns of a request that stands in line


class Line:
    """Registrations stand in it before they begin, in the order in which they came (decision 018).

    Each takes a processor for some milliseconds before it hashes, or has its place in the waiting room. Where hundreds
    come in one moment, everything quick, such as a check of an address, would wait behind all of them; so a few begin
    at a time. One that has begun counts until it lets the next begin, and no longer than a quarter of a second: where
    the database hangs, four times as many begin each second all the same, which is more than threads are free then.
    """

    def __init__(self, at_once: int = _BEGIN_AT_ONCE, counts_seconds: float = _COUNTS_SECONDS) -> None:
        """Let so many begin, of which each counts so many seconds at the most."""
        self._at_once = at_once
        self._counts_seconds = counts_seconds
        self._began_at: dict[Any, float] = {}
        self._standing: deque[Any] = deque()
        self._changing = threading.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether nobody stands in it."""
        return not self._standing

    def begin(self, conn: Any) -> bool:
        """Say whether the connection's request may begin; otherwise it stands in line, until `call_next`."""
        with self._changing:
            if conn in self._began_at:
                return True
            if self._standing or not self._has_room():
                self._standing.append(conn)
                return False
            self._began_at[conn] = time.monotonic()
            return True

    def leave(self, conn: Any) -> bool:
        """Forget one that is done, or that needs no processor any more; say whether somebody can begin instead."""
        with self._changing:
            return self._began_at.pop(conn, None) is not None and not self.is_empty

    def call_next(self) -> list[Any]:
        """Return the connections of those who may begin now."""
        called = []
        with self._changing:
            while self._standing and self._has_room():
                called.append(self._standing.popleft())
                self._began_at[called[-1]] = time.monotonic()
        return called

    def _has_room(self) -> bool:
        counts_from = time.monotonic() - self._counts_seconds
        return sum(began_at > counts_from for began_at in self._began_at.values()) < self._at_once


class HoldingParser(RequestParser):
    """Gives a request that stood in line once more, when its turn to begin has come. The rest of it has its time from
    there on, since that it stood is not its caller's doing."""

    held: Any = None

    def __next__(self) -> Any:
        """Return the request that was held, or read the next one."""
        request, self.held = self.held, None
        return request or super().__next__()


class PunctualReader(SocketUnreader):
    """Reads a request that comes in time. gunicorn waits for the rest of one without end, on a thread: as many callers
    as there are threads, who promise a body and send half of it, would be all that a process does.

    Whoever begins requests all the time and never ends them still takes a thread for two seconds with each, or for
    eight with the promise of a body. Against that there is only what stands in front, which sees the addresses.
    """

    _began_at: float | None = None
    _within = _HEAD_WITHIN_SECONDS

    def expect_another(self) -> None:
        """Give the next request its own time, from when it begins."""
        self._began_at, self._within = None, _HEAD_WITHIN_SECONDS

    def expect_body(self) -> None:
        """Give the rest of a request whose headers are there what is left of its time."""
        self._within = _READ_WITHIN_SECONDS

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return what has come. Raises ConnectionResetError, for which gunicorn closes the connection quietly."""
        now = time.monotonic()
        if self._began_at is None:
            self._began_at = now
        left = self._began_at + self._within - now
        if left >= 1e-6:  # none at all would be without end to the kernel
            # The kernel's limit, because gunicorn sets the socket's own to none before each request.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _interval(left))
            try:
                return bytes(super().chunk(size_hint))
            except BlockingIOError:
                self._began_at = -math.inf  # nothing else of it is waited for
        if self._within == _HEAD_WITHIN_SECONDS:
            self.sock.close()  # nothing was answered, so the thread need not wait until that is taken
        raise ConnectionResetError(errno.ECONNRESET, "the request did not come in time")


class Worker(gthread.ThreadWorker):
    """gunicorn's threaded worker, which refuses in the product's own form, JSON with a sentence and never HTML, and
    which cuts nobody off when it stops."""

    wsgi: Any

    def init_process(self) -> None:
        """Wait for the last answers a little shorter than gunicorn's main process, which kills who is there then."""
        self._line = Line()
        self._own = threading.local()
        self.cfg.set("graceful_timeout", max(1, self.cfg.graceful_timeout - _LAST_WRITES_SECONDS))
        super().init_process()

    def load_wsgi(self) -> None:
        """Let the application ask whether its process was told to stop, so that an answer without an end of its own
        can come to one, and say when a registration needs no processor any more."""
        super().load_wsgi()
        application = self.wsgi
        self._in_line = getattr(application, "config", {}).get("BEGIN_IN_LINE", frozenset())

        def answer(environ: dict[str, Any], start_response: Any) -> Any:
            environ["capecontrol.is_stopping"] = lambda: not self.alive
            environ["capecontrol.let_next_begin"] = self._own.let_next_begin
            return application(environ, start_response)

        self.wsgi = answer

    def run(self) -> None:
        """Work until told to stop and everybody has an answer, or the time for that is over."""
        # gunicorn closes it at the end. A thread that is not done would write into whatever is opened next.
        self.method_queue.close = lambda: None
        super().run()
        if self._in_hand() > 0:
            # The interpreter waits for such threads before it does what is registered for its end, such as writing
            # down what the process only counted, and it would be killed meanwhile.
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def enqueue_req(self, conn: Any) -> None:
        """Have a thread read and answer the request. One that shows by a whole head that it has to stand in line is not
        read before it begins: else the heads of hundreds would be read before the next check of an address."""
        if not self._shows_one_for_the_line(conn) or self._line.begin(conn):
            super().enqueue_req(conn)

    def _shows_one_for_the_line(self, conn: Any) -> bool:
        try:
            shown = conn.sock.recv(_MOST_SHOWN_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False
        words = shown.split(b" ", 2)
        if len(words) < 3 or b"\r\n\r\n" not in shown:
            return False
        return self._is_in_line(words[1].partition(b"?")[0].decode("latin-1"))

    def _is_in_line(self, path: str) -> bool:
        return unquote(path) in self._in_line  # as the application will read it

    def handle(self, conn: Any) -> Any:
        """Answer a request, and those that follow it soon on the same connection, as a router's do."""
        result = self._handle_one(conn)
        if result is not _STANDS:
            self._leave_line(conn)  # also where it was called and brought no request
        while result is True and self._brings_another(conn):
            result = self._handle_one(conn)
        if result is False:
            util.close_graceful(conn.sock, timeout=_GOODBYE_SECONDS, max_drain=_GOODBYE_BYTES)
        return result

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Keep the connection for its next request. One that ends was closed by its own thread: gunicorn's main thread
        would wait two seconds for a caller who does not close the other side, and take nobody's connection meanwhile.
        """
        if not fs.cancelled() and fs.exception() is None and fs.result() is _STANDS:
            return  # it has not begun; another thread answers it
        if conn.sock.fileno() == -1:
            self.nr_conns -= 1
        elif conn.parser is None and not self.alive:
            self._await_first_byte(conn)
        else:
            super().finish_request(conn, fs)

    def _await_first_byte(self, conn: Any) -> None:
        """Give a silent connection, also while stopping, the time that a kept one has then. gunicorn would close it."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + gthread.STOP_KEEPALIVE_LINGER
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _cap_keepalive(self, deadline: float) -> None:
        """Wait when stopping for a connection's first request no longer than for the next of a kept one: browsers
        open connections that they may never use."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def _handle_one(self, conn: Any) -> Any:
        if conn.parser is None:
            if not conn.wait_for_data(0.0 if self._is_busy() else _FIRST_BYTE_WITHIN_SECONDS):
                return gthread._DEFER  # the main thread waits for it
            conn.parser = HoldingParser(self.cfg, conn.sock, conn.client)
            conn.parser.unreader = PunctualReader(conn.sock)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _interval(_TAKEN_WITHIN_SECONDS))
        conn.parser.unreader.expect_another()
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer, as long as the caller takes the answer; who does not is left, or would hold a thread for ever."""
        if self._is_in_line(req.path):
            conn.parser.held = req
            if not self._line.begin(conn):
                return _STANDS  # another thread may have it already
            conn.parser.held = None
        try:
            self._own.let_next_begin = partial(self._leave_line, conn)
            conn.parser.unreader.expect_body()
            if any(name == "CONTENT-LENGTH" and int(value) > _MOST_DISCARDED_BYTES for name, value in req.headers):
                req.force_close()
            return super().handle_request(req, conn)
        except BlockingIOError:
            raise ConnectionResetError(errno.ECONNRESET, "the answer was not taken in time") from None
        finally:
            self._leave_line(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Do what there is to do, and let those begin whose turn it is."""
        super().wait_for_and_dispatch_events(timeout if self._line.is_empty else min(timeout, _COUNTS_SECONDS))
        for conn in self._line.call_next():
            super().enqueue_req(conn)

    def _leave_line(self, conn: Any) -> None:
        if self._line.leave(conn):
            self.method_queue.defer(lambda: None)  # only wakes the main thread, which lets the next begin

    def _keepalive_after(self, conn: Any, keepalive: Any) -> Any:
        """Keep the connection where the answer said so, which takes reading what is left of the request."""
        if keepalive is _STANDS:
            return _STANDS
        ends_at = time.monotonic() + gthread.DEFAULT_WORKER_DATA_TIMEOUT
        return bool(keepalive) and bool(conn.parser.finish_body(deadline=ends_at, max_bytes=_MOST_DISCARDED_BYTES))

    def _brings_another(self, conn: Any) -> bool:
        """Say whether the next request comes within a moment; nobody waits for it when as much is in hand as keeps a
        quarter of the threads, or the connection has more to tell than its socket shows."""
        if not _LINGER_MS or self._is_busy() or not self.alive or conn.is_http2 or conn.parser.unreader.buf.getvalue():
            return False
        poller = select.poll()
        poller.register(conn.sock, select.POLLIN)
        return bool(poller.poll(_LINGER_MS))

    def _is_busy(self) -> bool:
        return self._in_hand() > self.cfg.threads // 4

    def _in_hand(self) -> int:
        return int(self.nr_conns - len(self.keepalived_conns) - len(self.pending_conns))

    def accept(self, listener: Any) -> None:
        """Take a new connection, a moment later for everything in hand: so the process that has less to do is quicker.

        The first to wake takes all that come at once otherwise, while another process has nothing to do.
        """
        in_hand = self._in_hand()
        if in_hand > 0 and self.alive:
            time.sleep(min(in_hand, _MOST_COUNTED) * _LATER_SECONDS)
        for _ in range(1 + min(in_hand, _MOST_COUNTED) // 2):
            super().accept(listener)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Shut the door when stopping: who is in front of it is let in, who comes later is refused at once.

        gunicorn leaves the socket open until the last answer is given. The kernel goes on taking connections that
        nobody will ever answer, and a router sends requests into them; a refusal makes it turn to another dyno.
        """
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                while select.select([listener], [], [], 0)[0]:
                    self.accept(listener)
                listener.close()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer what the application never saw or could not answer, and close the connection.

        Text instead of JSON where the request could be read far enough to know that it is for a page. The log gets
        the kind of mistake alone: a request line may hold an address.
        """
        request = req or getattr(exc, "req", None)
        path = getattr(request, "path", None)
        status, sentence = _refusal(exc)
        if status.startswith("500"):
            self.log.exception("Error handling a request")
        else:
            self.log.warning("Refused a request from %s: %s", addr[0] if addr else "-", type(exc).__name__)
        try:
            util.write_nonblock(client, _answer(status, sentence, is_page=_is_page(path)))
        except OSError as failure:
            self.log.debug("The refusal was not read: %s", failure)


worker_class = Worker


def _interval(seconds: float) -> bytes:
    """Return seconds as the kernel takes them for a socket."""
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))


def _refusal(exc: Exception) -> tuple[str, str]:
    """Return the status and the sentence for what gunicorn could not read."""
    return next(((status, sentence) for kind, status, sentence in _REFUSALS if isinstance(exc, kind)), _BROKEN)


def _is_page(path: Any) -> bool:
    return isinstance(path, str) and path != "/api" and not path.startswith("/api/")


def _answer(status: str, sentence: str, *, is_page: bool) -> bytes:
    """Return a whole HTTP answer."""
    body = f"{sentence}\n" if is_page else json.dumps({"detail": sentence, "errors": {}})
    head = (
        f"HTTP/1.1 {status}",
        "Connection: close",
        f"Content-Type: {'text/plain; charset=utf-8' if is_page else 'application/json'}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "",
        body,
    )
    return "\r\n".join(head).encode("ascii")


# The worker processes add up their metrics through files here. They must be in place before the application is
# imported, and new for each server, because files of an earlier one would be counted again. A reload keeps them.
_OWNER = "CAPECONTROL_METRICS_OWNER"
if os.environ.get(_OWNER) != str(os.getpid()):
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="capecontrol-metrics-")
    os.environ[_OWNER] = str(os.getpid())


def child_exit(_server: Any, worker: Any) -> None:
    """Forget the gauges of a worker process that ended; its counts stay in the sum."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def on_exit(_server: Any) -> None:
    """Remove the metrics of this server."""
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
