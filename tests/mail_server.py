"""A real mail server on loopback, which can be told to refuse, to be dead or to say nothing."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.live_server import free_port

USER = "cape"
PASSWORD = "sea-and-rock-1085"


class MailServer:
    """What arrived is in `mails`, who said which password in `passwords`; `answer` is what recipients are told."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, is_starttls: bool = False) -> None:
        self.port = free_port()
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.passwords: list[str] = []
        self.answer = "250 OK"
        self.connections = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self._tls = tls
        self._is_starttls = is_starttls
        self._controller: Controller | None = None

    def start(self) -> None:
        """Listen, after a stop on the same port again."""
        options: dict[str, object] = {}
        if self._is_starttls:
            options = {"tls_context": self._tls, "require_starttls": True}
        elif self._tls is not None:
            options = {"auth_require_tls": False}  # its own TLS is below what the library looks at
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            ssl_context=None if self._is_starttls else self._tls,
            authenticator=self._authenticate,
            ready_timeout=20,
            **options,
        )
        self._controller.start()

    def stop(self) -> None:
        """Listen no more: connections are refused."""
        self.go_on.set()
        if self._controller is not None:
            self._controller.stop(no_assert=True)
            self._controller = None

    async def handle_EHLO(  # noqa: N802 -- the library's names
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Greet, or keep the caller waiting."""
        self.connections += 1
        while not self.go_on.is_set():
            await asyncio.sleep(0.02)
        session.host_name = hostname
        return responses

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take or refuse a recipient."""
        if self.answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return self.answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep a mail."""
        parsed = message_from_bytes(envelope.content or b"", policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        self.mails.append(parsed)
        self.recipients.extend(envelope.rcpt_tos)
        return "250 kept"

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        self.passwords.append(data.password.decode())
        return AuthResult(success=data.login == USER.encode() and data.password == PASSWORD.encode(), handled=False)


@contextmanager
def running(server: MailServer) -> Iterator[MailServer]:
    """Run a server for as long as it is needed."""
    server.start()
    try:
        yield server
    finally:
        server.stop()
