"""The kinds of failure the domain can raise; each says the fact in words a person can read."""

from collections.abc import Mapping, Sequence


class DomainError(Exception):
    """A refusal that is part of the product: it has a sentence, and changes nothing."""

    detail = "That could not be done."

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or self.detail
        super().__init__(self.detail)


class NotFound(DomainError):
    """The thing does not exist, or is somebody else's: the two are told apart for nobody."""

    detail = "There is nothing at this address."


class SignInRequired(DomainError):
    """Nobody is signed in, or the token is not (or no longer) valid."""

    detail = "Please sign in first."


class Forbidden(DomainError):
    """The person is known and may not do this."""

    detail = "You may not do this."


class Conflict(DomainError):
    """The thing exists already, or is in a state that does not allow this."""


class Invalid(DomainError):
    """The input breaks a rule; `errors` maps each field to its sentences."""

    detail = "Please correct the fields named below."

    def __init__(self, errors: Mapping[str, Sequence[str]], detail: str | None = None) -> None:
        self.errors = {field: list(texts) for field, texts in errors.items()}
        super().__init__(detail or _summary(self.errors) or None)


class NotReadable(DomainError):
    """The body could not be read at all: wrong encoding, broken JSON, not an object."""

    detail = "The request could not be read."


class UnsupportedContent(DomainError):
    """The body came as a content type this address does not take."""

    detail = "Send this as application/json."


class RetryLater(DomainError):
    """Not now; the caller may come again after `retry_after` seconds."""

    detail = "We are busy right now. Please try again in a moment."

    def __init__(self, detail: str | None = None, *, retry_after: int = 2) -> None:
        self.retry_after = max(1, retry_after)
        super().__init__(detail)


class Overloaded(RetryLater):
    """More work than can be answered in time; nothing was changed."""


class Unavailable(RetryLater):
    """Something behind us does not answer; nothing was changed."""

    detail = "We cannot answer this right now. Please try again in a moment."


class CallerLeft(RetryLater):
    """Whoever asked has gone, and the work was dropped before it began; nobody reads this."""

    detail = "The connection was closed, so nothing was done. Please try again."


class RateLimited(RetryLater):
    """This caller asked too often."""

    detail = "That was a little too often. Please wait a moment and try again."


def _summary(errors: Mapping[str, Sequence[str]]) -> str:
    return " ".join(text for texts in errors.values() for text in texts)
