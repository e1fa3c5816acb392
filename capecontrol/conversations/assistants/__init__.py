"""Who answers in a conversation: the provider interface, and in this release the built-in Guide behind it."""

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.orm import Session

from capecontrol.conversations.assistants import guide
from capecontrol.help.pages import list_sections


@dataclass(frozen=True, slots=True)
class Reply:
    """What a provider answered: markdown, and who wrote it."""

    text: str
    provider: str
    model: str | None = None


class Provider(Protocol):
    """Somebody who can answer a message."""

    name: str

    def reply(self, question: str, session: Session) -> Reply:
        """Return the answer. May read through the session; whatever it raises means: no answer this time."""


class Guide:
    """The help pages, quoted."""

    name = "guide"

    def reply(self, question: str, session: Session) -> Reply:
        """Look the question up in one short read; raises the database's own errors."""
        return Reply(guide.answer(session, question, list_sections()).text, provider=self.name)


def connected_provider() -> Provider:
    """Return who answers now."""
    return Guide()
