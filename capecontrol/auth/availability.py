"""Whether an address can still be registered: one look-up, quick whatever registration is doing."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, each_second
from capecontrol.audit import events
from capecontrol.audit.recorder import record
from capecontrol.auth import email_addresses
from capecontrol.database import look_up
from capecontrol.errors import Unavailable
from capecontrol.extensions import db

RECORDED_EVERY_SECONDS = 60.0

_COUNTED = ("checked", "taken", "refused")
_WILL_DO = "This address will do."
_ACCOUNT = "SELECT 1 FROM users_v2 WHERE email_key = %s"

log = structlog.get_logger("availability")


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether an address can still be registered; `reason` is part of the contract with the browser client.

    `suggestion` is what was probably meant where the address looks mistyped. It changes nothing about the rest.
    """

    available: bool
    message: str
    reason: str | None = None
    suggestion: str | None = None


class Checks:
    """How many checks this process has answered or turned away since they were last recorded.

    An event for each would be a write for each pause in somebody's typing, so a minute's checks are one event.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._since: float | None = None

    def count(self, *outcomes: str) -> None:
        """Count one more of each outcome: `checked`, of these `taken`, and `refused`."""
        with self._lock:
            if self._since is None:
                self._since = clock.monotonic()
            for outcome in outcomes:
                self._counts[outcome] += 1

    def take(self, *, at_once: bool) -> dict[str, int] | None:
        """Return a minute's counts and begin anew; None where nobody asked, or, unless `at_once`, within the minute."""
        with self._lock:
            if self._since is None:
                return None
            if not at_once and clock.monotonic() - self._since < RECORDED_EVERY_SECONDS:
                return None
            taken, self._counts, self._since = self._counts, dict.fromkeys(_COUNTED, 0), None
        return taken

    def put_back(self, counts: dict[str, int]) -> None:
        """Keep counts that could not be recorded, for the next minute's event."""
        with self._lock:
            for outcome, number in counts.items():
                self._counts[outcome] += number
            self._since = clock.monotonic()


checks = Checks()


def check_email(text: str, *, admit: Callable[[str], None], is_neutral: bool = False) -> Availability:
    """Say whether the address can be registered. A hint only: the registration itself decides.

    `is_neutral`: every well-formed address is called available, after the same look-up and so in the same time,
    because who has an account is nobody's business (ACCOUNT_PRIVACY).
    `admit` is called with the address's key before the database is asked, and may raise RateLimited. Raises
    Unavailable when the database does not answer, whatever the trouble: the client then shows no sign at all.
    """
    try:
        address = email_addresses.parse(text)
    except ValueError as error:
        _count("checked")
        return _perhaps_mistyped(Availability(False, str(error), "invalid_format"), text)
    admit(address.key)
    try:
        is_taken = look_up(_ACCOUNT, (address.key,)) is not None
    except SQLAlchemyError as error:
        log.warning("email_not_checked", kind=type(error).__name__)
        raise Unavailable from error
    if is_taken and not is_neutral:
        _count("checked", "taken")
        return Availability(False, "This address already has an account.", "already_exists")
    _count("checked")
    return _perhaps_mistyped(Availability(True, _WILL_DO if is_neutral else "This address is available."), text)


def count_refused() -> None:
    """Count a check that was turned away because somebody asks too often."""
    _count("refused")


def record_checks(is_last: bool = False) -> None:
    """Record the last minute's checks as one event, or what there is where it `is_last`; each_second calls it."""
    counts = checks.take(at_once=is_last)
    if counts is None:
        return
    try:
        record(events.EMAIL_CHECKS, actor=None, details=counts)
        db.session.commit()
    except SQLAlchemyError as error:
        db.session.rollback()
        checks.put_back(counts)
        log.warning("email_checks_not_recorded", kind=type(error).__name__, **counts)


def _perhaps_mistyped(found: Availability, text: str) -> Availability:
    """Add the question whether something else was meant, where the address looks like it."""
    meant = email_addresses.suggestion(text)
    if meant is None:
        return found
    return replace(found, message=f"{found.message} Did you mean {meant}?", suggestion=meant)


def _count(*outcomes: str) -> None:
    checks.count(*outcomes)
    each_second.wake()
