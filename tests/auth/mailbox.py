"""What the application has written to people: the mails as they were ordered, and the links in them."""

from dataclasses import dataclass
from datetime import timedelta

from flask import Flask
from sqlalchemy import select, update

from capecontrol.auth.models import EmailVerification
from capecontrol.extensions import db
from capecontrol.mail.models import OutgoingMail


@dataclass(frozen=True)
class Mailbox:
    """Everybody's mail, the oldest first."""

    app: Flask

    def letters(self, to: str | None = None) -> list[tuple[str, str]]:
        """Return each letter's name and whom it goes to."""
        return [(mail.letter, mail.recipient) for mail in self._mails(to)]

    def token(self, to: str) -> str:
        """Return the secret of the newest link that was sent to somebody."""
        paths = [mail.fields["path"] for mail in self._mails(to) if mail.letter == "verify_email"]
        return str(paths[-1]).removeprefix("/verify-email?token=")

    def let_an_hour_pass(self) -> None:
        """Make every mail and every link an hour older."""
        hour = timedelta(minutes=61)
        self._execute(update(OutgoingMail).values(created_at=OutgoingMail.created_at - hour))
        self._execute(
            update(EmailVerification).values(
                created_at=EmailVerification.created_at - hour, expires_at=EmailVerification.expires_at - hour
            )
        )

    def let_a_day_pass(self) -> None:
        """Make every link a day older."""
        self._execute(update(EmailVerification).values(expires_at=EmailVerification.expires_at - timedelta(hours=24)))

    def _mails(self, to: str | None) -> list[OutgoingMail]:
        with self.app.app_context():
            wanted = select(OutgoingMail).order_by(OutgoingMail.created_at, OutgoingMail.id)
            if to is not None:
                wanted = wanted.where(OutgoingMail.recipient == to)
            return list(db.session.scalars(wanted))

    def _execute(self, statement) -> None:
        with self.app.app_context():
            db.session.execute(statement)
            db.session.commit()
