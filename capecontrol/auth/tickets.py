"""The waiting room's ticket as its holder has it: signed, and bound to an address without telling it."""

import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache

from itsdangerous import BadSignature
from itsdangerous import Signer as TextSigner

from capecontrol.errors import Invalid

_REMEMBERED = 256
"""One registration reads its ticket four times, and to check a signature takes as long as to ask for a place."""


class NotATicket(Invalid):
    """The ticket is not one of ours, or belongs to another address."""

    def __init__(self) -> None:
        super().__init__({"ticket": ["This ticket is not valid for this registration. Send the form without it."]})


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in the queue: `number` orders the tickets, `email_mark` stands for the address it was drawn for."""

    id: str
    number: int
    email_mark: str


class Signer:
    """Writes tickets out and reads them back, so that nobody can make or move one."""

    def __init__(self, secret_key: str) -> None:
        self._signer = TextSigner(secret_key, salt="registration-ticket")
        self._secret = secret_key.encode()
        self._known = lru_cache(_REMEMBERED)(self._check)

    def write(self, ticket: Ticket) -> str:
        """Return the ticket as its holder keeps it."""
        return self._signer.sign(f"{ticket.id}.{ticket.number}.{ticket.email_mark}").decode()

    def read(self, text: str) -> Ticket:
        """Return the ticket somebody came with. Raises NotATicket."""
        return self._known(text)

    def mark(self, email_key: str) -> str:
        """Return what binds a ticket to its address: a keyed hash, from which the address cannot be guessed."""
        return hmac.new(self._secret, b"ticket|" + email_key.encode(), hashlib.sha256).hexdigest()[:24]

    def _check(self, text: str) -> Ticket:
        try:
            ticket_id, number, mark = self._signer.unsign(text).decode().split(".")
            return Ticket(ticket_id, int(number), mark)
        except (BadSignature, ValueError):
            raise NotATicket from None
