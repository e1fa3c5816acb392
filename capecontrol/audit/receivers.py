"""Other systems that receive the record as it grows: an HTTP endpoint, and syslog over TLS.

Each takes a batch whole or not at all as far as we know; what was perhaps taken is sent again, and every event carries
its id, by which the receiver knows it.
"""

import contextlib
import json
import math
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Protocol
from urllib.parse import urlsplit

from capecontrol import clock
from capecontrol.audit import ocsf
from capecontrol.audit.name_resolution import addresses_of

STEP_SECONDS = 10.0
"""How long finding an address, connecting, or one piece sent or read, may take."""

BATCH_SECONDS = 30.0
"""How long one batch may take altogether, finding the address included; a receiver that answers byte by byte is cut
off."""

MOST_RETRY_AFTER = 3600

_LARGEST_ANSWER = 64 * 1024
_TOO_LARGE = 413

# RFC 5424: facility 13 is the log audit; severities from critical (2) to informational (6).
_FACILITY = 13
_SEVERITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6}
_LONGEST_MSGID = 32

# Structured data of our own would need an enterprise number; this one is set aside for examples (RFC 5612).
_STRUCTURE = "capecontrol@32473"

Event = Mapping[str, Any]


class DeliveryFailed(Exception):
    """The receiver did not take the batch. The text is our own, without anything the receiver said."""

    def __init__(self, reason: str, *, retry_after: int | None = None, is_too_large: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.is_too_large = is_too_large


class Receiver(Protocol):
    """One place events go to. `destination` is its address without secrets."""

    name: str
    destination: str

    def send(self, batch: Sequence[Event]) -> None:
        """Send rows of `audit_logs`. Raises DeliveryFailed unless the receiver has them all."""


class HttpReceiver:
    """Takes batches of OCSF events as NDJSON by POST; any status of 200 to 299 means it has them."""

    name = "http"

    def __init__(self, url: str, token: str) -> None:
        self._parts = urlsplit(url)
        self._token = token
        self.destination = f"{self._parts.scheme}://{self._parts.netloc}{self._parts.path}"

    def send(self, batch: Sequence[Event]) -> None:
        """POST the batch. Redirects are not followed: the token is for this address."""
        body = b"".join(_line(event) + b"\n" for event in batch)
        headers = {"Content-Type": "application/x-ndjson", "User-Agent": "capecontrol"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        target = self._parts.path or "/"
        if self._parts.query:
            target += f"?{self._parts.query}"
        limit = _Limit()
        connection, context = self._connection()
        try:
            with _reach(connection.host, connection.port, context, limit) as reached, _cut_off_after(limit, reached):
                connection.sock = reached
                connection.request("POST", target, body=body, headers=headers)
                answer = connection.getresponse()
                answer.read(_LARGEST_ANSWER)
        except (OSError, HTTPException, ValueError) as error:
            raise DeliveryFailed(_told(error)) from None
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise DeliveryFailed(
                f"it answered {answer.status}",
                retry_after=_seconds(answer.headers.get("Retry-After")),
                is_too_large=answer.status == _TOO_LARGE,
            )

    def _connection(self) -> tuple[HTTPConnection, ssl.SSLContext | None]:
        host = self._parts.hostname or ""
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return HTTPSConnection(host, self._parts.port, context=context), context
        return HTTPConnection(host, self._parts.port), None


class SyslogReceiver:
    """Takes events as RFC 5424 lines, framed by their length (RFC 5425).

    Syslog has no answer that says "stored". So each batch has a connection, which we end in order and wait for the
    other side to end too: TLS keeps the order, so by then it has read everything. A connection that breaks first
    counts as not delivered.
    """

    name = "syslog"

    def __init__(self, address: str, *, ca: str, hostname: str) -> None:
        host, _, port = address.rpartition(":")
        self._host = host.strip("[]")
        self._port = int(port)
        self._ca = ca or None
        self._hostname = _header(hostname, 255)
        self.destination = f"syslog+tls://{address}"

    def send(self, batch: Sequence[Event]) -> None:
        """Send the batch over a connection of its own, and see it to its end."""
        lines = [syslog_line(event, self._hostname) for event in batch]
        frames = b"".join(b"%d %b" % (len(line), line) for line in lines)
        try:
            limit = _Limit()
            context = ssl.create_default_context(cafile=self._ca)
            with _reach(self._host, self._port, context, limit) as connection:
                connection.settimeout(limit.left())
                connection.sendall(frames)
                connection.settimeout(limit.left())
                # Some close without TLS's own goodbye. A system closes a connection in order only when all of it was
                # read; what was not read is answered with a reset, which is another error.
                with contextlib.suppress(ssl.SSLEOFError):
                    connection.unwrap()
        except (OSError, ValueError) as error:
            raise DeliveryFailed(_told(error)) from None


class _Limit:
    """The time one batch has altogether, from now on."""

    def __init__(self) -> None:
        self._ends_at = clock.monotonic() + BATCH_SECONDS

    def left(self, *, at_most: float = math.inf) -> float:
        """Return the seconds a step may take. Raises TimeoutError when none are left."""
        left = self._ends_at - clock.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, at_most)


@contextlib.contextmanager
def _reach(host: str, port: int, context: ssl.SSLContext | None, limit: _Limit) -> Iterator[Any]:
    """Connect, with TLS where there is a context. A name may stand for many addresses, each with its own wait."""
    with _connect(host, port, limit) as plain:
        if context is None:
            yield plain
            return
        plain.settimeout(limit.left(at_most=STEP_SECONDS))
        with context.wrap_socket(plain, server_hostname=host) as connection:
            connection.settimeout(STEP_SECONDS)
            yield connection


def _connect(host: str, port: int, limit: _Limit) -> socket.socket:
    trouble = OSError("it has no address")
    found = addresses_of(host, port, seconds=limit.left(at_most=STEP_SECONDS))
    for family, kind, protocol, _, address in found:
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(limit.left(at_most=STEP_SECONDS))
            plain.connect(address)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            plain.close()
            trouble = error
        else:
            plain.settimeout(STEP_SECONDS)
            return plain
    raise trouble


def syslog_line(event: Event, hostname: str) -> bytes:
    """Return an event as a line of RFC 5424, in ASCII: what it says in other letters is escaped in its JSON."""
    priority = _FACILITY * 8 + _SEVERITIES.get(event["event_level"], 5)
    moment = event["created_at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    marks = {
        "event_id": event["event_id"],
        "event_type": event["event_type"],
        "outcome": "success" if event["success"] else "failure",
        "user_id": event["actor_ref"],
        "account_id": None if event["actor_ref"] else event["user_id"],
        "src_ip": event["ip_address"],
        "request_id": event["request_id"],
    }
    structure = "".join(f' {name}="{_parameter(value)}"' for name, value in marks.items() if value)
    message_id = _header(event["event_type"], _LONGEST_MSGID)
    head = f"<{priority}>1 {moment} {hostname} capecontrol - {message_id} [{_STRUCTURE}{structure}] "
    return head.encode("ascii") + _line(event)


def _line(event: Event) -> bytes:
    """Return the event as one line of JSON in plain ASCII, in which nothing can begin a line of its own."""
    return (
        json.dumps(ocsf.describe(event), ensure_ascii=True, separators=(",", ":"))
        .encode("ascii")
        .replace(b"\x7f", b"\\u007f")
    )


def _parameter(value: str) -> str:
    """Return a value of structured data: escaped as RFC 5424 wants it, without control characters, in ASCII."""
    plain = "".join(character if " " <= character <= "~" else "?" for character in str(value)[:500])
    return plain.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


def _header(value: str, longest: int) -> str:
    """Return a field of the header: printable ASCII without spaces, or the sign for nothing."""
    return "".join(character for character in value if "!" <= character <= "~")[:longest] or "-"


def _seconds(header: str | None) -> int | None:
    text = (header or "").strip()
    return min(int(text), MOST_RETRY_AFTER) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _told(error: Exception) -> str:
    """Return what went wrong in words of the system's, never the receiver's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or type(error).__name__})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"the connection broke ({type(error).__name__})"


@contextlib.contextmanager
def _cut_off_after(limit: _Limit, connection: socket.socket) -> Iterator[None]:
    """Wake up whoever waits on the connection when the limit is over; closing it would not."""
    ending = threading.Timer(limit.left(), _cut_off, [connection])
    ending.daemon = True
    ending.start()
    try:
        yield
    finally:
        ending.cancel()


def _cut_off(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it ended by itself in the same moment
        connection.shutdown(socket.SHUT_RDWR)
