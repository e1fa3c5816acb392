"""Handing a mail over: one SMTP conversation, its certificate checked, each step at most ten seconds."""

import smtplib
import ssl
from typing import TYPE_CHECKING

from flask_mailman import EmailMultiAlternatives
from flask_mailman.backends.smtp import EmailBackend

from capecontrol.config import Settings
from capecontrol.extensions import mail
from capecontrol.mail.letters import Written

if TYPE_CHECKING:
    from flask import Flask

STEP_SECONDS = 10
_PERMANENT = 500
_OUR_NAME = "capecontrol"


class NotSent(Exception):
    """The server did not take the mail; `reason` is a word of ours, since the server's own may hold anything.

    With `is_final` it never will: it refused this address or this mail for good.
    """

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        self.reason = reason
        self.is_final = is_final
        super().__init__(reason)


class VerifiedSmtp(EmailBackend):
    """Flask-Mailman's connection with the server's certificate checked also after STARTTLS, where its own is not."""

    connection: smtplib.SMTP | None

    def open(self) -> bool:
        """Connect, secure and sign in; nothing secret is said before the certificate is checked. Raises OSError."""
        if self.connection is not None:
            return False
        options = {"local_hostname": _OUR_NAME, "timeout": self.timeout}
        connection = (
            smtplib.SMTP_SSL(self.host, self.port, context=self.ssl_context, **options)
            if self.use_ssl
            else smtplib.SMTP(self.host, self.port, **options)
        )
        self.connection = connection
        if self.use_tls:
            connection.starttls(context=self.ssl_context)
        if self.username:
            connection.login(self.username, self.password or "")
        return True

    def close(self) -> None:
        """Say goodbye. The server has the mail by then, so its manners at parting no longer matter."""
        connection, self.connection = self.connection, None
        if connection is not None:
            try:
                connection.quit()
            except (OSError, smtplib.SMTPException):
                connection.close()


def init_app(app: "Flask", settings: Settings) -> None:
    """Tell Flask-Mailman where mail goes; connects to nothing."""
    server = settings.mail_server
    app.config.update(MAIL_BACKEND=VerifiedSmtp, MAIL_TIMEOUT=STEP_SECONDS, MAIL_DEFAULT_SENDER=settings.mail_from)
    if server is not None:
        app.config.update(
            MAIL_SERVER=server.host,
            MAIL_PORT=server.port,
            MAIL_USERNAME=server.user or None,
            MAIL_PASSWORD=server.password or None,
            MAIL_USE_TLS=server.is_starttls,
            MAIL_USE_SSL=server.is_tls,
        )
    mail.init_app(app)


def hand_over(written: Written, *, to: str, mail_id: str) -> None:
    """Give the mail to the server. The same id gives the same Message-ID, by which a second copy is known as one.

    Raises NotSent, without the library's error behind it: those quote the server, and the server quotes people.
    """
    connection = mail.get_connection()
    message = EmailMultiAlternatives(
        written.subject,
        written.text,
        to=[to],
        headers={"Message-ID": f"<{mail_id}@{_OUR_NAME}>", "Auto-Submitted": "auto-generated"},
        connection=connection,
    )
    message.attach_alternative(written.html, "text/html")
    try:
        message.send()
    except (OSError, smtplib.SMTPException) as failure:
        raise _told(failure) from None
    finally:
        _hang_up(connection)


def _told(failure: Exception) -> NotSent:
    if isinstance(failure, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in failure.recipients.values()]
        return NotSent(f"address refused, {max(codes)}", is_final=min(codes) >= _PERMANENT)
    if isinstance(failure, smtplib.SMTPAuthenticationError):
        return NotSent(f"sign-in refused, {failure.smtp_code}")
    if isinstance(failure, smtplib.SMTPDataError):
        return NotSent(f"mail refused, {failure.smtp_code}", is_final=failure.smtp_code >= _PERMANENT)
    if isinstance(failure, smtplib.SMTPSenderRefused):
        return NotSent(f"MAIL_FROM refused, {failure.smtp_code}")
    if isinstance(failure, smtplib.SMTPNotSupportedError):
        return NotSent("the server does not offer what SMTP_URL asks for")
    if isinstance(failure, ssl.SSLError):
        return NotSent("its certificate is not to be trusted, or it speaks no TLS")
    if isinstance(failure, TimeoutError):
        return NotSent("no answer within ten seconds")
    if isinstance(failure, ConnectionRefusedError):
        return NotSent("connection refused")
    return NotSent(type(failure).__name__)


def _hang_up(connection: VerifiedSmtp) -> None:
    """Close what an error left open; the mail's own fate is settled by then."""
    if connection.connection is not None:
        connection.connection.close()
        connection.connection = None
