"""Other systems as tests need them: an HTTP endpoint and a syslog receiver, real, on loopback, that can misbehave."""

import datetime
import ipaddress
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"
SYSLOG = re.compile(
    rb"<(?P<priority>\d{1,3})>1 (?P<time>[0-9TZ:.\-]+) (?P<host>\S{1,255}) (?P<app>\S{1,48}) - (?P<id>\S{1,32}) "
    rb"\[capecontrol@32473(?P<structure>(?: [a-z_]+=\"(?:[^\"\\\]]|\\[\"\\\]])*\")*)\] (?P<message>\{.*\})"
)


@dataclass
class Received:
    """What a receiver has got: events in order, and requests with their headers."""

    events: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [event["metadata"]["uid"] for event in self.events]


class HttpEndpoint:
    """Answers each POST as `answer` says, by default 200. `answer` gets the batch and returns a status, headers too,
    or None to hang up without one."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str) -> None:
        self._server = server
        self.url = f"{scheme}://{HOST}:{server.server_address[1]}/events?source=cape"
        self.received = Received()
        self.answer: Callable[[list[dict[str, Any]]], Any] = lambda _batch: 200


@contextmanager
def http_endpoint(*, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[HttpEndpoint]:
    """Run an HTTP endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            batch = [json.loads(line) for line in body.split(b"\n")[:-1]]
            endpoint.received.requests.append({"path": self.path, **dict(self.headers)})
            answer = endpoint.answer(batch)
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            if status is None or 200 <= status < 300:
                endpoint.received.events.extend(batch)
            if status is None:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Clients that refuse our certificate are what is tested."""

    server = Server((HOST, port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    endpoint = HttpEndpoint(server, "https" if tls else "http")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class SyslogServer:
    """Reads frames until the sender ends the connection. `breaks_after` resets it after so many bytes instead.

    `rests` is how many seconds it lets pass before it answers TLS's greeting, and again before its goodbye.
    """

    address: str
    received: Received = field(default_factory=Received)
    breaks_after: int | None = None
    says_goodbye: bool = True
    rests: float = 0


@contextmanager
def syslog_server(tls: ssl.SSLContext, *, port: int = 0) -> Iterator[SyslogServer]:
    """Run a syslog receiver (RFC 5425)."""
    listener = socket.create_server((HOST, port))
    listener.settimeout(0.05)
    server = SyslogServer(f"{HOST}:{listener.getsockname()[1]}")
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            try:
                plain, _ = listener.accept()
            except TimeoutError:
                continue
            plain.settimeout(20)
            is_over.wait(server.rests)
            try:
                _receive(tls.wrap_socket(plain, server_side=True), server)
            except OSError:
                plain.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        is_over.set()
        thread.join()
        listener.close()


def _receive(connection: ssl.SSLSocket, server: SyslogServer) -> None:
    data = b""
    while chunk := connection.recv(4096):
        data += chunk
        if server.breaks_after is not None and len(data) >= server.breaks_after:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            _take_frames(data, server.received, is_whole=False)
            connection.close()  # with a reset: what is under way is lost
            return
    _take_frames(data, server.received, is_whole=True)
    time.sleep(server.rests)
    if server.says_goodbye:
        connection.unwrap().close()
    else:
        connection.close()


def _take_frames(data: bytes, received: Received, *, is_whole: bool) -> None:
    while data:
        length, _, rest = data.partition(b" ")
        size = int(length)
        if len(rest) < size:
            assert not is_whole, "the last frame is cut"
            return
        line, data = rest[:size], rest[size:]
        parsed = SYSLOG.fullmatch(line)
        assert parsed, line
        received.lines.append(line)
        received.events.append(json.loads(parsed["message"]))


@dataclass(frozen=True)
class Certificate:
    """A certificate for 127.0.0.1 that signs itself."""

    file: Path
    server: ssl.SSLContext


def make_certificate(folder: Path, *, name: str = "here", address: str = HOST) -> Certificate:
    """Make one, valid for an hour."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    public = folder / f"{name}.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = folder / f"{name}.key"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return Certificate(public, context)
